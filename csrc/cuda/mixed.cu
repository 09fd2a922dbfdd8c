#include "variants.cuh"

namespace fastsolve::cuda {

Variant full_mixed_variant(int sources, int draws) { return full_variant<true>(sources, draws); }

}  // namespace fastsolve::cuda
