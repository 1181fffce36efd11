// Bodies of csrc/cuda/ptx.cuh. The runtime does them (runtime/warp_instructions.cpp): what a warp does together is one
// collective of all its lanes, and what cp.async copies arrives at its wait.
#pragma once

#include "core/bytes16.h"
#include "core/round_to.h"

namespace simt {

enum class Operand { bfloat16, float16 };

uint32_t shared_address(const void* pointer);
void read_bytes(const void* address, unsigned bytes);  // a load wider than the compiler would make
void ldmatrix_x4(uint32_t* d, uint32_t address, bool transposed);
void mma_m16n8k16(float* d, const uint32_t* a, uint32_t b0, uint32_t b1, Operand type);
void cp_async(uint32_t address, const void* global, uint32_t bytes, uint32_t bytes_read);
void cp_async_commit();
void cp_async_wait(unsigned pending);

}  // namespace simt

namespace MDM_NAMESPACE::ptx {

inline uint32_t shared_address(const void* pointer) { return simt::shared_address(pointer); }
__forceinline__ void ldmatrix_x4(uint32_t (&d)[4], uint32_t address) { simt::ldmatrix_x4(d, address, false); }
__forceinline__ void ldmatrix_x4_trans(uint32_t (&d)[4], uint32_t address) { simt::ldmatrix_x4(d, address, true); }
__forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  simt::mma_m16n8k16(d, a, b0, b1, simt::Operand::bfloat16);
}
__forceinline__ void mma_fp16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  simt::mma_m16n8k16(d, a, b0, b1, simt::Operand::float16);
}
__forceinline__ void cp_async_16(uint32_t address, const void* global, uint32_t bytes) {
  simt::cp_async(address, global, 16, bytes);
}
__forceinline__ void cp_async_8(uint32_t address, const void* global) { simt::cp_async(address, global, 8, 8); }
inline void cp_async_commit() { simt::cp_async_commit(); }
template <int kPending>
void cp_async_wait() {
  simt::cp_async_wait(kPending);
}

__attribute__((noinline, no_sanitize("thread"))) inline Bytes16 load_streaming(const void* address) {
  simt::read_bytes(address, 16);
  return *static_cast<const Bytes16*>(address);
}
inline float max_or_nan(float a, float b) {
  if (a != a || b != b) return __uint_as_float(0x7fffffffu);
  return a > b ? a : b;
}

inline uint32_t max_or_nan_bf16(uint32_t a, uint32_t b) {
  uint32_t d = 0;
  for (int shift = 0; shift < 32; shift += 16) {
    const float x = bfloat16_to_float(static_cast<uint16_t>(a >> shift));
    const float y = bfloat16_to_float(static_cast<uint16_t>(b >> shift));
    const bool nan = x != x || y != y;
    d |= (nan ? 0x7fffu : (x > y ? a : b) >> shift & 0xffffu) << shift;
  }
  return d;
}
inline uint32_t max_or_nan_fp16(uint32_t a, uint32_t b) {
  uint32_t d = 0;
  for (int shift = 0; shift < 32; shift += 16) {
    const float x = float16_to_float(static_cast<uint16_t>(a >> shift));
    const float y = float16_to_float(static_cast<uint16_t>(b >> shift));
    const bool nan = x != x || y != y;
    d |= (nan ? 0x7fffu : (x > y ? a : b) >> shift & 0xffffu) << shift;
  }
  return d;
}

inline float widen_fp16(uint32_t bits) { return float16_to_float(static_cast<uint16_t>(bits)); }
inline void settle(float&) {}
inline void settle(uint32_t&) {}

inline float exp2_approx(float x) { return exp2f(x); }
inline uint32_t pack_bf16(float low, float high) {
  return float_to_bfloat16(low) | static_cast<uint32_t>(float_to_bfloat16(high)) << 16;
}
inline uint32_t pack_fp16(float low, float high) {
  return float_to_float16(low) | static_cast<uint32_t>(float_to_float16(high)) << 16;
}

}  // namespace MDM_NAMESPACE::ptx
