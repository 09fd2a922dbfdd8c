// What a kernel is given and what it offers: the border between the program (program.cpp) and kernels.cpp, which
// is compiled once per instruction set. Plain data only: an inline function here would be emitted by every one of those
// compilations under one name, the linker would keep any of them, and an old CPU could meet AVX-512 code.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace fastsolve {

// Elements worked on at a time, so that normals and converted inputs stay in L1. A multiple of 4 * every vector width, so a
// tile starts on a Philox group and holds whole vectors; a power of two, so the 32-bit group counter never wraps inside one.
constexpr std::int64_t kTile = 1024;

struct Source {
  const void* data;  // [batch, size]
  DType dtype;
};

struct Draw {
  std::uint32_t stream, number;
};

enum class Store {
  at_once,
  held,      // a later row still reads what lies at `out`: write when the tile's rows are all computed (float32 only)
  streamed,  // past the caches (float32 only)
};

// coefficients[0] * v[terms[0]] + coefficients[1] * v[terms[1]] + ..., each product and each sum rounded to float32.
struct Row {
  void* out;  // [batch, size]
  DType dtype;
  int count;
  const int* terms;  // positions: the sources, the draws, then the mids
  const float* coefficients;  // of the first sample
  Store store;
};

// A value that later mids and rows read. Of its sum s, with c what stands behind the coefficients of s:
// clip: s < c[0] ? c[0] : s > c[1] ? c[1] : s, so that NaN stays; blend: (1 - v[mask]) * s + v[mask] * (c[0] * v[known]).
struct Mid {
  Row sum;  // to a tile of its own
  bool blends;
  int mask, known;
};

struct Update {
  const Source* sources;
  const Draw* draws;
  const Mid* mids;
  const Row* rows;
  int source_count, draw_count, mid_count, row_count;
  std::int64_t stride;         // from the coefficients of a sample to those of the next; 0: all have the same
  const std::uint64_t* seeds;  // [batch]
  std::int64_t size;           // elements per sample
};

struct Scratch {
  float* tiles;         // kTile floats for each converted source, draw, mid and held row, 64-byte aligned
  const float** views;  // one for each source, draw and mid
};

struct Kernels {
  // Normals of elements 4 * group ... of one sample. `group` is a multiple of kTile / 4 and count <= kTile.
  void (*normals)(float* out, std::int64_t count, std::uint64_t group, std::uint64_t seed, Draw draw);
  // Tiles first ... last - 1 of an update; tile t is part t % n of sample t / n, with n = ceil(size / kTile).
  void (*update)(const Update& update, std::int64_t first, std::int64_t last, const Scratch& scratch);
};

namespace portable {
extern const Kernels kernels;
}
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}

}  // namespace fastsolve
