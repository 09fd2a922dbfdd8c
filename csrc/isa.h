// Which compilation of kernels.cpp runs: the best one that this CPU can, unless a test asks for another.
#pragma once

#include <string>

#include "kernels.h"

namespace fastsolve {

const Kernels& kernels();
const char* isa();
void set_isa(const std::string& name);  // std::invalid_argument where it cannot run

}  // namespace fastsolve
