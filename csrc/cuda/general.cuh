// Updates that update.cuh has no registers or no order for: any number of terms, in any order, one element to a thread.
//
// Bytes per element: sizeof(source) for every term, of which those after the first of a source come from a cache. A draw is
// computed for every term that names it.
#pragma once

#include "elements.cuh"
#include "normals.cuh"
#include "tile.h"
#include "update.h"

namespace fastsolve::cuda {

__device__ inline float general_term(const GeneralUpdate& u, int term, std::int64_t at) {
  if (term < u.source_count) return read_one(u.sources[term], at, static_cast<DType>(u.dtypes[term]));
  const std::int64_t sample = at / u.size;
  return element_normal(__ldg(u.seeds + sample), at - sample * u.size, load_draw(u.draws + (term - u.source_count)));
}

__device__ inline float general_sum(const GeneralUpdate& u, const GeneralRow& row, std::int64_t at) {
  float total = -0.0f;
#pragma unroll 1
  for (int j = 0; j < row.count; ++j)
    total = add(total, mul(__ldg(u.table + row.offset + j), general_term(u, u.terms[row.first + j], at)));
  return total;
}

// Every row is summed before the first is written, because an out may be a source. The sums wait in a queue of registers, which
// have no index at run time.
__global__ void __launch_bounds__(kThreads) general_update(const __grid_constant__ GeneralUpdate u) {
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= u.elements) return;
  float sums[kMostRows];
  const auto push = [&sums](float sum) {
#pragma unroll
    for (int r = 0; r < kMostRows - 1; ++r) sums[r] = sums[r + 1];
    sums[kMostRows - 1] = sum;
  };
#pragma unroll 1
  for (int r = 0; r < kMostRows; ++r) push(r < u.row_count ? general_sum(u, u.rows[r], at) : 0.0f);
#pragma unroll 1
  for (int r = 0; r < u.row_count; ++r) {
    write_one(u.rows[r].out, at, sums[0], u.rows[r].dtype);
    push(0.0f);
  }
}

}  // namespace fastsolve::cuda
