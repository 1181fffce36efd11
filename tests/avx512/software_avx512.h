// AVX-512 in software: the intrinsics that csrc/cpu uses, as loops over lanes, after the operation sections of Intel's Software
// Developer's Manual (volume 2). Included before a kernel that is compiled without AVX-512, it makes that kernel take its
// AVX-512 road on any processor with AVX2.
//
// Two things are this file's own: a dot product of bfloat16 pairs adds its odd product first, each addition fused, which the
// manual leaves open; and subnormals are flushed in it and in conversions to bfloat16 only, as the manual has it.
#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace software_avx512 {

typedef float Float16 __attribute__((vector_size(64)));
typedef int32_t Int16 __attribute__((vector_size(64)));
typedef uint32_t Word16 __attribute__((vector_size(64)));
typedef uint64_t Word8 __attribute__((vector_size(64)));
typedef uint16_t Half32 __attribute__((vector_size(64)));
typedef uint32_t Word8Of256 __attribute__((vector_size(32)));
typedef uint16_t Half16 __attribute__((vector_size(32)));
typedef float Float8 __attribute__((vector_size(32)));

#define SOFTWARE __attribute__((always_inline)) static inline
#define LANES for (int i = 0; i < 16; ++i)

template <class To, class From>
SOFTWARE To cast(From x) {
  static_assert(sizeof(To) == sizeof(From), "the same bits");
  To out;
  __builtin_memcpy(&out, &x, sizeof(out));
  return out;
}
SOFTWARE Word16 words(__m512i a) { return cast<Word16>(a); }
SOFTWARE Float16 floats(__m512 a) { return cast<Float16>(a); }
SOFTWARE __m512i whole(Word16 a) { return cast<__m512i>(a); }
SOFTWARE __m512 whole(Float16 a) { return cast<__m512>(a); }

// ---- memory, constants, the same bits under another name ----

SOFTWARE __m512 loadu_ps(const void* p) {
  __m512 out;
  __builtin_memcpy(&out, p, sizeof(out));
  return out;
}
SOFTWARE __m512i loadu_si512(const void* p) {
  __m512i out;
  __builtin_memcpy(&out, p, sizeof(out));
  return out;
}
SOFTWARE void storeu_ps(void* p, __m512 a) { __builtin_memcpy(p, &a, sizeof(a)); }
SOFTWARE void storeu_si512(void* p, __m512i a) { __builtin_memcpy(p, &a, sizeof(a)); }
SOFTWARE __m512 set1_ps(float x) { return whole(Float16{} + x); }
SOFTWARE __m512i set1_epi32(int x) { return whole(Word16{} + static_cast<uint32_t>(x)); }
SOFTWARE __m512i set1_epi64(int64_t x) { return cast<__m512i>(Word8{} + static_cast<uint64_t>(x)); }
template <class... Ints>
SOFTWARE __m512i setr_epi32(Ints... x) {
  return cast<__m512i>(Int16{x...});
}
SOFTWARE __m512 castsi512_ps(__m512i a) { return cast<__m512>(a); }
SOFTWARE __m512i castps_si512(__m512 a) { return cast<__m512i>(a); }
SOFTWARE __m256i castsi512_si256(__m512i a) {
  __m256i out;
  __builtin_memcpy(&out, &a, sizeof(out));
  return out;
}
SOFTWARE __m512 castps256_ps512(__m256 a) {
  __m512 out{};
  __builtin_memcpy(&out, &a, sizeof(a));
  return out;
}
SOFTWARE __m512 insertf32x8(__m512 a, __m256 b, int half) {
  __builtin_memcpy(reinterpret_cast<char*>(&a) + 32 * half, &b, sizeof(b));
  return a;
}
SOFTWARE __m256i extracti64x4_epi64(__m512i a, int half) {
  __m256i out;
  __builtin_memcpy(&out, reinterpret_cast<const char*>(&a) + 32 * half, sizeof(out));
  return out;
}

