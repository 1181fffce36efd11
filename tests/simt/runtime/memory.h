// The device's memory: global buffers by name, shared memory, and what is known of every byte of both.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <memory>
#include <string>
#include <vector>

#include "runtime/races.h"

namespace simt {

// What a launch moved; a request is one instruction of one warp, a sector 32 bytes.
struct Traffic {
  uint64_t bytes = 0, requests = 0, sectors = 0;
};

struct Buffer {
  std::string name;
  unsigned char* data;
  size_t bytes;
  unsigned granule;  // bytes per cell; 0: read-only, without cells
  bool initialised;  // its content counts as written
  std::vector<Cell> cells;
  Traffic read, written;
};

extern std::vector<std::unique_ptr<Buffer>> buffers;

// Every access of a device thread comes here, from the compiler's hooks and the harness's own functions.
void access(void* address, unsigned bytes, Access kind, const void* pc);
// The same for a plain load or store, which also meets the banks of shared memory.
void load_or_store(void* address, unsigned bytes, Access kind, const void* pc);
void read_bytes(const void* address, unsigned bytes);
// A cp.async's destination; `landed` says which end.
void copy_in_flight(unsigned char* shared, unsigned bytes, bool landed, const void* pc);

// Memory that something outside the device has written between two launches.
void written_by_host(void* address, size_t bytes);

void start_block_memory();   // poisons shared memory
void finish_block_memory();  // adds up the requests of every warp

}  // namespace simt
