// The block's shared memory.
//
// A kernel declares a struct of what it shares and takes it from here: all shared memory is dynamic, its size said by the
// launcher, so that the tests' harness can poison it, bound it and watch it (tests/simt).
#pragma once

#include "core/config.h"

#if !defined(MDM_SIMT)
extern __shared__ __align__(16) unsigned char mdm_shared_memory[];
#endif

namespace MDM_NAMESPACE {

// A T at `offset` bytes, a multiple of T's alignment.
template <class T>
__device__ __forceinline__ T* shared_at(size_t offset) {
  return reinterpret_cast<T*>(mdm_shared_memory + offset);
}

}  // namespace MDM_NAMESPACE
