// Sixteen float32 or uint32 lanes on every instruction set, so that a kernel is written once.
//
//   Floats, Words, Mask                         one register on AVX-512, two on AVX2, an array elsewhere
//   broadcast(x), load(p), store(p, v)          pointers need no alignment
//   load_bfloat16(p), load_float16(p)           sixteen 16-bit values, widened exactly
//   store_bfloat16(p, v), store_float16(p, v)   rounded to nearest even
//   add sub mul div, multiply_add(a, b, c)      a * b + c, fused where the machine fuses
//   maximum(a, b)                               b where either is NaN
//   at_least(a, b), equal(a, b), unordered(a, b)  lane masks; bits(mask): lane i in bit i
//   select(mask, yes, no)
//   reduce_max(v), reduce_add(v)                in one fixed order: a sum never depends on where its row stands
//   words_from(i), iota(i)                      all lanes i; lanes i, i + 1, ..., i + 15
//   add_words sub_words xor_words and_words, shift_left<n>, shift_right_signed<n>
//   multiply_wide(a, m, &high, &low)            both halves of the 64-bit products
//   as_words, as_floats                         the same bits
//   signed_to_float(w), truncate(v)             int32 <-> float32, truncate for |v| < 2^31
//   float_from_u64(high, low)                   uint64 to float32, rounded to nearest even
//   store_compressed(p, bits, v)                the lanes whose bit is set, side by side; may write all sixteen places
//   kHasTable; Table, load_table(p), look_up(table, w)  entry (w mod 32) of 32, where that is one instruction
//
// All of it lives in the instruction set's own namespace (core/config.h).
#pragma once

#include "core/tensor_view.h"

namespace MDM_NAMESPACE {

constexpr int kLanes = 16;

}  // namespace MDM_NAMESPACE

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__)
#include "cpu/simd_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "cpu/simd_avx2.h"
#else
#include "cpu/simd_generic.h"
#endif

#if !defined(__AVX512F__) || !defined(__AVX512DQ__) || !defined(__AVX512BW__)
namespace MDM_NAMESPACE {

template <typename Element, typename Lanes>
MDM_INLINE void store_compressed(Element* p, uint32_t mask, Lanes v) {
  Element lanes[kLanes];
  store(lanes, v);
  for (; mask != 0; mask &= mask - 1) *p++ = lanes[__builtin_ctz(mask)];
}

}  // namespace MDM_NAMESPACE
#endif
