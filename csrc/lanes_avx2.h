// Eight lanes: AVX2 and F16C.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace fastsolve {
namespace {

constexpr int kLanes = 8;
using F = __m256;
typedef std::int32_t I __attribute__((vector_size(32)));
typedef std::uint32_t U __attribute__((vector_size(32)));
typedef std::uint64_t Cells __attribute__((vector_size(32)));  // one Philox word of four counters, in the low halves

inline F splat(float v) { return _mm256_set1_ps(v); }
inline Cells cells(std::uint32_t v) { return (Cells)_mm256_set1_epi64x(v); }
inline F as_float(I v) { return (F)v; }
inline U as_bits(F v) { return (U)v; }
inline F to_float(I v) { return _mm256_cvtepi32_ps((__m256i)v); }
inline F square_root(F v) { return _mm256_sqrt_ps(v); }
inline F flip_sign(F v, U top_bit) { return _mm256_xor_ps(v, _mm256_and_ps((F)top_bit, _mm256_set1_ps(-0.0f))); }
// v < low ? low : v > high ? high : v
inline F clip(F v, F low, F high) {
  const F at_most = _mm256_blendv_ps(v, high, _mm256_cmp_ps(v, high, _CMP_GT_OQ));
  return _mm256_blendv_ps(at_most, low, _mm256_cmp_ps(v, low, _CMP_LT_OQ));
}
inline F choose_by_bit30(U bits, F set, F clear) { return _mm256_blendv_ps(clear, set, (F)(bits << 1)); }

inline Cells multiply_low(Cells a, Cells b) { return (Cells)_mm256_mul_epu32((__m256i)a, (__m256i)b); }
inline Cells exclusive_or(Cells a, Cells b, Cells c) { return a ^ b ^ c; }
// Counters are dealt to the cells so that unpacking the normals gives the groups in order.
inline Cells group_order() { return Cells{0, 2, 1, 3}; }
inline U pair(Cells low, Cells high) { return (U)_mm256_blend_epi32((__m256i)low, (__m256i)(high << 32), 0xAA); }
inline void store_interleaved(float* out, F x, F y) {
  _mm256_storeu_ps(out, _mm256_unpacklo_ps(x, y));
  _mm256_storeu_ps(out + 8, _mm256_unpackhi_ps(x, y));
}

inline __m256i first_lanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

struct Float32 {
  using Element = float;
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static F load_some(const float* p, int n) { return _mm256_maskload_ps(p, first_lanes(n)); }
  static void store(float* p, F v) { _mm256_storeu_ps(p, v); }
  static void store_some(float* p, F v, int n) { _mm256_maskstore_ps(p, first_lanes(n), v); }
};

struct Streamed : Float32 {
  static bool fits(const float* p) { return reinterpret_cast<std::uintptr_t>(p) % 32 == 0; }
  static void store(float* p, F v) { _mm256_stream_ps(p, v); }
};
inline void finish_streams() { _mm_sfence(); }

// AVX2 has no masks for 16-bit elements: the ends of a tensor go through memory.
template <class Type>
struct Halves {
  using Element = std::uint16_t;
  static F load(const Element* p) { return Type::widen(_mm_loadu_si128((const __m128i*)p)); }
  static void store(Element* p, F v) { _mm_storeu_si128((__m128i*)p, Type::narrow(v)); }
  static F load_some(const Element* p, int n) {
    Element padded[8] = {};
    std::memcpy(padded, p, n * sizeof(Element));
    return load(padded);
  }
  static void store_some(Element* p, F v, int n) {
    Element padded[8];
    store(padded, v);
    std::memcpy(p, padded, n * sizeof(Element));
  }
};

struct Bfloat16 : Halves<Bfloat16> {
  static F widen(__m128i v) { return (F)_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16); }
  static __m128i narrow(F v) {
    const U bits = as_bits(v), even = bits + (0x7FFFu + ((bits >> 16) & 1u));
    const U quiet = bits | 0x00400000u;
    const F rounded = _mm256_blendv_ps((F)even, (F)quiet, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i words = _mm256_srli_epi32((__m256i)rounded, 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  }
};

struct Float16 : Halves<Float16> {
  static F widen(__m128i v) { return _mm256_cvtph_ps(v); }
  static __m128i narrow(F v) { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
};

}  // namespace
}  // namespace fastsolve
