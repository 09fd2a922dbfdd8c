// The vector types of the instruction set that this compilation of kernels.cpp is for.
#pragma once

#if defined(FASTSOLVE_AVX512)
#include "lanes_avx512.h"
#elif defined(FASTSOLVE_AVX2)
#include "lanes_avx2.h"
#else
#define FASTSOLVE_PORTABLE
#include "lanes_portable.h"
#endif
