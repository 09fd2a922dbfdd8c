// The types of 16 bits and their roundings, by the bits as csrc/ has them.
#pragma once

#include "../../csrc/lanes_portable.h"
#include "cuda_runtime.h"

struct __half {
  unsigned short bits;
};
struct __half2 {
  __half x, y;
};
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
inline unsigned short __half_as_ushort(__half h) { return h.bits; }
inline float __half2float(__half h) { return fastsolve::Float16::widen(h.bits); }
inline __half narrowed_to_half(float a) {
  return {static_cast<unsigned short>(fastsolve::Float16::narrow(__float_as_uint(a)))};
}
inline __half2 __floats2half2_rn(float a, float b) { return {narrowed_to_half(a), narrowed_to_half(b)}; }
