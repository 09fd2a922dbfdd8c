// The types of tensors, numbered as Python gives them. No function here: see kernels.h.
#pragma once

namespace fastsolve {

enum class DType : int { float32 = 0, bfloat16 = 1, float16 = 2 };

}  // namespace fastsolve
