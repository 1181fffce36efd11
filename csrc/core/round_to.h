// Rounding to 16-bit types, to nearest even.
#pragma once

#include "core/tensor_view.h"

namespace MDM_NAMESPACE {

MDM_INLINE uint32_t bits_of_float(float x) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(x);
#else
  uint32_t word;
  __builtin_memcpy(&word, &x, sizeof(word));
  return word;
#endif
}

// Keeps the upper 32 - `dropped` bits of a finite float.
MDM_INLINE float round_mantissa(float x, int dropped) {
  const uint32_t word = bits_of_float(x);
  const uint32_t odd = (word >> dropped) & 1u;
  const uint32_t half = (1u << (dropped - 1)) - 1u;
  return float_from_bits((word + half + odd) >> dropped << dropped);
}

MDM_INLINE uint16_t float_to_bfloat16(float x) {
  if (x != x) return 0x7fc0;
  const uint32_t word = bits_of_float(x);
  return static_cast<uint16_t>((word + 0x7fffu + ((word >> 16) & 1u)) >> 16);
}

MDM_INLINE uint16_t float_to_float16(float x) {
  const uint32_t word = bits_of_float(x);
  const uint32_t sign = (word >> 16) & 0x8000u, magnitude = word & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and above
  if (magnitude < 0x38800000u) {  // subnormals are multiples of 2^-24, the spacing of float32 in [1/2, 1)
    return static_cast<uint16_t>(sign | (bits_of_float(float_from_bits(magnitude) + 0.5f) - 0x3f000000u));
  }
  return static_cast<uint16_t>(sign | ((magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13));
}

// A probability rounded to a 16-bit type and back: where the original computes its softmax in that type, the ties this
// makes are part of its behaviour. x in [0, 1]; NaN stays.
MDM_INLINE float round_probability(float x, FloatType type) {
  if (x != x || type == FloatType::float32) return x;
  if (type == FloatType::bfloat16) return round_mantissa(x, 16);
  if (x >= 0x1p-14f) return round_mantissa(x, 13);
  return (x + 0x1p-1f) - 0x1p-1f;  // float16 subnormals are multiples of 2^-24, the spacing of float32 in [1/2, 1)
}

}  // namespace MDM_NAMESPACE
