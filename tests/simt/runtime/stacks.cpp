#include "runtime/stacks.h"

#include <stddef.h>
#include <sys/mman.h>

#include "runtime/fiber.h"

namespace simt {

constexpr size_t kGuardBytes = 4096;
constexpr size_t kSlotBytes = kGuardBytes + kStackBytes;

static unsigned char* stacks = nullptr;
static size_t bytes = 0;

Stacks::Stacks(unsigned threads) {
  bytes = threads * kSlotBytes;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  stacks = memory == MAP_FAILED ? nullptr : static_cast<unsigned char*>(memory);
  for (unsigned i = 0; stacks != nullptr && i < threads; ++i) mprotect(stacks + i * kSlotBytes, kGuardBytes, PROT_NONE);
}

Stacks::~Stacks() {
  if (stacks != nullptr) munmap(stacks, bytes);
  stacks = nullptr;
  bytes = 0;
}

bool Stacks::mapped() const { return stacks != nullptr; }

unsigned char* stack_of(unsigned thread) { return stacks + thread * kSlotBytes + kGuardBytes; }

bool in_stacks(uintptr_t address) { return address - reinterpret_cast<uintptr_t>(stacks) < bytes; }

}  // namespace simt
