#include "variants.cuh"

namespace fastsolve::cuda {

Variant full_float32_variant(int sources, int draws) { return full_variant<false>(sources, draws); }

}  // namespace fastsolve::cuda
