// What the kernels are given, by value: plain data that the host writes once, but for pointers, which it renews at a launch.
// Coefficients, draws and seeds stay in device memory, so that a captured graph follows what is written there later.
#pragma once

#include <cstdint>

#include "../dtype.h"

namespace fastsolve::cuda {

constexpr int kMaxSources = 8, kMaxDraws = 3, kMaxRows = 4;

struct Draw {
  std::uint32_t stream, number;
};

struct Row {
  void* out;
  int at[kMaxSources + kMaxDraws];  // for each position its coefficient in the table; negative: no term of this row
  DType dtype;
};

// Rows whose terms stand in one order: each picks from the same positions, sources before draws, and sums in their order.
struct Update {
  const void* sources[kMaxSources];
  Row rows[kMaxRows];
  const float* table;
  const Draw* draws;
  const std::uint64_t* seeds;  // [batch]
  std::int64_t size;           // elements per sample
  std::uint32_t groups;        // of four elements, in all samples; the last of a sample may be cut short
  std::uint32_t whole;         // groups below this may be read and written as vectors
  std::uint32_t per_sample, multiplier, shift;  // groups per sample, and what divides by them
  int draw_at[kMaxDraws];                       // in the table of draws
  int source_count, draw_count, row_count;
  DType dtypes[kMaxSources];
};

constexpr int kMostSources = 64, kMostDraws = 64, kMostMids = 8, kMostRows = 8, kMostTerms = 512;

struct GeneralSum {
  int offset, first, count;  // of the coefficients in the table, of the terms, and how many they are
};

// Of its sum s, with c what stands behind the coefficients of s: clip: s < c[0] ? c[0] : s > c[1] ? c[1] : s, so that NaN
// stays; blend: (1 - v[mask]) * s + v[mask] * (c[0] * v[known]).
struct GeneralMid {
  int mask, known;  // sources; negative in a clip
};

struct GeneralRow {
  void* out;
  DType dtype;
};

// Any rows. Terms are sources, then draws, then mids.
struct GeneralUpdate {
  const void* sources[kMostSources];
  GeneralSum sums[kMostMids + kMostRows];  // of the mids, then of the rows
  GeneralMid mids[kMostMids];
  GeneralRow rows[kMostRows];
  const float* table;
  const Draw* draws;  // those of this update
  const std::uint64_t* seeds;
  std::int64_t size, elements;  // per sample, and in all
  std::int64_t stride;          // from the coefficients of a sample to those of the next; 0: all have the same
  int source_count, draw_count, mid_count, row_count;
  std::uint8_t terms[kMostTerms], dtypes[kMostSources];
};

}  // namespace fastsolve::cuda
