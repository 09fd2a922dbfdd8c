// The table of compiled kernels of one kind of tensors: the patterns of nearly all steps have one of their own.
#pragma once

#include "launch.h"
#include "update.cuh"

namespace fastsolve::cuda {

template <int kSources, int kDraws, bool kMixed, bool kFull>
constexpr Variant variant() {
  return {update<kSources, kDraws, kMixed, kFull>, kSources, kDraws, kGroups<kSources, kDraws>};
}

template <bool kMixed>
Variant full_variant(int sources, int draws) {
  static constexpr Variant kernels[2][7] = {
      {{}, variant<1, 0, kMixed, true>(), variant<2, 0, kMixed, true>(), variant<3, 0, kMixed, true>(),
       variant<4, 0, kMixed, true>(), variant<5, 0, kMixed, true>(), variant<6, 0, kMixed, true>()},
      {variant<0, 1, kMixed, true>(), variant<1, 1, kMixed, true>(), variant<2, 1, kMixed, true>(),
       variant<3, 1, kMixed, true>(), variant<4, 1, kMixed, true>()},
  };
  return sources <= 6 && draws <= 1 ? kernels[draws][sources] : Variant{};
}

Variant full_float32_variant(int sources, int draws);
Variant full_mixed_variant(int sources, int draws);

}  // namespace fastsolve::cuda
