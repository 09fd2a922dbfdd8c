// What the tests ask beside the module: draws that no tensor is large enough for, and on which device a launch was.
#include "../../csrc/cuda/normals.cuh"

extern "C" void group_normals(float* z, std::uint64_t seed, std::uint64_t group, unsigned stream, unsigned number) {
  fastsolve::cuda::group_normals(*reinterpret_cast<float(*)[4]>(z), seed, group, {stream, number});
}

extern "C" float element_normal(std::uint64_t seed, std::uint64_t element, unsigned stream, unsigned number) {
  return fastsolve::cuda::element_normal(seed, element, {stream, number});
}

extern "C" int device_of_last_launch() { return last_device; }