// ---- float arithmetic ----

SOFTWARE __m512 add_ps(__m512 a, __m512 b) { return whole(floats(a) + floats(b)); }
SOFTWARE __m512 sub_ps(__m512 a, __m512 b) { return whole(floats(a) - floats(b)); }
SOFTWARE __m512 mul_ps(__m512 a, __m512 b) { return whole(floats(a) * floats(b)); }
SOFTWARE __m512 div_ps(__m512 a, __m512 b) { return whole(floats(a) / floats(b)); }
SOFTWARE __m512 fmadd_ps(__m512 a, __m512 b, __m512 c) {
  Float16 out;
  LANES out[i] = __builtin_fmaf(floats(a)[i], floats(b)[i], floats(c)[i]);
  return whole(out);
}
// The second operand where either is NaN, and of two zeros.
SOFTWARE __m512 max_ps(__m512 a, __m512 b) {
  Float16 out;
  LANES out[i] = floats(a)[i] > floats(b)[i] ? floats(a)[i] : floats(b)[i];
  return whole(out);
}
// a 2^floor(b).
SOFTWARE __m512 scalef_ps(__m512 a, __m512 b) {
  Float16 out;
  LANES {
    const float exponent = __builtin_floorf(floats(b)[i]);
    const float within = exponent < -1000.0f ? -1000.0f : exponent > 1000.0f ? 1000.0f : exponent;
    out[i] = exponent != exponent ? exponent : __builtin_ldexpf(floats(a)[i], static_cast<int>(within));
  }
  return whole(out);
}
// imm8 0: to the nearest integer, even on ties.
SOFTWARE __m512 roundscale_ps(__m512 a, int) {
  Float16 out;
  LANES out[i] = __builtin_nearbyintf(floats(a)[i]);
  return whole(out);
}
// Both reductions halve: 16 lanes, 8, 4, 2, 1.
SOFTWARE float reduce_max_ps(__m512 a) {
  Float16 x = floats(a);
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) x[i] = x[i + half] > x[i] ? x[i + half] : x[i];
  }
  return x[0];
}
SOFTWARE float reduce_add_ps(__m512 a) {
  Float16 x = floats(a);
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) x[i] += x[i + half];
  }
  return x[0];
}

// ---- masks ----

SOFTWARE __mmask16 cmp_ps_mask(__m512 a, __m512 b, int predicate) {
  unsigned mask = 0;
  LANES {
    const float x = floats(a)[i], y = floats(b)[i];
    const bool hit = predicate == _CMP_GE_OQ ? x >= y : predicate == _CMP_EQ_OQ ? x == y : x != x || y != y;
    mask |= static_cast<unsigned>(hit) << i;
  }
  return static_cast<__mmask16>(mask);
}
SOFTWARE __mmask16 cmpge_epu32_mask(__m512i a, __m512i b) {
  unsigned mask = 0;
  LANES mask |= static_cast<unsigned>(words(a)[i] >= words(b)[i]) << i;
  return static_cast<__mmask16>(mask);
}
SOFTWARE __mmask8 cmpge_epu64_mask(__m512i a, __m512i b) {
  unsigned mask = 0;
  for (int i = 0; i < 8; ++i) mask |= static_cast<unsigned>(cast<Word8>(a)[i] >= cast<Word8>(b)[i]) << i;
  return static_cast<__mmask8>(mask);
}
SOFTWARE __mmask16 test_epi32_mask(__m512i a, __m512i b) {
  unsigned mask = 0;
  LANES mask |= static_cast<unsigned>((words(a)[i] & words(b)[i]) != 0) << i;
  return static_cast<__mmask16>(mask);
}
SOFTWARE __m512i mask_blend_epi32(__mmask16 mask, __m512i no, __m512i yes) {
  Word16 out;
  LANES out[i] = (mask >> i & 1) != 0 ? words(yes)[i] : words(no)[i];
  return whole(out);
}
SOFTWARE __m512 mask_blend_ps(__mmask16 mask, __m512 no, __m512 yes) {
  return castsi512_ps(mask_blend_epi32(mask, castps_si512(no), castps_si512(yes)));
}
SOFTWARE __m512i mask_mov_epi32(__m512i no, __mmask16 mask, __m512i yes) { return mask_blend_epi32(mask, no, yes); }
SOFTWARE __m512i maskz_compress_epi32(__mmask16 mask, __m512i a) {
  Word16 out{};
  int count = 0;
  LANES {
    if ((mask >> i & 1) != 0) out[count++] = words(a)[i];
  }
  return whole(out);
}
SOFTWARE __m512 maskz_compress_ps(__mmask16 mask, __m512 a) {
  return castsi512_ps(maskz_compress_epi32(mask, castps_si512(a)));
}
SOFTWARE __m512i maskz_compress_epi64(__mmask8 mask, __m512i a) {
  Word8 out{};
  int count = 0;
  for (int i = 0; i < 8; ++i) {
    if ((mask >> i & 1) != 0) out[count++] = cast<Word8>(a)[i];
  }
  return cast<__m512i>(out);
}

