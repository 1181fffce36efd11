// What tests/simt/harness.py calls through ctypes.
#include <dlfcn.h>

#include <string>

#include "runtime/banks.h"
#include "runtime/machine.h"
#include "runtime/memory.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes) (static_cast<void>(address), static_cast<void>(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) (static_cast<void>(address), static_cast<void>(bytes))
#endif

#define SIMT_API extern "C" __attribute__((visibility("default")))

using namespace simt;

// Bytes on both sides of a buffer that harness.py leaves free.
constexpr size_t kRedZone = 4096;

// Forgets every buffer and the fault of the last launch.
SIMT_API void simt_reset() {
  for (const auto& buffer : buffers) {
    ASAN_UNPOISON_MEMORY_REGION(buffer->data - kRedZone, buffer->bytes + 2 * kRedZone);
  }
  buffers.clear();
  machine.fault.clear();
  machine.fault_pc = nullptr;
  bank_count = {};
}

SIMT_API void simt_set_order(int order) { machine.order = static_cast<Order>(order); }

// granule: bytes that are always accessed together; 0 where nothing may be written.
SIMT_API void simt_add_buffer(const char* name, void* data, size_t bytes, unsigned granule, int initialised) {
  auto buffer = std::make_unique<Buffer>();
  buffer->name = name;
  buffer->data = static_cast<unsigned char*>(data);
  buffer->bytes = bytes;
  buffer->granule = granule;
  buffer->initialised = initialised != 0;
  if (granule != 0) buffer->cells.resize((bytes + granule - 1) / granule);
  ASAN_POISON_MEMORY_REGION(buffer->data - kRedZone, kRedZone);
  ASAN_POISON_MEMORY_REGION(buffer->data + bytes, kRedZone);
  buffers.push_back(std::move(buffer));
}

// What a test has written into a buffer between two launches.
SIMT_API void simt_written_by_host(void* address, size_t bytes) { written_by_host(address, bytes); }

// Read then written: bytes, requests, sectors each.
SIMT_API void simt_traffic(int buffer, uint64_t* out) {
  for (const Traffic* traffic : {&buffers[buffer]->read, &buffers[buffer]->written}) {
    *out++ = traffic->bytes;
    *out++ = traffic->requests;
    *out++ = traffic->sectors;
  }
}

// Requests to shared memory, and turns lost to conflicts on its banks.
SIMT_API void simt_banks(uint64_t* out) {
  out[0] = bank_count.requests;
  out[1] = bank_count.conflicts;
}

SIMT_API const char* simt_fault() { return machine.fault.c_str(); }

// Where in this library the faulting instruction ends, for addr2line; 0: not known.
SIMT_API uint64_t simt_fault_offset() {
  Dl_info info;
  if (machine.fault_pc == nullptr || dladdr(machine.fault_pc, &info) == 0) return 0;
  return reinterpret_cast<uintptr_t>(machine.fault_pc) - reinterpret_cast<uintptr_t>(info.dli_fbase);
}
