// simd.h on AVX-512 (F, DQ, BW): a register of 16 lanes.
#pragma once

// GCC 12's own header warns about its deliberately undefined registers (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include "core/config.h"

namespace MDM_NAMESPACE {

struct Floats {
  __m512 v;
};
struct Words {
  __m512i v;
};
struct Mask {
  __mmask16 v;
};

MDM_INLINE Floats broadcast(float x) { return {_mm512_set1_ps(x)}; }
MDM_INLINE Floats load(const float* p) { return {_mm512_loadu_ps(p)}; }
MDM_INLINE void store(float* p, Floats a) { _mm512_storeu_ps(p, a.v); }
MDM_INLINE Floats load_bfloat16(const uint16_t* p) {
  const __m256i raw = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16))};
}
MDM_INLINE Floats load_float16(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
MDM_INLINE void store_bfloat16(uint16_t* p, Floats a) {
  const __m512i word = _mm512_castps_si512(a.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(word, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_add_epi32(word, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  rounded = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc00000));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}
MDM_INLINE void store_float16(uint16_t* p, Floats a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}

MDM_INLINE Floats add(Floats a, Floats b) { return {_mm512_add_ps(a.v, b.v)}; }
MDM_INLINE Floats sub(Floats a, Floats b) { return {_mm512_sub_ps(a.v, b.v)}; }
MDM_INLINE Floats mul(Floats a, Floats b) { return {_mm512_mul_ps(a.v, b.v)}; }
MDM_INLINE Floats div(Floats a, Floats b) { return {_mm512_div_ps(a.v, b.v)}; }
MDM_INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
MDM_INLINE Floats maximum(Floats a, Floats b) { return {_mm512_max_ps(a.v, b.v)}; }

MDM_INLINE Mask at_least(Floats a, Floats b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)}; }
MDM_INLINE Mask equal(Floats a, Floats b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
MDM_INLINE Mask unordered(Floats a, Floats b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_UNORD_Q)}; }
MDM_INLINE uint32_t bits(Mask mask) { return mask.v; }
MDM_INLINE Floats select(Mask mask, Floats yes, Floats no) { return {_mm512_mask_blend_ps(mask.v, no.v, yes.v)}; }

MDM_INLINE float reduce_max(Floats a) { return _mm512_reduce_max_ps(a.v); }
MDM_INLINE float reduce_add(Floats a) { return _mm512_reduce_add_ps(a.v); }

MDM_INLINE Words words_from(uint32_t x) { return {_mm512_set1_epi32(static_cast<int>(x))}; }
MDM_INLINE Words iota(uint32_t first) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return {_mm512_add_epi32(lanes, words_from(first).v)};
}
MDM_INLINE Words load(const uint32_t* p) { return {_mm512_loadu_si512(p)}; }
MDM_INLINE void store(uint32_t* p, Words a) { _mm512_storeu_si512(p, a.v); }
MDM_INLINE Words add_words(Words a, Words b) { return {_mm512_add_epi32(a.v, b.v)}; }
MDM_INLINE Words sub_words(Words a, Words b) { return {_mm512_sub_epi32(a.v, b.v)}; }
MDM_INLINE Words xor_words(Words a, Words b) { return {_mm512_xor_si512(a.v, b.v)}; }
MDM_INLINE Words and_words(Words a, Words b) { return {_mm512_and_si512(a.v, b.v)}; }
template <int n>
MDM_INLINE Words shift_left(Words a) {
  return {_mm512_slli_epi32(a.v, n)};
}
template <int n>
MDM_INLINE Words shift_right_signed(Words a) {
  return {_mm512_srai_epi32(a.v, n)};
}
MDM_INLINE void multiply_wide(Words a, uint32_t multiplier, Words* high, Words* low) {
  const __m512i m = words_from(multiplier).v;
  const __m512i even = _mm512_mul_epu32(a.v, m);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(a.v, 32), m);
  *high = {_mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd)};
  *low = {_mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32))};
}

// Packs the lanes of `mask` to the front; writes all sixteen places.
MDM_INLINE void store_compressed(float* p, uint32_t mask, Floats a) {
  _mm512_storeu_ps(p, _mm512_maskz_compress_ps(static_cast<__mmask16>(mask), a.v));
}
MDM_INLINE void store_compressed(uint32_t* p, uint32_t mask, Words a) {
  _mm512_storeu_si512(p, _mm512_maskz_compress_epi32(static_cast<__mmask16>(mask), a.v));
}

MDM_INLINE Words as_words(Floats a) { return {_mm512_castps_si512(a.v)}; }
MDM_INLINE Floats as_floats(Words a) { return {_mm512_castsi512_ps(a.v)}; }
MDM_INLINE Floats signed_to_float(Words a) { return {_mm512_cvtepi32_ps(a.v)}; }
MDM_INLINE Words truncate(Floats a) { return {_mm512_cvttps_epi32(a.v)}; }

MDM_INLINE Floats float_from_u64(Words high, Words low) {
  // Interleaving within 128-bit quarters puts lanes 0 1 4 5 8 9 12 13 into one register, the others into the next.
  const __m256 first = _mm512_cvtepu64_ps(_mm512_unpacklo_epi32(low.v, high.v));
  const __m256 second = _mm512_cvtepu64_ps(_mm512_unpackhi_epi32(low.v, high.v));
  const __m512i order = _mm512_setr_epi32(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
  return {_mm512_permutexvar_ps(order, _mm512_insertf32x8(_mm512_castps256_ps512(first), second, 1))};
}

constexpr bool kHasTable = true;
struct Table {
  __m512i first, last;
};
MDM_INLINE Table load_table(const uint32_t* p) { return {_mm512_loadu_si512(p), _mm512_loadu_si512(p + 16)}; }
MDM_INLINE Words look_up(const Table& table, Words w) {
  return {_mm512_permutex2var_epi32(table.first, w.v, table.last)};
}

}  // namespace MDM_NAMESPACE
