// What one load of a CUDA thread can bring at most.
#pragma once

#include "core/config.h"

namespace MDM_NAMESPACE::ptx {

struct alignas(16) Bytes16 {
  uint32_t word[4];
};

}  // namespace MDM_NAMESPACE::ptx
