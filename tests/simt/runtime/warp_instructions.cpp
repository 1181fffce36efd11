// ldmatrix, mma.sync and cp.async, after the PTX ISA. Fragments: see csrc/cuda/ptx.cuh.
#include <string.h>

#include "core/tensor_view.h"
#include "runtime/banks.h"
#include "runtime/machine.h"
#include "runtime/memory.h"
#include "simt/ptx.h"

namespace simt {

uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(static_cast<const unsigned char*>(pointer) - mdm_shared_memory);
}

// ---- ldmatrix ----

struct MatrixRow {
  unsigned char bytes[16];
  uint32_t address;
};

void ldmatrix_x4(uint32_t* d, uint32_t address, bool transposed) {
  access(mdm_shared_memory + address, 16, Access::read, __builtin_return_address(0));
  MatrixRow own;
  memcpy(own.bytes, mdm_shared_memory + address, 16);
  own.address = address;
  MatrixRow rows[kLanes];  // lanes 8i to 8i + 7: matrix i
  gather_warp("ldmatrix", &own, sizeof(own), rows);
  const unsigned lane = machine.current->lane;
  if (lane == 0) {
    uint32_t addresses[kLanes];
    for (unsigned i = 0; i < kLanes; ++i) addresses[i] = rows[i].address;
    count_banks(addresses, 0xffffffffu, 16);
  }
  for (unsigned matrix = 0; matrix < 4; ++matrix) {
    const unsigned group = lane / 4, pair = lane % 4;
    uint16_t halves[2];
    for (unsigned i = 0; i < 2; ++i) {
      const unsigned row = transposed ? 2 * pair + i : group, column = transposed ? group : 2 * pair + i;
      memcpy(&halves[i], rows[8 * matrix + row].bytes + 2 * column, 2);
    }
    d[matrix] = halves[0] | static_cast<uint32_t>(halves[1]) << 16;
  }
}

// ---- mma ----

struct Fragments {
  uint32_t a[4];
  uint32_t b[2];
};

static double widen(uint32_t pair, unsigned half, Operand type) {
  const uint16_t bits = static_cast<uint16_t>(pair >> 16 * half);
  return type == Operand::bfloat16 ? mdmcorrect::portable::bfloat16_to_float(bits)
                                   : mdmcorrect::portable::float16_to_float(bits);
}

// Row `row` of a, column k, of the 16 x 16 matrix that the warp's fragments make.
static double a_at(const Fragments* lanes, unsigned row, unsigned k, Operand type) {
  const unsigned lane = 4 * (row % 8) + k % 8 / 2, piece = row / 8 + 2 * (k / 8);
  return widen(lanes[lane].a[piece], k % 2, type);
}

static double b_at(const Fragments* lanes, unsigned k, unsigned column, Operand type) {
  const unsigned lane = 4 * column + k % 8 / 2;
  return widen(lanes[lane].b[k / 8], k % 2, type);
}

// Sums in double: a tensor core's own order of summation is nowhere written down.
void mma_m16n8k16(float* d, const uint32_t* a, uint32_t b0, uint32_t b1, Operand type) {
  const Fragments own{{a[0], a[1], a[2], a[3]}, {b0, b1}};
  Fragments lanes[kLanes];
  gather_warp("mma.sync", &own, sizeof(own), lanes);
  const unsigned group = machine.current->lane / 4, pair = machine.current->lane % 4;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = group + 8 * (i / 2), column = 2 * pair + i % 2;
    double sum = d[i];
    for (unsigned k = 0; k < 16; ++k) sum += a_at(lanes, row, k, type) * b_at(lanes, k, column, type);
    d[i] = static_cast<float>(sum);
  }
}

// ---- cp.async ----

void cp_async(uint32_t address, const void* global, uint32_t bytes, uint32_t bytes_read) {
  const void* pc = __builtin_return_address(0);
  Thread* thread = machine.current;
  unsigned char* shared = mdm_shared_memory + address;
  PendingCopy copy{shared, bytes, {}, thread->copy_groups};
  if (bytes_read != 0) {
    access(const_cast<void*>(global), bytes_read, Access::read, pc);
    memcpy(copy.data, global, bytes_read);
  }
  note_bank_access(address, bytes, true, pc);
  copy_in_flight(shared, bytes, false, pc);
  thread->copies.push_back(copy);
}

void cp_async_commit() { ++machine.current->copy_groups; }

void cp_async_wait(unsigned pending) {
  const void* pc = __builtin_return_address(0);
  Thread* thread = machine.current;
  size_t kept = 0;
  for (const PendingCopy& copy : thread->copies) {
    if (copy.group + pending < thread->copy_groups) {
      copy_in_flight(copy.shared, copy.bytes, true, pc);
      memcpy(copy.shared, copy.data, copy.bytes);
    } else {
      thread->copies[kept++] = copy;
    }
  }
  thread->copies.resize(kept);
}

}  // namespace simt
