// One lane: plain C++ for any CPU. Loops over it have no branches, so that the compiler may vectorise them.
#pragma once

#include <cstdint>
#include <cstring>

namespace fastsolve {
namespace {

constexpr int kLanes = 1;
using F = float;
using I = std::int32_t;
using U = std::uint32_t;

inline F splat(float v) { return v; }
inline F as_float(I v) {
  F out;
  std::memcpy(&out, &v, sizeof out);
  return out;
}
inline U as_bits(F v) {
  U out;
  std::memcpy(&out, &v, sizeof out);
  return out;
}
inline F to_float(I v) { return static_cast<float>(v); }
inline F square_root(F v) { return __builtin_sqrtf(v); }
inline F flip_sign(F v, U top_bit) { return as_float(static_cast<I>(as_bits(v) ^ (top_bit & 0x80000000u))); }
inline F clip(F v, F low, F high) { return v < low ? low : v > high ? high : v; }
inline F choose_by_bit30(U bits, F set, F clear) {
  const U mask = 0u - (bits >> 30 & 1u);
  return as_float(static_cast<I>((as_bits(set) & mask) | (as_bits(clear) & ~mask)));
}

struct Float32 {
  using Element = float;
  static F load(const float* p) { return *p; }
  static F load_some(const float* p, int) { return *p; }
  static void store(float* p, F v) { *p = v; }
  static void store_some(float* p, F v, int) { *p = v; }
};

struct Streamed : Float32 {
  static bool fits(const float*) { return false; }
};
inline void finish_streams() {}

template <class Type>
struct Halves {
  using Element = std::uint16_t;
  static F load(const Element* p) { return Type::widen(*p); }
  static F load_some(const Element* p, int) { return Type::widen(*p); }
  static void store(Element* p, F v) { *p = static_cast<Element>(Type::narrow(as_bits(v))); }
  static void store_some(Element* p, F v, int) { store(p, v); }
};

struct Bfloat16 : Halves<Bfloat16> {
  static F widen(U half) { return as_float(static_cast<I>(half << 16)); }
  static U narrow(U bits) {
    const U even = bits + (0x7FFFu + ((bits >> 16) & 1u)), quiet = bits | 0x00400000u;
    return ((bits & 0x7FFFFFFFu) > 0x7F800000u ? quiet : even) >> 16;
  }
};

// The same bits as F16C, with which the other instruction sets convert.
struct Float16 : Halves<Float16> {
  static F widen(U half) {
    const U magnitude = (half & 0x7FFFu) << 13, exponent = magnitude & 0x0F800000u;
    const U normal = magnitude + (112u << 23);
    const U special = (magnitude + (224u << 23)) | (magnitude > 0x0F800000u ? 0x00400000u : 0u);  // infinity, quiet NaN
    const U subnormal = as_bits(as_float(static_cast<I>(magnitude + (113u << 23))) - 0x1p-14f);   // exact
    const U chosen = exponent == 0x0F800000u ? special : exponent == 0 ? subnormal : normal;
    return as_float(static_cast<I>(chosen | (half & 0x8000u) << 16));
  }
  static U narrow(U bits) {
    const U magnitude = bits & 0x7FFFFFFFu;
    const U nan = 0x7E00u | ((magnitude >> 13) & 0x3FFu);
    const U normal = (magnitude - (112u << 23) + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13;
    const U subnormal = as_bits(as_float(static_cast<I>(magnitude)) + 0.5f) - 0x3F000000u;  // the addition rounds
    const U finite = magnitude < (113u << 23) ? subnormal : normal;
    const U chosen = magnitude > 0x7F800000u ? nan : magnitude >= (143u << 23) ? 0x7C00u : finite;
    return chosen | (bits >> 16 & 0x8000u);
  }
};

}  // namespace
}  // namespace fastsolve
