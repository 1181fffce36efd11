// Conflicts on the 32 banks of shared memory, each 4 bytes wide: a request of a warp takes as many turns as the busiest
// bank has different words to give. Requests of 8 and 16 bytes per lane are served by half and quarter warps.
#pragma once

#include <stdint.h>

#include <vector>

namespace simt {

struct BankCount {
  uint64_t requests = 0;
  uint64_t turns = 0;      // what they took
  uint64_t conflicts = 0;  // turns beyond those needed without any conflict
};
extern BankCount bank_count;  // of the launches since the last reset

// One request: lanes in `mask` touch `bytes` bytes each at addresses[lane].
void count_banks(const uint32_t* addresses, unsigned mask, unsigned bytes);

// A load or store of one lane: lanes that run the same instruction for the same time make one request.
void note_bank_access(uint32_t address, unsigned bytes, bool write, const void* pc);
void finish_bank_accesses(unsigned warp);

}  // namespace simt
