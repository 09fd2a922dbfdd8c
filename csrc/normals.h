// Philox4x32-10 and Box-Muller: fastsolve/philox.py, its definition, in lanes. About 4 instructions per normal in 16 lanes.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels.h"
#include "lanes.h"

namespace fastsolve {
namespace {

// x = r cos(a), y = r sin(a) with r = sqrt(-2 log u). Three rearrangements of the definition, exact because they only move
// powers of two: 2^23 u instead of u, -2 log u instead of log u, and the rest of the turn taken as 4 * rest by a shift.
inline void box_muller(U first, U second, F& x, F& y) {
  constexpr std::int32_t kSqrtHalf = 0x3F3504F3;
  const I bits = (I)as_bits(to_float((I)(first >> 9)) + 0.5f) - (kSqrtHalf + (23 << 23));
  const F e = to_float(bits >> 23);
  const F f = as_float((bits & 0x007FFFFF) + kSqrtHalf) - 1.0f;
  const F square = f * f;
  F p = f * (-2 * 7.0376836292e-2f) + (-2 * -1.1514610310e-1f);
  p = p * f + (-2 * 1.1676998740e-1f);
  p = p * f + (-2 * -1.2420140846e-1f);
  p = p * f + (-2 * 1.4249322787e-1f);
  p = p * f + (-2 * -1.6668057665e-1f);
  p = p * f + (-2 * 2.0000714765e-1f);
  p = p * f + (-2 * -2.4999993993e-1f);
  p = p * f + (-2 * 3.3333331174e-1f);
  const F tail = ((p * f) * square + e * (-2 * -2.12194440e-4f)) + square;
  const F r = square_root((f * -2.0f + tail) + e * (-2 * 0.693359375f));

  const F a = to_float((I)(second << 2)) * (static_cast<float>(1.5707963267948966 / (1 << 30)) / 4);
  const F w = a * a;
  const F sin = ((w * -1.9515295891e-4f + 8.3321608736e-3f) * w + -1.6666654611e-1f) * w * a + a;
  const F cos = ((w * 2.443315711809948e-5f + -1.388731625493765e-3f) * w + 4.166664568298827e-2f) * (w * w) - w * 0.5f + 1.0f;
  const U turn = second + (1u << 29);  // bits 31 and 30: the nearest quarter
  x = flip_sign(r * choose_by_bit30(turn, sin, cos), turn + (1u << 30));
  y = flip_sign(r * choose_by_bit30(turn, cos, sin), turn);
}

constexpr std::uint32_t kMultiply0 = 0xD2511F53, kMultiply1 = 0xCD9E8D57, kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
constexpr int kRounds = 10;

#ifdef FASTSOLVE_PORTABLE

// Groups in blocks, one simple loop after the other.
inline void fill_normals(float* out, std::int64_t count, std::uint64_t group, std::uint64_t seed, Draw draw) {
  constexpr int kBlock = 64;
  for (std::int64_t start = 0; start < count; start += 4 * kBlock, group += kBlock) {
    U words[4][kBlock];
    F values[4][kBlock];
    for (int i = 0; i < kBlock; ++i) {
      U c0 = static_cast<U>(group) + i, c1 = static_cast<U>(group >> 32), c2 = draw.number, c3 = draw.stream;
      U k0 = static_cast<U>(seed), k1 = static_cast<U>(seed >> 32);
#pragma GCC unroll 10
      for (int round = 0; round < kRounds; ++round, k0 += kWeyl0, k1 += kWeyl1) {
        const std::uint64_t p0 = static_cast<std::uint64_t>(c0) * kMultiply0, p1 = static_cast<std::uint64_t>(c2) * kMultiply1;
        c0 = static_cast<U>(p1 >> 32) ^ c1 ^ k0;
        c1 = static_cast<U>(p1);
        c2 = static_cast<U>(p0 >> 32) ^ c3 ^ k1;
        c3 = static_cast<U>(p0);
      }
      words[0][i] = c0;
      words[1][i] = c1;
      words[2][i] = c2;
      words[3][i] = c3;
    }
    for (int half = 0; half < 4; half += 2)
      for (int i = 0; i < kBlock; ++i) box_muller(words[half][i], words[half + 1][i], values[half][i], values[half + 1][i]);
    const bool whole = count - start >= 4 * kBlock;
    float rest[4 * kBlock];
    float* const to = whole ? out + start : rest;
    for (int i = 0; i < kBlock; ++i)
      for (int j = 0; j < 4; ++j) to[4 * i + j] = values[j][i];
    if (!whole) std::memcpy(out + start, rest, (count - start) * sizeof(float));
  }
}

#else

// A word of kLanes / 2 counters lies in the low halves of 64-bit cells: a product leaves the low word where the next round
// wants it and the high word one shift away, and what stands in the high halves never matters. Words 0 and 2 of a counter
// then share a cell, so Box-Muller runs on full vectors and x, y interleave into elements 4g ... 4g + 3.
// Four vectors abreast, because one round waits for the one before (EPYC Zen 4, 2026-11: 1.35 G normals/s, one abreast 1.24).
constexpr int kAbreast = 4;

inline void philox(U* first, U* second, Cells group, std::uint32_t group_high, std::uint64_t seed, Draw draw) {
  const Cells m0 = cells(kMultiply0), m1 = cells(kMultiply1);
  std::uint32_t k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
  Cells c0[kAbreast], c1[kAbreast], c2[kAbreast], c3[kAbreast];
#pragma GCC unroll 4
  for (int j = 0; j < kAbreast; ++j) {
    c0[j] = group + static_cast<std::uint64_t>(j * kLanes / 2);
    c1[j] = cells(group_high);
    c2[j] = cells(draw.number);
    c3[j] = cells(draw.stream);
  }
#pragma GCC unroll 10
  for (int round = 0; round < kRounds; ++round, k0 += kWeyl0, k1 += kWeyl1) {
#pragma GCC unroll 4
    for (int j = 0; j < kAbreast; ++j) {
      const Cells p0 = multiply_low(c0[j], m0), p1 = multiply_low(c2[j], m1);
      c0[j] = exclusive_or(p1 >> 32, c1[j], cells(k0));
      c1[j] = p1;
      c2[j] = exclusive_or(p0 >> 32, c3[j], cells(k1));
      c3[j] = p0;
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < kAbreast; ++j) {
    first[j] = pair(c0[j], c2[j]);
    second[j] = pair(c1[j], c3[j]);
  }
}

// The words of all groups first: with Philox and Box-Muller in one loop, fewer steps of it fit into the CPU's window (1.02 G/s).
inline void fill_normals(float* out, std::int64_t count, std::uint64_t group, std::uint64_t seed, Draw draw) {
  constexpr int kStep = 2 * kLanes;
  U first[kTile / kStep], second[kTile / kStep];
  Cells start = cells(static_cast<std::uint32_t>(group)) + group_order();
  for (int i = 0; i * kStep < count; i += kAbreast, start += kAbreast * kLanes / 2)
    philox(first + i, second + i, start, static_cast<std::uint32_t>(group >> 32), seed, draw);
  const int whole = static_cast<int>(count / kStep);
  F x, y;
  for (int i = 0; i < whole; ++i) {
    box_muller(first[i], second[i], x, y);
    store_interleaved(out + i * kStep, x, y);
  }
  if (whole * kStep < count) {
    float rest[kStep];
    box_muller(first[whole], second[whole], x, y);
    store_interleaved(rest, x, y);
    std::memcpy(out + whole * kStep, rest, (count - whole * kStep) * sizeof(float));
  }
}

#endif

}  // namespace
}  // namespace fastsolve
