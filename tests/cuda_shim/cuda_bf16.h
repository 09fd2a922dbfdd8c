// The types of 16 bits and their roundings, by the bits as csrc/ has them.
#pragma once

#include "../../csrc/lanes_portable.h"
#include "cuda_runtime.h"

struct __nv_bfloat16 {
  unsigned short bits;
};
struct __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 b) { return b.bits; }
inline __nv_bfloat16 narrowed_to_bfloat16(float a) {
  return {static_cast<unsigned short>(fastsolve::Bfloat16::narrow(__float_as_uint(a)))};
}
inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b) { return {narrowed_to_bfloat16(a), narrowed_to_bfloat16(b)}; }
