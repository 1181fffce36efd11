// The stacks of a block's threads: one mapping, a guard page below each.
#pragma once

#include <stdint.h>

namespace simt {

unsigned char* stack_of(unsigned thread);
bool in_stacks(uintptr_t address);

}  // namespace simt
