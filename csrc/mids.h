// The mids of an update over one tile: sums, as those of rows, and what is made of them.
#pragma once

#include "rows.h"

namespace fastsolve {
namespace {

// A tile is as good as whole: what lies behind its end is scratch, and the sources alone end there.
template <class Op>
void each_vector(float* tile, std::int64_t count, const Op& op) {
  FASTSOLVE_ELEMENTWISE
  for (std::int64_t i = 0; i < count; i += kLanes) {
    const int rest = count - i < kLanes ? static_cast<int>(count - i) : kLanes;
    const auto load = [&](const float* v) { return rest == kLanes ? Float32::load(v + i) : Float32::load_some(v + i, rest); };
    Float32::store(tile + i, op(Float32::load(tile + i), load));
  }
}

inline void compute_mid(float* tile, std::int64_t count, const Mid& mid, std::int64_t ahead, const float* const* views) {
  Row sum = mid.sum;
  sum.coefficients += ahead;
  compute_row(tile, count, sum, views);
  const float* own = sum.coefficients + sum.count;
  if (mid.blends) {
    const F one = splat(1.0f), c = splat(own[0]);
    const float *mask = views[mid.mask], *known = views[mid.known];
    each_vector(tile, count, [=](F v, const auto& load) {
      const F m = load(mask);
      return (one - m) * v + m * (c * load(known));
    });
  } else {
    const F low = splat(own[0]), high = splat(own[1]);
    each_vector(tile, count, [=](F v, const auto&) { return clip(v, low, high); });
  }
}

}  // namespace
}  // namespace fastsolve
