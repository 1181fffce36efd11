// A stack and where it stopped. Switching costs a few nanoseconds on x86-64, a system call elsewhere (ucontext).
#pragma once

#include <stddef.h>

#if !defined(__x86_64__) || defined(SIMT_UCONTEXT)
#include <ucontext.h>
#define SIMT_USES_UCONTEXT 1
#endif

namespace simt {

constexpr size_t kStackBytes = 64 * 1024;

struct Fiber {
#if defined(SIMT_USES_UCONTEXT)
  ucontext_t context;
#else
  void* stack_pointer;
#endif
};

// Makes `fiber` start `entry` at the next switch to it; entry never returns. stack: kStackBytes, its lowest address.
void prepare_fiber(Fiber* fiber, unsigned char* stack, void (*entry)());
// Stops here, to go on in `to`; returns when something switches back.
void switch_fiber(Fiber* from, Fiber* to);

}  // namespace simt
