// A libcuda, and as much of a CUDA runtime as the package's CUDA kernels ask for, whose calls do nothing and succeed at once: what is
// left of a launch is the host's own work. It counts the kernels launched and the modules loaded. The device it plays is an sm_90.
#include <stddef.h>
#include <string.h>

long launches = 0;
long modules = 0;

int cuInit() { return 0; }
int cuDriverGetVersion(int* version) { return *version = 13000, 0; }
int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, 0; }
int cuDevicePrimaryCtxRetain(void** context) { return *context = (void*)1, 0; }
int cuCtxGetCurrent(void** context) { return *context = (void*)1, 0; }
int cuCtxSetCurrent() { return 0; }
int cuCtxGetDevice(int* device) { return *device = 0, 0; }
int cuStreamGetCtx(void* stream, void** context) { return *context = (void*)1, 0; }
int cuCtxSetLimit() { return 0; }
int cuCtxGetLimit(size_t* value) { return *value = 0, 0; }
int cuGetErrorString(int error, const char** text) { return *text = "an error of the stub", 0; }
int cuPointerGetAttribute(void** out, int attribute, void* pointer) { return *out = pointer, 0; }

// Compute capability 9.0, warps of 32, 132 multiprocessors, and shared memory and registers as there.
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  *value = attribute == 75 ? 9 : attribute == 76 ? 0 : attribute == 10 ? 32 : attribute == 16 ? 132 : attribute == 97 ? 232448
         : attribute == 82 || attribute == 12 ? 65536 : 1024;
  return 0;
}

int cuModuleLoadData(void** module, const void* image) { return ++modules, *module = (void*)2, 0; }
int cuModuleUnload() { return 0; }
int cuModuleGetFunction(void** function) { return *function = (void*)3, 0; }
int cuModuleGetGlobal_v2() { return 1; }
int cuFuncGetAttribute(int* value, int attribute) { return *value = attribute == 0 ? 1024 : 0, 0; }
int cuFuncSetAttribute() { return 0; }
int cuFuncSetCacheConfig() { return 0; }
int cuOccupancyMaxActiveClusters(int* count) { return *count = 1, 0; }
int cuTensorMapEncodeTiled() { return 1; }
int cuTensorMapEncodeIm2col() { return 1; }
int cuMemcpyHtoDAsync_v2() { return 1; }
int cuLaunchKernel() { return ++launches, 0; }
int cuLaunchKernelEx() { return ++launches, 0; }

void** __cudaRegisterFatBinary() { static void* handle; return &handle; }
void __cudaRegisterFatBinaryEnd() {}
void __cudaUnregisterFatBinary() {}
void __cudaRegisterFunction() {}
char __cudaInitModule() { return 0; }
int __cudaPopCallConfiguration() { return 0; }
unsigned __cudaPushCallConfiguration() { return 0; }
int __cudaGetKernel(void** kernel, const void* function) { return *kernel = (void*)3, 0; }
int __cudaLaunchKernel() { return ++launches, 0; }
int cudaLaunchKernel() { return ++launches, 0; }
int cudaGetDevice(int* device) { return *device = 0, 0; }
int cudaSetDevice() { return 0; }
int cudaGetDeviceCount(int* count) { return *count = 1, 0; }
int cudaGetLastError() { return 0; }
int cudaPeekAtLastError() { return 0; }
int cudaFuncGetAttributes(void* attributes) { return 0; }
const char* cudaGetErrorName(int error) { return "stub"; }
const char* cudaGetErrorString(int error) { return "an error of the stub"; }
