// Sixteen rows of sixteen 32-bit words, transposed.
#pragma once

#include "cpu/simd.h"

namespace MDM_NAMESPACE {

// Columns of sixteen rows of words become sixteen rows: to[c * to_stride + r] = word c of rows[r].
#if defined(__AVX512F__)
template <int distance>
MDM_INLINE void exchange(__m512 (&line)[16]) {
  const __m512i lane = iota(0).v;
  const __mmask16 second = _mm512_test_epi32_mask(lane, _mm512_set1_epi32(distance));
  const __m512i low = _mm512_mask_add_epi32(lane, second, lane, _mm512_set1_epi32(16 - distance));
  const __m512i high =
      _mm512_mask_add_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32(distance)), second, lane, _mm512_set1_epi32(16));
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    if (i & distance) continue;
    const __m512 a = line[i], b = line[i + distance];
    line[i] = _mm512_permutex2var_ps(a, low, b);
    line[i + distance] = _mm512_permutex2var_ps(a, high, b);
  }
}

MDM_INLINE void transpose_words(const char* const (&rows)[16], float* to, int64_t to_stride) {
  __m512 line[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) line[i] = _mm512_loadu_ps(rows[i]);
  exchange<8>(line);
  exchange<4>(line);
  exchange<2>(line);
  exchange<1>(line);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) _mm512_storeu_ps(to + i * to_stride, line[i]);
}
#else
MDM_INLINE void transpose_words(const char* const (&rows)[16], float* to, int64_t to_stride) {
  for (int r = 0; r < 16; ++r) {
    for (int c = 0; c < 16; ++c) __builtin_memcpy(to + c * to_stride + r, rows[r] + 4 * c, 4);
  }
}
#endif

}  // namespace MDM_NAMESPACE
