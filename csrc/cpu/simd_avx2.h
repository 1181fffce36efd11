// simd.h on AVX2 with FMA and F16C: two registers of 8 lanes.
#pragma once

#include <immintrin.h>

#include "core/config.h"

namespace MDM_NAMESPACE {

struct Floats {
  __m256 lo, hi;
};
struct Words {
  __m256i lo, hi;
};
struct Mask {
  __m256 lo, hi;
};

MDM_INLINE Floats broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
MDM_INLINE Floats load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
MDM_INLINE void store(float* p, Floats a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
MDM_INLINE __m128i load_halves(const uint16_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
MDM_INLINE __m256 widen_bfloat16(__m128i raw) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(raw), 16));
}
MDM_INLINE Floats load_bfloat16(const uint16_t* p) {
  return {widen_bfloat16(load_halves(p)), widen_bfloat16(load_halves(p + 8))};
}
MDM_INLINE Floats load_float16(const uint16_t* p) {
  return {_mm256_cvtph_ps(load_halves(p)), _mm256_cvtph_ps(load_halves(p + 8))};
}
MDM_INLINE __m256i round_to_bfloat16(__m256 a) {
  const __m256i word = _mm256_castps_si256(a);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(word, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(word, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256 nan = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000));
  const __m256 safe = _mm256_blendv_ps(_mm256_castsi256_ps(rounded), nan, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  return _mm256_srli_epi32(_mm256_castps_si256(safe), 16);
}
MDM_INLINE void store_bfloat16(uint16_t* p, Floats a) {
  const __m256i packed = _mm256_packus_epi32(round_to_bfloat16(a.lo), round_to_bfloat16(a.hi));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xD8));
}
MDM_INLINE void store_float16(uint16_t* p, Floats a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT));
}

MDM_INLINE Floats add(Floats a, Floats b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
MDM_INLINE Floats sub(Floats a, Floats b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
MDM_INLINE Floats mul(Floats a, Floats b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
MDM_INLINE Floats div(Floats a, Floats b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
MDM_INLINE Floats multiply_add(Floats a, Floats b, Floats c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
MDM_INLINE Floats maximum(Floats a, Floats b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }

MDM_INLINE Mask at_least(Floats a, Floats b) {
  return {_mm256_cmp_ps(a.lo, b.lo, _CMP_GE_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_GE_OQ)};
}
MDM_INLINE Mask equal(Floats a, Floats b) {
  return {_mm256_cmp_ps(a.lo, b.lo, _CMP_EQ_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_EQ_OQ)};
}
MDM_INLINE Mask unordered(Floats a, Floats b) {
  return {_mm256_cmp_ps(a.lo, b.lo, _CMP_UNORD_Q), _mm256_cmp_ps(a.hi, b.hi, _CMP_UNORD_Q)};
}
MDM_INLINE uint32_t bits(Mask mask) {
  return static_cast<uint32_t>(_mm256_movemask_ps(mask.lo)) | static_cast<uint32_t>(_mm256_movemask_ps(mask.hi)) << 8;
}
MDM_INLINE Floats select(Mask mask, Floats yes, Floats no) {
  return {_mm256_blendv_ps(no.lo, yes.lo, mask.lo), _mm256_blendv_ps(no.hi, yes.hi, mask.hi)};
}

MDM_INLINE float reduce_max(Floats a) {
  const __m256 eight = _mm256_max_ps(a.lo, a.hi);
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_shuffle_ps(four, four, 1)));
}
MDM_INLINE float reduce_add(Floats a) {
  const __m256 eight = _mm256_add_ps(a.lo, a.hi);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_shuffle_ps(four, four, 1)));
}

MDM_INLINE Words words_from(uint32_t x) {
  const __m256i eight = _mm256_set1_epi32(static_cast<int>(x));
  return {eight, eight};
}
MDM_INLINE Words iota(uint32_t first) {
  const __m256i start = _mm256_set1_epi32(static_cast<int>(first));
  return {_mm256_add_epi32(start, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
          _mm256_add_epi32(start, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15))};
}
MDM_INLINE Words load(const uint32_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8))};
}
MDM_INLINE void store(uint32_t* p, Words a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.lo);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), a.hi);
}
MDM_INLINE Words add_words(Words a, Words b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
MDM_INLINE Words sub_words(Words a, Words b) { return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)}; }
MDM_INLINE Words and_words(Words a, Words b) { return {_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)}; }
MDM_INLINE Words xor_words(Words a, Words b) { return {_mm256_xor_si256(a.lo, b.lo), _mm256_xor_si256(a.hi, b.hi)}; }
template <int n>
MDM_INLINE Words shift_left(Words a) {
  return {_mm256_slli_epi32(a.lo, n), _mm256_slli_epi32(a.hi, n)};
}
template <int n>
MDM_INLINE Words shift_right_signed(Words a) {
  return {_mm256_srai_epi32(a.lo, n), _mm256_srai_epi32(a.hi, n)};
}
MDM_INLINE void multiply_wide(__m256i a, __m256i m, __m256i* high, __m256i* low) {
  const __m256i even = _mm256_mul_epu32(a, m);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), m);
  *high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
  *low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
}
MDM_INLINE void multiply_wide(Words a, uint32_t multiplier, Words* high, Words* low) {
  const __m256i m = _mm256_set1_epi32(static_cast<int>(multiplier));
  multiply_wide(a.lo, m, &high->lo, &low->lo);
  multiply_wide(a.hi, m, &high->hi, &low->hi);
}

MDM_INLINE Words as_words(Floats a) { return {_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)}; }
MDM_INLINE Floats as_floats(Words a) { return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)}; }
MDM_INLINE Floats signed_to_float(Words a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
MDM_INLINE Words truncate(Floats a) { return {_mm256_cvttps_epi32(a.lo), _mm256_cvttps_epi32(a.hi)}; }

// AVX2 has no such conversion; by scalars it is a few percent of a sampled row.
MDM_INLINE Floats float_from_u64(Words high, Words low) {
  uint32_t highs[16], lows[16];
  float values[16];
  store(highs, high);
  store(lows, low);
  for (int i = 0; i < 16; ++i) values[i] = static_cast<float>(static_cast<uint64_t>(highs[i]) << 32 | lows[i]);
  return load(values);
}

constexpr bool kHasTable = false;
struct Table {};
MDM_INLINE Table load_table(const uint32_t*) { return {}; }
MDM_INLINE Words look_up(const Table&, Words w) { return w; }

}  // namespace MDM_NAMESPACE
