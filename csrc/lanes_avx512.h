// Sixteen lanes: AVX-512 F, DQ, BW, VL.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace fastsolve {
namespace {

constexpr int kLanes = 16;
using F = __m512;
typedef std::int32_t I __attribute__((vector_size(64)));
typedef std::uint32_t U __attribute__((vector_size(64)));
typedef std::uint64_t Cells __attribute__((vector_size(64)));  // one Philox word of eight counters, in the low halves

inline F splat(float v) { return _mm512_set1_ps(v); }
inline Cells cells(std::uint32_t v) { return (Cells)_mm512_set1_epi64(v); }
inline F as_float(I v) { return (F)v; }
inline U as_bits(F v) { return (U)v; }
inline F to_float(I v) { return _mm512_cvtepi32_ps((__m512i)v); }
inline F square_root(F v) { return _mm512_sqrt_ps(v); }
inline F flip_sign(F v, U top_bit) {
  return (F)_mm512_ternarylogic_epi32((__m512i)v, (__m512i)top_bit, _mm512_set1_epi32(INT32_MIN), 0x78);  // v ^ (b & top)
}
// v < low ? low : v > high ? high : v
inline F clip(F v, F low, F high) {
  const F at_most = _mm512_mask_mov_ps(v, _mm512_cmp_ps_mask(v, high, _CMP_GT_OQ), high);
  return _mm512_mask_mov_ps(at_most, _mm512_cmp_ps_mask(v, low, _CMP_LT_OQ), low);
}
inline F choose_by_bit30(U bits, F set, F clear) {
  return _mm512_mask_blend_ps(_mm512_test_epi32_mask((__m512i)bits, _mm512_set1_epi32(1 << 30)), clear, set);
}

inline Cells multiply_low(Cells a, Cells b) { return (Cells)_mm512_mul_epu32((__m512i)a, (__m512i)b); }
inline Cells exclusive_or(Cells a, Cells b, Cells c) {
  return (Cells)_mm512_ternarylogic_epi64((__m512i)a, (__m512i)b, (__m512i)c, 0x96);
}
// Counters are dealt to the cells so that unpacking the normals gives the groups in order.
inline Cells group_order() { return Cells{0, 4, 1, 5, 2, 6, 3, 7}; }
inline U pair(Cells low, Cells high) {
  return (U)_mm512_mask_shuffle_epi32((__m512i)low, 0xAAAA, (__m512i)high, _MM_PERM_CCAA);
}
inline void store_interleaved(float* out, F x, F y) {
  _mm512_storeu_ps(out, _mm512_unpacklo_ps(x, y));
  _mm512_storeu_ps(out + 16, _mm512_unpackhi_ps(x, y));
}

inline __mmask16 first_lanes(int n) { return (__mmask16)((1u << n) - 1); }

struct Float32 {
  using Element = float;
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static F load_some(const float* p, int n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
  static void store(float* p, F v) { _mm512_storeu_ps(p, v); }
  static void store_some(float* p, F v, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), v); }
};

struct Streamed : Float32 {
  static bool fits(const float* p) { return reinterpret_cast<std::uintptr_t>(p) % 64 == 0; }
  static void store(float* p, F v) { _mm512_stream_ps(p, v); }
};
inline void finish_streams() { _mm_sfence(); }

struct Bfloat16 {
  using Element = std::uint16_t;
  static F load(const Element* p) { return widen(_mm256_loadu_si256((const __m256i*)p)); }
  static F load_some(const Element* p, int n) { return widen(_mm256_maskz_loadu_epi16(first_lanes(n), p)); }
  static void store(Element* p, F v) { _mm256_storeu_si256((__m256i*)p, narrow(v)); }
  static void store_some(Element* p, F v, int n) { _mm256_mask_storeu_epi16(p, first_lanes(n), narrow(v)); }

 private:
  static F widen(__m256i v) { return (F)_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16); }
  // Not vcvtneps2bf16: it flushes subnormal inputs to zero.
  static __m256i narrow(F v) {
    const U bits = as_bits(v), even = bits + (0x7FFFu + ((bits >> 16) & 1u));
    const U quiet = bits | 0x00400000u;
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_blend_epi32(nan, (__m512i)even, (__m512i)quiet), 16));
  }
};

struct Float16 {
  using Element = std::uint16_t;
  static F load(const Element* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
  static F load_some(const Element* p, int n) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(n), p)); }
  static void store(Element* p, F v) { _mm256_storeu_si256((__m256i*)p, narrow(v)); }
  static void store_some(Element* p, F v, int n) { _mm256_mask_storeu_epi16(p, first_lanes(n), narrow(v)); }

 private:
  static __m256i narrow(F v) { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
};

}  // namespace
}  // namespace fastsolve