// ---- integers ----

SOFTWARE __m512i add_epi32(__m512i a, __m512i b) { return whole(words(a) + words(b)); }
SOFTWARE __m512i sub_epi32(__m512i a, __m512i b) { return whole(words(a) - words(b)); }
SOFTWARE __m512i and_si512(__m512i a, __m512i b) { return whole(words(a) & words(b)); }
SOFTWARE __m512i or_si512(__m512i a, __m512i b) { return whole(words(a) | words(b)); }
SOFTWARE __m512i xor_si512(__m512i a, __m512i b) { return whole(words(a) ^ words(b)); }
SOFTWARE __m512i slli_epi32(__m512i a, unsigned n) { return whole(words(a) << n); }
SOFTWARE __m512i srli_epi32(__m512i a, unsigned n) { return whole(words(a) >> n); }
SOFTWARE __m512i srai_epi32(__m512i a, unsigned n) { return cast<__m512i>(cast<Int16>(a) >> static_cast<int>(n)); }
SOFTWARE __m512i slli_epi64(__m512i a, unsigned n) { return cast<__m512i>(cast<Word8>(a) << n); }
SOFTWARE __m512i srli_epi64(__m512i a, unsigned n) { return cast<__m512i>(cast<Word8>(a) >> n); }
SOFTWARE __m512i mul_epu32(__m512i a, __m512i b) {
  return cast<__m512i>((cast<Word8>(a) & 0xffffffffu) * (cast<Word8>(b) & 0xffffffffu));
}
SOFTWARE __m512i mask_add_epi32(__m512i no, __mmask16 mask, __m512i a, __m512i b) {
  return mask_blend_epi32(mask, no, add_epi32(a, b));
}

// ---- order ----

SOFTWARE __m512i permutex2var_epi32(__m512i a, __m512i index, __m512i b) {
  Word16 out;
  LANES {
    const uint32_t at = words(index)[i] & 31;
    out[i] = at < 16 ? words(a)[at] : words(b)[at - 16];
  }
  return whole(out);
}
SOFTWARE __m512 permutex2var_ps(__m512 a, __m512i index, __m512 b) {
  return castsi512_ps(permutex2var_epi32(castps_si512(a), index, castps_si512(b)));
}
SOFTWARE __m512 permutexvar_ps(__m512i index, __m512 a) {
  return permutex2var_ps(a, and_si512(index, set1_epi32(15)), a);
}
SOFTWARE __m512i permutexvar_epi16(__m512i index, __m512i a) {
  Half32 out;
  for (int i = 0; i < 32; ++i) out[i] = cast<Half32>(a)[cast<Half32>(index)[i] & 31];
  return cast<__m512i>(out);
}
// Within quarters of four lanes: 0 of a, 0 of b, 1 of a, 1 of b; or 2 and 3.
SOFTWARE __m512i unpack(__m512i a, __m512i b, int first) {
  Word16 out;
  LANES {
    const int from = i / 4 * 4 + first + i % 4 / 2;
    out[i] = i % 2 == 0 ? words(a)[from] : words(b)[from];
  }
  return whole(out);
}
SOFTWARE __m512i unpacklo_epi32(__m512i a, __m512i b) { return unpack(a, b, 0); }
SOFTWARE __m512i unpackhi_epi32(__m512i a, __m512i b) { return unpack(a, b, 2); }

