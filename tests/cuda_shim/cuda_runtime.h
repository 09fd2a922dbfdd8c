// As much of CUDA as csrc/cuda/ uses, on a CPU: threads one after the other, vectors that check their address, and the errors
// that a test can provoke. A kernel is the same source on both; what its instructions become on a GPU is another test's matter.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>

#define __global__
#define __device__
#define __grid_constant__
#define __launch_bounds__(...)

template <class To, class From>
To same_bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

inline float __fmul_rn(float a, float b) { return a * b; }  // with -ffp-contract=off
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __uint_as_float(unsigned a) { return same_bits<float>(a); }
inline float __int_as_float(int a) { return same_bits<float>(a); }
inline unsigned __float_as_uint(float a) { return same_bits<unsigned>(a); }
inline int __float_as_int(float a) { return same_bits<int>(a); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<std::uint64_t>(a) * b >> 32; }
inline double __longlong_as_double(long long a) { return same_bits<double>(a); }
inline int __double2loint(double a) { return static_cast<int>(same_bits<std::uint64_t>(a)); }
inline int __double2hiint(double a) { return static_cast<int>(same_bits<std::uint64_t>(a) >> 32); }

// A GPU reads and writes a vector whole, and only from an address that is a multiple of its size.
template <class T, int kCount>
struct Vector {
  static void check(const void* at) {
    if (reinterpret_cast<std::uintptr_t>(at) % (sizeof(T) * kCount) != 0) throw std::logic_error("misaligned vector");
  }
};

struct float4 {
  float x, y, z, w;
  float4(float a, float b, float c, float d) : x(a), y(b), z(c), w(d) {}
  float4(const float4& o) : float4(o.x, o.y, o.z, o.w) { Vector<float, 4>::check(&o); }
  float4& operator=(float4&& o) {
    Vector<float, 4>::check(this);
    x = o.x, y = o.y, z = o.z, w = o.w;
    return *this;
  }
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

struct uint2 {
  unsigned x, y;
  uint2(unsigned a, unsigned b) : x(a), y(b) {}
  uint2(const uint2& o) : uint2(o.x, o.y) { Vector<unsigned, 2>::check(&o); }
  uint2& operator=(uint2&& o) {
    Vector<unsigned, 2>::check(this);
    x = o.x, y = o.y;
    return *this;
  }
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }

template <class T>
T __ldg(const T* at) {
  return *at;
}

struct dim3 {
  unsigned x;
  explicit dim3(unsigned n = 0) : x(n) {}
};
inline thread_local dim3 blockIdx, threadIdx;

// Devices 0 and 1 exist. Stream 1 is one that CUDA refuses; on stream 2 nothing runs, so that the host can be timed alone.
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidDevice = 101, cudaErrorInvalidResourceHandle = 400 };
using cudaStream_t = void*;
struct cudaFuncAttributes {};
inline int current_device = 0, last_device = -1;
inline cudaError_t last_error = cudaSuccess;

inline cudaError_t told(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

inline cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}

inline cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device > 1) return told(cudaErrorInvalidDevice);
  current_device = device;
  return cudaSuccess;
}

inline cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}

inline const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorInvalidDevice ? "cudaErrorInvalidDevice" : "cudaErrorInvalidResourceHandle";
}
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorInvalidDevice ? "invalid device ordinal" : "invalid resource handle";
}

template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, Kernel*) {
  return cudaSuccess;
}

template <class Argument>
cudaError_t cudaLaunchKernel(void (*kernel)(Argument), dim3 grid, dim3 block, void** arguments, std::size_t,
                             cudaStream_t stream) {
  if (stream == reinterpret_cast<void*>(1)) return told(cudaErrorInvalidResourceHandle);
  last_device = current_device;
  if (stream == reinterpret_cast<void*>(2)) return cudaSuccess;
  for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x)
    for (threadIdx.x = 0; threadIdx.x < block.x; ++threadIdx.x) kernel(*static_cast<Argument*>(arguments[0]));
  return cudaSuccess;
}
