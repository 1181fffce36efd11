// The stacks of a launch's threads: one mapping, a guard page below each.
#pragma once

#include <stdint.h>

namespace simt {

// While it lives, one launch's stacks are there. They are given back at its end, because each guard page costs two of
// the mappings that the system allows a process, and a process may load this library many times.
class Stacks {
 public:
  explicit Stacks(unsigned threads);
  ~Stacks();
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;
  bool mapped() const;
};

unsigned char* stack_of(unsigned thread);
bool in_stacks(uintptr_t address);

}  // namespace simt
