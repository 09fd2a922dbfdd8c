// Between the plans of program.cpp and CUDA: which kernels there are, and how they start. Errors are those of cudaError_t; 0 is
// success.
#pragma once

#include <string>

#include "update.h"

namespace fastsolve::cuda {

using Kernel = void (*)(Update);

struct Variant {
  Kernel kernel;
  int sources, draws;  // positions: its sources stand first, its draws last
  int groups;          // of a thread
};

// The kernel of updates with so many sources and draws, `full` where every row sums all of them in one order: update.cuh.
// Its kernel is null where there is none.
Variant choose_variant(int sources, int draws, bool mixed, bool full);

// Makes the kernel ready to run on the device, which a first launch would do in the middle of a run or of a capture.
int load(int device, Kernel kernel);
int load_general(int device);

int launch(int device, Kernel kernel, const Update& update, unsigned blocks, void* stream);
int launch_general(int device, const GeneralUpdate& update, unsigned blocks, void* stream);

std::string error_text(int error);

}  // namespace fastsolve::cuda
