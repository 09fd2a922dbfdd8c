#include "launch.h"

#include "general.cuh"
#include "variants.cuh"

namespace fastsolve::cuda {
namespace {

// Streams and kernels belong to a device, which must be the current one of this thread.
class Current {
 public:
  explicit Current(int device) : error(cudaGetDevice(&before_)) {
    if (error != cudaSuccess || before_ == device) return;
    error = cudaSetDevice(device);
    changed_ = error == cudaSuccess;
  }
  ~Current() {
    if (changed_) cudaSetDevice(before_);
  }
  Current(const Current&) = delete;

  cudaError_t error;

 private:
  int before_ = 0;
  bool changed_ = false;
};

// An error is the caller's to report: left behind, it would come up again in another library's check.
int reported(cudaError_t error) {
  if (error != cudaSuccess) cudaGetLastError();
  return error;
}

template <class Argument>
int load_kernel(int device, void (*kernel)(Argument)) {
  const Current current(device);
  cudaFuncAttributes attributes;
  return reported(current.error != cudaSuccess ? current.error : cudaFuncGetAttributes(&attributes, kernel));
}

template <class Argument>
int launch_kernel(int device, void (*kernel)(Argument), const Argument& argument, unsigned blocks, void* stream) {
  const Current current(device);
  if (current.error != cudaSuccess) return reported(current.error);
  void* arguments[] = {const_cast<Argument*>(&argument)};
  return reported(
      cudaLaunchKernel(kernel, dim3(blocks), dim3(kThreads), arguments, 0, static_cast<cudaStream_t>(stream)));
}

}  // namespace

// Rows that leave out terms, rare counts, and more draws than one: four kernels, the same for all types.
Variant choose_variant(int sources, int draws, bool mixed, bool full) {
  if (full) {
    const Variant found = mixed ? full_mixed_variant(sources, draws) : full_float32_variant(sources, draws);
    if (found.kernel) return found;
  }
  if (sources > kMaxSources || draws > kMaxDraws) return {};
  if (draws == 0) return sources <= 4 ? variant<4, 0, true, false>() : variant<8, 0, true, false>();
  return sources <= 4 ? variant<4, 3, true, false>() : variant<8, 3, true, false>();
}

int load(int device, Kernel kernel) { return load_kernel(device, kernel); }

int load_general(int device) { return load_kernel(device, general_update); }

int launch(int device, Kernel kernel, const Update& update, unsigned blocks, void* stream) {
  return launch_kernel(device, kernel, update, blocks, stream);
}

int launch_general(int device, const GeneralUpdate& update, unsigned blocks, void* stream) {
  return launch_kernel(device, general_update, update, blocks, stream);
}

std::string error_text(int error) {
  const auto code = static_cast<cudaError_t>(error);
  return std::string(cudaGetErrorName(code)) + " (" + cudaGetErrorString(code) + ")";
}

}  // namespace fastsolve::cuda
