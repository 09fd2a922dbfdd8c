// How much a thread and a block do: the only place with tuned numbers of the CUDA kernels.
//
// Chosen from code compiled for sm_90 (nvcc 13.0; registers and static instructions per element, float32) and not yet from a
// clock. A thread does groups of four elements: a Philox group, and 128 bits of float32. A second group, for 4 sources without
// draws: 12.5 instead of 16.8 instructions, in 55 instead of 40 registers, 8 loads under way instead of 4. With a draw it would
// be 75 instead of 83, in 62 instead of 48, and half as many threads, of which small tensors have few.
#pragma once

namespace fastsolve::cuda {

constexpr int kThreads = 128;

template <int kSources, int kDraws>
constexpr int kGroups = kSources <= 4 && kDraws == 0 ? 2 : 1;  // of a thread

constexpr int kBlocks = 8;  // that must fit a multiprocessor: 64 registers for a thread

}  // namespace fastsolve::cuda
