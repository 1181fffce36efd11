#include "runtime/stacks.h"

#include <stddef.h>
#include <sys/mman.h>

#include "runtime/fiber.h"
#include "runtime/machine.h"

namespace simt {

constexpr size_t kGuardBytes = 4096;
constexpr size_t kSlotBytes = kGuardBytes + kStackBytes;

static unsigned char* map_stacks() {
  void* memory = mmap(nullptr, kMaxThreads * kSlotBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  unsigned char* stacks = static_cast<unsigned char*>(memory);
  for (unsigned i = 0; i < kMaxThreads; ++i) mprotect(stacks + i * kSlotBytes, kGuardBytes, PROT_NONE);
  return stacks;
}

static unsigned char* const stacks = map_stacks();

unsigned char* stack_of(unsigned thread) { return stacks + thread * kSlotBytes + kGuardBytes; }

bool in_stacks(uintptr_t address) { return address - reinterpret_cast<uintptr_t>(stacks) < kMaxThreads * kSlotBytes; }

}  // namespace simt
