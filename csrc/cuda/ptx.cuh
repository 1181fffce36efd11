// One function per PTX statement, for sm_80 and later. The tests' harness gives each a body of its own (tests/simt), so
// nothing else in csrc/cuda may contain inline assembly.
//
// Fragments, by the PTX ISA's section on mma.m16n8k16; group = lane / 4, pair = lane % 4:
//   a  16 x 16  a[0] row group, columns 2 pair + {0, 1}; a[1] row group + 8; a[2], a[3] the same rows, columns + 8
//   b  16 x 8   b0 rows 2 pair + {0, 1}, column group; b1 rows + 8
//   d  16 x 8   d[0], d[1] row group, columns 2 pair + {0, 1}; d[2], d[3] row group + 8
#pragma once

#include "core/bytes16.h"

#if defined(MDM_SIMT)
#include "simt/ptx.h"
#else

namespace MDM_NAMESPACE::ptx {

// An address within the block's shared memory.
__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Four 8 x 8 matrices of 16-bit numbers. Lanes 8i to 8i + 7 give the 16-byte rows of matrix i; lane l receives of each
// the numbers 2 (l % 4) + {0, 1} of row l / 4.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&d)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(address)
               : "memory");
}

// The same of the transposed matrices: numbers of rows 2 (l % 4) + {0, 1} in column l / 4.
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&d)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(address)
               : "memory");
}

// d += a b, products exact and sums in float32.
__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void mma_fp16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Copies 16 bytes to shared memory past the registers, of which the first `bytes` are read and the others are zero.
// They are there after the wait for their group.
__device__ __forceinline__ void cp_async_16(uint32_t address, const void* global, uint32_t bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global), "r"(bytes) : "memory");
}

// The same of 8 bytes, all of them read.
__device__ __forceinline__ void cp_async_8(uint32_t address, const void* global) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(address), "l"(global) : "memory");
}

// Ends a group: this thread's copies since the last one.
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for all of this thread's groups but the latest kPending.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// 2^x, within 2 ulp; 2^-inf = 0.
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 16 bytes of read-only memory that will not be read again soon; the address is a multiple of 16.
__device__ __forceinline__ Bytes16 load_streaming(const void* address) {
  Bytes16 out;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(out.word[0]), "=r"(out.word[1]), "=r"(out.word[2]), "=r"(out.word[3])
      : "l"(address));
  return out;
}

// The larger; the positive quiet NaN 0x7fffffff if either is a NaN.
__device__ __forceinline__ float max_or_nan(float a, float b) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}

// The same of the two 16-bit numbers in each word; here the NaN is 0x7fff.
__device__ __forceinline__ uint32_t max_or_nan_bf16(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}

__device__ __forceinline__ uint32_t max_or_nan_fp16(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}

// A float16 as float32, exactly.
__device__ __forceinline__ float widen_fp16(uint32_t bits) {
  float y;
  asm("{ .reg .b16 half; cvt.u16.u32 half, %1; cvt.f32.f16 %0, half; }" : "=f"(y) : "r"(bits));
  return y;
}

// Says nothing to the machine and hides from the compiler where x came from: it is computed here and once.
__device__ __forceinline__ void settle(float& x) { asm volatile("" : "+f"(x)); }
__device__ __forceinline__ void settle(uint32_t& x) { asm volatile("" : "+r"(x)); }

// Two numbers rounded to nearest even, `low` in the lower half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  uint32_t d;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  return d;
}

__device__ __forceinline__ uint32_t pack_fp16(float low, float high) {
  uint32_t d;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  return d;
}

}  // namespace MDM_NAMESPACE::ptx

#endif
