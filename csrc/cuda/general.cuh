// Updates that update.cuh has no registers or no order for: any number of terms, in any order, mids, coefficients of each sample's
// own; one element to a thread.
//
// Bytes per element: sizeof(source) for every term, of which those after the first of a source come from a cache. A draw is
// computed for every term that names it.
#pragma once

#include "elements.cuh"
#include "normals.cuh"
#include "tile.h"
#include "update.h"

namespace fastsolve::cuda {

// The mids and rows of one element, in registers, which have no index at run time: all are gone through to find one.
class General {
 public:
  __device__ General(const GeneralUpdate& update, std::int64_t element)
      : u(update), at(element), table(update.stride ? update.table + element / update.size * update.stride : update.table) {}

  // Every row is summed before the first is written, because an out may be a source.
  __device__ void run() {
#pragma unroll 1
    for (int i = 0; i < u.mid_count + u.row_count; ++i) {
      const GeneralSum& of = u.sums[i];
      float value = sum(of);
      if (i < u.mid_count) value = mid(u.mids[i], value, table + of.offset + of.count);
#pragma unroll
      for (int v = 0; v < kMost; ++v) values[v] = v == i ? value : values[v];
    }
#pragma unroll 1
    for (int r = 0; r < u.row_count; ++r) write_one(u.rows[r].out, at, value_of(u.mid_count + r), u.rows[r].dtype);
  }

 private:
  static constexpr int kMost = kMostMids + kMostRows;

  __device__ float value_of(int number) const {
    float found = 0.0f;
#pragma unroll
    for (int v = 0; v < kMost; ++v) found = v == number ? values[v] : found;
    return found;
  }

  __device__ float source(int number) const { return read_one(u.sources[number], at, static_cast<DType>(u.dtypes[number])); }

  __device__ float term(int number) const {
    if (number < u.source_count) return source(number);
    const int draw = number - u.source_count;
    if (draw >= u.draw_count) return value_of(draw - u.draw_count);
    const std::int64_t sample = at / u.size;
    return element_normal(__ldg(u.seeds + sample), at - sample * u.size, load_draw(u.draws + draw));
  }

  __device__ float sum(const GeneralSum& of) const {
    float total = -0.0f;
#pragma unroll 1
    for (int j = 0; j < of.count; ++j) total = add(total, mul(__ldg(table + of.offset + j), term(u.terms[of.first + j])));
    return total;
  }

  __device__ float mid(const GeneralMid& of, float total, const float* own) const {
    if (of.mask < 0) {
      const float low = __ldg(own), high = __ldg(own + 1);
      return total < low ? low : total > high ? high : total;
    }
    const float mask = source(of.mask), known = mul(__ldg(own), source(of.known));
    return add(mul(add(1.0f, -mask), total), mul(mask, known));
  }

  const GeneralUpdate& u;
  const std::int64_t at;
  const float* const table;  // of the element's sample
  float values[kMost] = {};
};

__global__ void __launch_bounds__(kThreads) general_update(const __grid_constant__ GeneralUpdate u) {
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at < u.elements) General(u, at).run();
}

}  // namespace fastsolve::cuda
