#include "runtime/fiber.h"

#include <stdint.h>

namespace simt {

#if defined(SIMT_USES_UCONTEXT)

void prepare_fiber(Fiber* fiber, unsigned char* stack, void (*entry)()) {
  getcontext(&fiber->context);
  fiber->context.uc_stack.ss_sp = stack;
  fiber->context.uc_stack.ss_size = kStackBytes;
  fiber->context.uc_link = nullptr;
  makecontext(&fiber->context, entry, 0);
}

void switch_fiber(Fiber* from, Fiber* to) { swapcontext(&from->context, &to->context); }

#else

// The System V ABI: a call preserves rbx, rbp, r12 to r15 and the stack pointer; the rest the caller has saved.
asm(R"(
.text
.globl simt_switch_stack
.hidden simt_switch_stack
.type simt_switch_stack, @function
simt_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch_stack, .-simt_switch_stack
)");
extern "C" void simt_switch_stack(void** save, void* load);

void prepare_fiber(Fiber* fiber, unsigned char* stack, void (*entry)()) {
  constexpr int kSavedRegisters = 6;
  uintptr_t* top = reinterpret_cast<uintptr_t*>(stack + kStackBytes);
  *--top = 0;  // so that at entry the stack stands as after a call: 8 bytes past a multiple of 16
  *--top = reinterpret_cast<uintptr_t>(entry);
  for (int i = 0; i < kSavedRegisters; ++i) *--top = 0;
  fiber->stack_pointer = top;
}

void switch_fiber(Fiber* from, Fiber* to) { simt_switch_stack(&from->stack_pointer, to->stack_pointer); }

#endif

}  // namespace simt