// ---- conversions ----

SOFTWARE __m512i cvtepu16_epi32(__m256i a) {
  Word16 out;
  LANES out[i] = cast<Half16>(a)[i];
  return whole(out);
}
SOFTWARE __m256i cvtepi32_epi16(__m512i a) {
  Half16 out;
  LANES out[i] = static_cast<uint16_t>(words(a)[i]);
  return cast<__m256i>(out);
}
SOFTWARE __m512 cvtepi32_ps(__m512i a) {
  Float16 out;
  LANES out[i] = static_cast<float>(cast<Int16>(a)[i]);
  return whole(out);
}
SOFTWARE __m512i cvttps_epi32(__m512 a) {  // what no int32 holds becomes 0x80000000
  Word16 out;
  LANES {
    const float x = floats(a)[i];
    out[i] = x >= -0x1p31f && x < 0x1p31f ? static_cast<uint32_t>(static_cast<int32_t>(x)) : 0x80000000u;
  }
  return whole(out);
}
SOFTWARE __m256 cvtepu64_ps(__m512i a) {
  Float8 out;
  for (int i = 0; i < 8; ++i) out[i] = static_cast<float>(cast<Word8>(a)[i]);
  return cast<__m256>(out);
}
SOFTWARE __m512 cvtph_ps(__m256i a) {  // by F16C, in halves
  const __m256 low = _mm256_cvtph_ps(_mm256_castsi256_si128(a));
  return insertf32x8(castps256_ps512(low), _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1)), 1);
}
SOFTWARE __m256i cvtps_ph(__m512 a, int) {
  __m256 halves[2];
  __builtin_memcpy(halves, &a, sizeof(a));
  return _mm256_set_m128i(_mm256_cvtps_ph(halves[1], _MM_FROUND_TO_NEAREST_INT),
                          _mm256_cvtps_ph(halves[0], _MM_FROUND_TO_NEAREST_INT));
}

// ---- bfloat16 ----

SOFTWARE float flushed(float x) { return __builtin_fabsf(x) < 0x1p-126f ? __builtin_copysignf(0.0f, x) : x; }
SOFTWARE uint16_t to_bfloat16(float x) {
  const uint32_t word = cast<uint32_t>(flushed(x));
  if (x != x) return static_cast<uint16_t>(word >> 16 | 0x40u);  // a quiet NaN
  return static_cast<uint16_t>((word + 0x7fffu + (word >> 16 & 1u)) >> 16);
}
SOFTWARE Half16 cvtneps_pbh(__m512 a) {
  Half16 out;
  LANES out[i] = to_bfloat16(floats(a)[i]);
  return out;
}
SOFTWARE Half32 cvtne2ps_pbh(__m512 upper, __m512 lower) {
  Half32 out;
  LANES out[i] = to_bfloat16(floats(lower)[i]), out[16 + i] = to_bfloat16(floats(upper)[i]);
  return out;
}
template <class Pairs>
SOFTWARE __m512 dpbf16_ps(__m512 sum, Pairs a, Pairs b) {
  const Word16 left = cast<Word16>(a), right = cast<Word16>(b);
  Float16 out;
  LANES {
    const auto part = [](uint32_t word) { return flushed(cast<float>(word)); };
    float x = flushed(floats(sum)[i]);
    x = flushed(__builtin_fmaf(part(left[i] & 0xffff0000u), part(right[i] & 0xffff0000u), x));
    out[i] = flushed(__builtin_fmaf(part(left[i] << 16), part(right[i] << 16), x));
  }
  return whole(out);
}

