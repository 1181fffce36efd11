// What -fsanitize=thread calls before every load and store, answered by the harness instead of ThreadSanitizer.
#include "runtime/memory.h"

using simt::Access;

#define SIMT_HOOK(name, bytes, kind) \
  extern "C" void name(void* p) { simt::load_or_store(p, bytes, Access::kind, __builtin_return_address(0)); }

SIMT_HOOK(__tsan_read1, 1, read)
SIMT_HOOK(__tsan_read2, 2, read)
SIMT_HOOK(__tsan_read4, 4, read)
SIMT_HOOK(__tsan_read8, 8, read)
SIMT_HOOK(__tsan_read16, 16, read)
SIMT_HOOK(__tsan_write1, 1, write)
SIMT_HOOK(__tsan_write2, 2, write)
SIMT_HOOK(__tsan_write4, 4, write)
SIMT_HOOK(__tsan_write8, 8, write)
SIMT_HOOK(__tsan_write16, 16, write)
// Where the compiler knows of no alignment, none is promised; a GPU would still fault on it, so it is checked all the
// same.
SIMT_HOOK(__tsan_unaligned_read2, 2, read)
SIMT_HOOK(__tsan_unaligned_read4, 4, read)
SIMT_HOOK(__tsan_unaligned_read8, 8, read)
SIMT_HOOK(__tsan_unaligned_read16, 16, read)
SIMT_HOOK(__tsan_unaligned_write2, 2, write)
SIMT_HOOK(__tsan_unaligned_write4, 4, write)
SIMT_HOOK(__tsan_unaligned_write8, 8, write)
SIMT_HOOK(__tsan_unaligned_write16, 16, write)

extern "C" {
void __tsan_init() {}
void __tsan_read_range(void* p, long bytes) {
  simt::load_or_store(p, static_cast<unsigned>(bytes), Access::read, __builtin_return_address(0));
}
void __tsan_write_range(void* p, long bytes) {
  simt::load_or_store(p, static_cast<unsigned>(bytes), Access::write, __builtin_return_address(0));
}
}
