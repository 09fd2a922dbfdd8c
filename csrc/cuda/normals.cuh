// Philox4x32-10 and Box-Muller on the device: fastsolve/philox.py, its definition, one group of four elements to a thread.
// About 66 instructions per normal (sm_90). Only operations that IEEE-754 rounds correctly, spelled so that no compiler flag can
// fuse them.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "update.h"

namespace fastsolve::cuda {

__device__ inline float mul(float a, float b) { return __fmul_rn(a, b); }
__device__ inline float add(float a, float b) { return __fadd_rn(a, b); }
__device__ inline float mul_add(float a, float b, float c) { return add(mul(a, b), c); }

__device__ inline float flip_sign(float v, std::uint32_t top_bit) {
  return __uint_as_float(__float_as_uint(v) ^ (top_bit & 0x80000000u));
}

__device__ inline float choose(std::uint32_t mask, float set, float clear) {
  return __uint_as_float((__float_as_uint(set) & mask) | (__float_as_uint(clear) & ~mask));
}

// x = r cos(a), y = r sin(a) with r = sqrt(-2 log u), with the exact rearrangements of ../normals.h: 2^23 u instead of u,
// -2 log u instead of log u, and the rest of the turn taken as 4 * rest by a shift.
__device__ inline void box_muller(std::uint32_t first, std::uint32_t second, float& x, float& y) {
  constexpr std::int32_t kSqrtHalf = 0x3F3504F3;
  const std::int32_t bits =
      __float_as_int(add(static_cast<float>(static_cast<std::int32_t>(first >> 9)), 0.5f)) - (kSqrtHalf + (23 << 23));
  const float e = static_cast<float>(bits >> 23);
  const float f = add(__int_as_float((bits & 0x007FFFFF) + kSqrtHalf), -1.0f);
  const float square = mul(f, f);
  float p = mul_add(f, -2 * 7.0376836292e-2f, -2 * -1.1514610310e-1f);
  p = mul_add(p, f, -2 * 1.1676998740e-1f);
  p = mul_add(p, f, -2 * -1.2420140846e-1f);
  p = mul_add(p, f, -2 * 1.4249322787e-1f);
  p = mul_add(p, f, -2 * -1.6668057665e-1f);
  p = mul_add(p, f, -2 * 2.0000714765e-1f);
  p = mul_add(p, f, -2 * -2.4999993993e-1f);
  p = mul_add(p, f, -2 * 3.3333331174e-1f);
  const float tail = add(mul_add(mul(p, f), square, mul(e, -2 * -2.12194440e-4f)), square);
  const float r = __fsqrt_rn(add(mul_add(f, -2.0f, tail), mul(e, -2 * 0.693359375f)));

  const float a = mul(static_cast<float>(static_cast<std::int32_t>(second << 2)),
                      static_cast<float>(1.5707963267948966 / (1 << 30)) / 4);
  const float w = mul(a, a);
  const float sin_poly = mul_add(mul_add(w, -1.9515295891e-4f, 8.3321608736e-3f), w, -1.6666654611e-1f);
  const float sin = mul_add(mul(sin_poly, w), a, a);
  const float cos_poly = mul_add(mul_add(w, 2.443315711809948e-5f, -1.388731625493765e-3f), w, 4.166664568298827e-2f);
  const float cos = add(mul_add(cos_poly, mul(w, w), mul(w, -0.5f)), 1.0f);
  const std::uint32_t turn = second + (1u << 29);  // bits 31 and 30: the nearest quarter
  // A mask, because a test of bit 30 is compiled to three instructions.
  const std::uint32_t odd = static_cast<std::uint32_t>(static_cast<std::int32_t>(turn << 1) >> 31);
  x = flip_sign(mul(r, choose(odd, sin, cos)), turn + (1u << 30));
  y = flip_sign(mul(r, choose(odd, cos, sin)), turn);
}

struct Product {
  std::uint32_t low, high;
};

// One instruction: a shift by 32 costs one more, and __umulhi a second multiplication.
__device__ inline Product product(std::uint32_t a, std::uint32_t b) {
  const double bits = __longlong_as_double(static_cast<long long>(static_cast<std::uint64_t>(a) * b));
  return {static_cast<std::uint32_t>(__double2loint(bits)), static_cast<std::uint32_t>(__double2hiint(bits))};
}

// Eight bytes at once; an array of draws starts where its allocation does.
__device__ inline Draw load_draw(const Draw* draw) {
  const uint2 words = __ldg(reinterpret_cast<const uint2*>(draw));
  return {words.x, words.y};
}

struct Words {
  std::uint32_t w[4];
};

__device__ inline Words philox(std::uint64_t seed, std::uint64_t group, Draw draw) {
  std::uint32_t c0 = static_cast<std::uint32_t>(group), c1 = static_cast<std::uint32_t>(group >> 32);
  std::uint32_t c2 = draw.number, c3 = draw.stream;
  std::uint32_t k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const Product p0 = product(c0, 0xD2511F53), p1 = product(c2, 0xCD9E8D57);
    c0 = p1.high ^ c1 ^ k0;
    c1 = p1.low;
    c2 = p0.high ^ c3 ^ k1;
    c3 = p0.low;
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return {{c0, c1, c2, c3}};
}

// Elements 4 * group ... 4 * group + 3 of a sample.
__device__ inline void group_normals(float (&z)[4], std::uint64_t seed, std::uint64_t group, Draw draw) {
  const Words words = philox(seed, group, draw);
  box_muller(words.w[0], words.w[1], z[0], z[1]);
  box_muller(words.w[2], words.w[3], z[2], z[3]);
}

// One element: a whole Philox call for it, no order needed.
__device__ inline float element_normal(std::uint64_t seed, std::uint64_t element, Draw draw) {
  const Words words = philox(seed, element / 4, draw);
  float x, y;
  const bool late = element & 2;
  box_muller(late ? words.w[2] : words.w[0], late ? words.w[3] : words.w[1], x, y);
  return element & 1 ? y : x;
}

}  // namespace fastsolve::cuda
