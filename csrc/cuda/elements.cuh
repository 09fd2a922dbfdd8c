// Reading and writing four elements of a tensor, whole or cut short, and their types.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "../dtype.h"

namespace fastsolve::cuda {

using Half = unsigned short;  // the bits of a bfloat16 or a float16

__device__ inline float widen(std::uint32_t half, DType dtype) {
  if (dtype == DType::bfloat16) return __uint_as_float(half << 16);
  return __half2float(__ushort_as_half(static_cast<Half>(half)));
}

// To nearest even, `low` in the low half.
__device__ inline std::uint32_t narrow(float low, float high, DType dtype) {
  if (dtype == DType::bfloat16) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return __bfloat16_as_ushort(pair.x) | static_cast<std::uint32_t>(__bfloat16_as_ushort(pair.y)) << 16;
  }
  const __half2 pair = __floats2half2_rn(low, high);
  return __half_as_ushort(pair.x) | static_cast<std::uint32_t>(__half_as_ushort(pair.y)) << 16;
}

// Four elements as they were read: a float32 in each, or 16-bit types in pairs in the first two. Widened once all are there.
using Four = float[4];

__device__ inline void widen_pairs(Four& v, DType dtype) {
  const std::uint32_t a = __float_as_uint(v[0]), b = __float_as_uint(v[1]);
  v[0] = widen(a & 0xFFFF, dtype);
  v[1] = widen(a >> 16, dtype);
  v[2] = widen(b & 0xFFFF, dtype);
  v[3] = widen(b >> 16, dtype);
}

// Group `group + ahead` of a tensor.
template <class Vector>
__device__ inline Vector* whole_group(void* data, std::uint32_t group, int ahead) {
  return reinterpret_cast<Vector*>(static_cast<char*>(data) + static_cast<std::size_t>(group) * sizeof(Vector)) + ahead;
}

__device__ inline void read_whole(Four& v, const void* data, std::uint32_t group, int ahead, bool wide) {
  if (wide) {
    const float4 read = *whole_group<float4>(const_cast<void*>(data), group, ahead);
    v[0] = read.x, v[1] = read.y, v[2] = read.z, v[3] = read.w;
  } else {
    const uint2 read = *whole_group<uint2>(const_cast<void*>(data), group, ahead);
    v[0] = __uint_as_float(read.x), v[1] = __uint_as_float(read.y);
  }
}

__device__ inline void write_whole(void* data, std::uint32_t group, int ahead, const Four& v, DType dtype) {
  if (dtype == DType::float32)
    *whole_group<float4>(data, group, ahead) = make_float4(v[0], v[1], v[2], v[3]);
  else
    *whole_group<uint2>(data, group, ahead) = make_uint2(narrow(v[0], v[1], dtype), narrow(v[2], v[3], dtype));
}

__device__ inline void read_some(Four& v, const void* data, std::int64_t at, int count, bool wide) {
  std::uint32_t bits[4] = {};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (j >= count) continue;
    bits[j] = wide ? static_cast<const std::uint32_t*>(data)[at + j] : static_cast<const Half*>(data)[at + j];
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) v[j] = __uint_as_float(wide ? bits[j] : j < 2 ? bits[2 * j] | bits[2 * j + 1] << 16 : 0);
}

__device__ inline float read_one(const void* data, std::int64_t at, DType dtype) {
  return dtype == DType::float32 ? static_cast<const float*>(data)[at] : widen(static_cast<const Half*>(data)[at], dtype);
}

__device__ inline void write_one(void* data, std::int64_t at, float v, DType dtype) {
  if (dtype == DType::float32)
    static_cast<float*>(data)[at] = v;
  else
    static_cast<Half*>(data)[at] = static_cast<Half>(narrow(v, 0.0f, dtype));
}

}  // namespace fastsolve::cuda
