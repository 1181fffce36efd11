// CUDA's language, for a C++ compiler: included before a source of csrc/cuda, it makes that source run on the harness.
//
// Loads and stores stay what they are. The compiler instruments each with a call (-fsanitize=thread), and
// runtime/hooks.cpp answers those calls; so kernels need no checked pointers. What has a meaning for more than one
// thread is a function here.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define MDM_SIMT 1
#define __global__
#define __device__
#define __host__
#define __constant__
#define __shared__
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
  unsigned x, y, z;
};

namespace simt {

// Constant within a thread's life, so the compiler may keep it in a register.
__attribute__((const)) const dim3& thread_index();
__attribute__((const)) const dim3& block_index();
__attribute__((const)) const dim3& block_size();
__attribute__((const)) const dim3& grid_size();

}  // namespace simt

#define threadIdx (::simt::thread_index())
#define blockIdx (::simt::block_index())
#define blockDim (::simt::block_size())
#define gridDim (::simt::grid_size())

// The block's shared memory, all of it dynamic; csrc/cuda/memory.cuh hands it out.
extern "C" unsigned char mdm_shared_memory[];

#include "simt/atomics.h"
#include "simt/barriers.h"
#include "simt/collectives.h"
#include "simt/intrinsics.h"
