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

constexpr int kMostSources = 64, kMostDraws = 64, kMostRows = 8, kMostTerms = 512;

struct GeneralRow {
  void* out;
  int offset, first, count;  // of the coefficients in the table, of the terms, and how many they are
  DType dtype;
};

// Any rows. A term below source_count is a source, any other a draw.
struct GeneralUpdate {
  const void* sources[kMostSources];
  GeneralRow rows[kMostRows];
  const float* table;
  const Draw* draws;  // those of this update
  const std::uint64_t* seeds;
  std::int64_t size, elements;  // per sample, and in all
  int source_count, row_count;
  std::uint8_t terms[kMostTerms], dtypes[kMostSources];
};

}  // namespace fastsolve::cuda
