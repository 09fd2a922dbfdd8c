// The rows of an update over one tile. Bytes per element: those of every source once, and of every out.
#pragma once

#include "kernels.h"
#include "lanes.h"

namespace fastsolve {
namespace {

// An out may be one of its own sources (equal pointers), so the loops only promise that different elements are apart.
#ifdef FASTSOLVE_PORTABLE
#ifdef __clang__
#define FASTSOLVE_ELEMENTWISE _Pragma("clang loop vectorize(assume_safety)")
#else
#define FASTSOLVE_ELEMENTWISE _Pragma("GCC ivdep")
#endif
#else
#define FASTSOLVE_ELEMENTWISE
#endif

// Vectors of one source taken together. One by one, a store can hold up the next load of a source that lies a multiple of
// 4 KiB and one line away (EPYC Zen 4, 2026-11, AVX-512, 4 sources of 16 k elements so placed: 6.1 us, by fours 4.2 us).
constexpr int kAtOnce = kLanes == 1 ? 1 : 4;

template <int kTerms>
struct Terms {
  const float* values[kTerms];
  F coefficients[kTerms];

  // kVectors vectors from element i on, term by term.
  template <class Out, int kVectors>
  void write(typename Out::Element* out, std::int64_t i) const {
    F total[kVectors];
#pragma GCC unroll 4
    for (int k = 0; k < kVectors; ++k) total[k] = coefficients[0] * Float32::load(values[0] + i + k * kLanes);
#pragma GCC unroll 8
    for (int j = 1; j < kTerms; ++j)
#pragma GCC unroll 4
      for (int k = 0; k < kVectors; ++k) total[k] = total[k] + coefficients[j] * Float32::load(values[j] + i + k * kLanes);
#pragma GCC unroll 4
    for (int k = 0; k < kVectors; ++k) Out::store(out + i + k * kLanes, total[k]);
  }

  template <class Out>
  void write_some(typename Out::Element* out, std::int64_t i, int n) const {
    F total = coefficients[0] * Float32::load_some(values[0] + i, n);
#pragma GCC unroll 8
    for (int j = 1; j < kTerms; ++j) total = total + coefficients[j] * Float32::load_some(values[j] + i, n);
    Out::store_some(out + i, total, n);
  }
};

template <class Out, int kTerms>
void row(void* out_bytes, std::int64_t count, const Row& row, const float* const* views) {
  auto* out = static_cast<typename Out::Element*>(out_bytes);
  Terms<kTerms> terms;
  for (int j = 0; j < kTerms; ++j) {
    terms.values[j] = views[row.terms[j]];
    terms.coefficients[j] = splat(row.coefficients[j]);
  }
  std::int64_t i = 0;
  FASTSOLVE_ELEMENTWISE
  for (; i <= count - kAtOnce * kLanes; i += kAtOnce * kLanes) terms.template write<Out, kAtOnce>(out, i);
  if constexpr (kAtOnce > 1)
    for (; i <= count - kLanes; i += kLanes) terms.template write<Out, 1>(out, i);
  if (i < count) terms.template write_some<Out>(out, i, static_cast<int>(count - i));
}

template <class Out>
void long_row(void* out_bytes, std::int64_t count, const Row& row, const float* const* views) {
  auto* out = static_cast<typename Out::Element*>(out_bytes);
  for (std::int64_t i = 0; i < count; i += kLanes) {
    const int rest = count - i < kLanes ? static_cast<int>(count - i) : kLanes;
    const auto term = [&](int j) {
      const float* v = views[row.terms[j]] + i;
      return splat(row.coefficients[j]) * (rest == kLanes ? Float32::load(v) : Float32::load_some(v, rest));
    };
    F total = term(0);
    for (int j = 1; j < row.count; ++j) total = total + term(j);
    rest == kLanes ? Out::store(out + i, total) : Out::store_some(out + i, total, rest);
  }
}

using RowKernel = void (*)(void*, std::int64_t, const Row&, const float* const*);

template <class Out>
RowKernel choose_row(int terms) {
  constexpr RowKernel kernels[] = {row<Out, 1>, row<Out, 2>, row<Out, 3>, row<Out, 4>,
                                   row<Out, 5>, row<Out, 6>, row<Out, 7>, row<Out, 8>};
  return terms <= 8 ? kernels[terms - 1] : long_row<Out>;
}

inline void compute_row(void* out, std::int64_t count, const Row& row, const float* const* views) {
  const bool streamed = row.store == Store::streamed && Streamed::fits(static_cast<float*>(out));
  const RowKernel kernel = streamed                       ? choose_row<Streamed>(row.count)
                           : row.dtype == DType::float32  ? choose_row<Float32>(row.count)
                           : row.dtype == DType::bfloat16 ? choose_row<Bfloat16>(row.count)
                                                          : choose_row<Float16>(row.count);
  kernel(out, count, row, views);
}

template <class In>
void widen(float* out, const void* in_bytes, std::int64_t count) {
  const auto* in = static_cast<const typename In::Element*>(in_bytes);
  const std::int64_t whole = count - count % kLanes;
  FASTSOLVE_ELEMENTWISE
  for (std::int64_t i = 0; i < whole; i += kLanes) Float32::store(out + i, In::load(in + i));
  if (const int rest = static_cast<int>(count - whole))
    Float32::store_some(out + whole, In::load_some(in + whole, rest), rest);
}

}  // namespace
}  // namespace fastsolve