#undef LANES
#undef SOFTWARE

}  // namespace software_avx512

// What kernels call them; GCC has some as macros.
#undef _mm512_add_epi32
#define _mm512_add_epi32 software_avx512::add_epi32
#undef _mm512_add_ps
#define _mm512_add_ps software_avx512::add_ps
#undef _mm512_and_si512
#define _mm512_and_si512 software_avx512::and_si512
#undef _mm512_castps256_ps512
#define _mm512_castps256_ps512 software_avx512::castps256_ps512
#undef _mm512_castps_si512
#define _mm512_castps_si512 software_avx512::castps_si512
#undef _mm512_castsi512_ps
#define _mm512_castsi512_ps software_avx512::castsi512_ps
#undef _mm512_castsi512_si256
#define _mm512_castsi512_si256 software_avx512::castsi512_si256
#undef _mm512_cmp_ps_mask
#define _mm512_cmp_ps_mask software_avx512::cmp_ps_mask
#undef _mm512_cmpge_epu32_mask
#define _mm512_cmpge_epu32_mask software_avx512::cmpge_epu32_mask
#undef _mm512_cmpge_epu64_mask
#define _mm512_cmpge_epu64_mask software_avx512::cmpge_epu64_mask
#undef _mm512_cvtepi32_epi16
#define _mm512_cvtepi32_epi16 software_avx512::cvtepi32_epi16
#undef _mm512_cvtepi32_ps
#define _mm512_cvtepi32_ps software_avx512::cvtepi32_ps
#undef _mm512_cvtepu16_epi32
#define _mm512_cvtepu16_epi32 software_avx512::cvtepu16_epi32
#undef _mm512_cvtepu64_ps
#define _mm512_cvtepu64_ps software_avx512::cvtepu64_ps
#undef _mm512_cvtne2ps_pbh
#define _mm512_cvtne2ps_pbh software_avx512::cvtne2ps_pbh
#undef _mm512_cvtneps_pbh
#define _mm512_cvtneps_pbh software_avx512::cvtneps_pbh
#undef _mm512_cvtph_ps
#define _mm512_cvtph_ps software_avx512::cvtph_ps
#undef _mm512_cvtps_ph
#define _mm512_cvtps_ph software_avx512::cvtps_ph
#undef _mm512_cvttps_epi32
#define _mm512_cvttps_epi32 software_avx512::cvttps_epi32
#undef _mm512_div_ps
#define _mm512_div_ps software_avx512::div_ps
#undef _mm512_dpbf16_ps
#define _mm512_dpbf16_ps software_avx512::dpbf16_ps
#undef _mm512_extracti64x4_epi64
#define _mm512_extracti64x4_epi64 software_avx512::extracti64x4_epi64
#undef _mm512_fmadd_ps
#define _mm512_fmadd_ps software_avx512::fmadd_ps
#undef _mm512_insertf32x8
#define _mm512_insertf32x8 software_avx512::insertf32x8
#undef _mm512_loadu_ps
#define _mm512_loadu_ps software_avx512::loadu_ps
#undef _mm512_loadu_si512
#define _mm512_loadu_si512 software_avx512::loadu_si512
#undef _mm512_mask_add_epi32
#define _mm512_mask_add_epi32 software_avx512::mask_add_epi32
#undef _mm512_mask_blend_epi32
#define _mm512_mask_blend_epi32 software_avx512::mask_blend_epi32
#undef _mm512_mask_blend_ps
#define _mm512_mask_blend_ps software_avx512::mask_blend_ps
#undef _mm512_mask_mov_epi32
#define _mm512_mask_mov_epi32 software_avx512::mask_mov_epi32
#undef _mm512_maskz_compress_epi32
#define _mm512_maskz_compress_epi32 software_avx512::maskz_compress_epi32
#undef _mm512_maskz_compress_epi64
#define _mm512_maskz_compress_epi64 software_avx512::maskz_compress_epi64
#undef _mm512_maskz_compress_ps
#define _mm512_maskz_compress_ps software_avx512::maskz_compress_ps
#undef _mm512_max_ps
#define _mm512_max_ps software_avx512::max_ps
#undef _mm512_mul_epu32
#define _mm512_mul_epu32 software_avx512::mul_epu32
#undef _mm512_mul_ps
#define _mm512_mul_ps software_avx512::mul_ps
#undef _mm512_or_si512
#define _mm512_or_si512 software_avx512::or_si512
#undef _mm512_permutex2var_epi32
#define _mm512_permutex2var_epi32 software_avx512::permutex2var_epi32
#undef _mm512_permutex2var_ps
#define _mm512_permutex2var_ps software_avx512::permutex2var_ps
#undef _mm512_permutexvar_epi16
#define _mm512_permutexvar_epi16 software_avx512::permutexvar_epi16
#undef _mm512_permutexvar_ps
#define _mm512_permutexvar_ps software_avx512::permutexvar_ps
#undef _mm512_reduce_add_ps
#define _mm512_reduce_add_ps software_avx512::reduce_add_ps
#undef _mm512_reduce_max_ps
#define _mm512_reduce_max_ps software_avx512::reduce_max_ps
#undef _mm512_roundscale_ps
#define _mm512_roundscale_ps software_avx512::roundscale_ps
#undef _mm512_scalef_ps
#define _mm512_scalef_ps software_avx512::scalef_ps
#undef _mm512_set1_epi32
#define _mm512_set1_epi32 software_avx512::set1_epi32
#undef _mm512_set1_epi64
#define _mm512_set1_epi64 software_avx512::set1_epi64
#undef _mm512_set1_ps
#define _mm512_set1_ps software_avx512::set1_ps
#undef _mm512_setr_epi32
#define _mm512_setr_epi32 software_avx512::setr_epi32
#undef _mm512_slli_epi32
#define _mm512_slli_epi32 software_avx512::slli_epi32
#undef _mm512_slli_epi64
#define _mm512_slli_epi64 software_avx512::slli_epi64
#undef _mm512_srai_epi32
#define _mm512_srai_epi32 software_avx512::srai_epi32
#undef _mm512_srli_epi32
#define _mm512_srli_epi32 software_avx512::srli_epi32
#undef _mm512_srli_epi64
#define _mm512_srli_epi64 software_avx512::srli_epi64
#undef _mm512_storeu_ps
#define _mm512_storeu_ps software_avx512::storeu_ps
#undef _mm512_storeu_si512
#define _mm512_storeu_si512 software_avx512::storeu_si512
#undef _mm512_sub_epi32
#define _mm512_sub_epi32 software_avx512::sub_epi32
#undef _mm512_sub_ps
#define _mm512_sub_ps software_avx512::sub_ps
#undef _mm512_test_epi32_mask
#define _mm512_test_epi32_mask software_avx512::test_epi32_mask
#undef _mm512_unpackhi_epi32
#define _mm512_unpackhi_epi32 software_avx512::unpackhi_epi32
#undef _mm512_unpacklo_epi32
#define _mm512_unpacklo_epi32 software_avx512::unpacklo_epi32
#undef _mm512_xor_si512
#define _mm512_xor_si512 software_avx512::xor_si512

// What says that a processor has them.
#define __AVX512F__ 1
#define __AVX512DQ__ 1
#define __AVX512BW__ 1
#ifdef SOFTWARE_AVX512_BF16
#define __AVX512BF16__ 1
#endif
