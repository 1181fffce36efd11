// Borrowed views of tensor memory: pointer and strides (in elements), nothing else. Strides may be 0 (broadcast).
#pragma once

#include "core/config.h"

namespace mdmcorrect {

// float64 only where an operator says that it takes it.
enum class FloatType : int32_t { float32 = 0, bfloat16 = 1, float16 = 2, float64 = 3 };

// [B]: one integer per row (counts, seeds, steps); row_stride 0 when all rows share one.
struct RowInts {
  const int64_t* data;
  int64_t row_stride;
};

// [B, L] of T; data null when the optional argument was not given.
template <class T>
struct Grid {
  const T* data;
  int64_t row_stride;
  int64_t col_stride;
};

// [B, L] of float32, bfloat16 or float16; data null when not given.
struct FloatGrid {
  const void* data;
  int64_t row_stride;
  int64_t col_stride;
  FloatType type;
};

}  // namespace mdmcorrect

namespace MDM_NAMESPACE {

MDM_INLINE int64_t row_value(const RowInts& view, int64_t row) { return view.data[row * view.row_stride]; }

template <class T>
MDM_INLINE T at(const Grid<T>& view, int64_t row, int64_t col) {
  return view.data[row * view.row_stride + col * view.col_stride];
}

// at(), or `absent` where the argument was not given.
template <class T>
MDM_INLINE T at_or(const Grid<T>& view, int64_t row, int64_t col, T absent) {
  return view.data == nullptr ? absent : at(view, row, col);
}

MDM_INLINE float float_from_bits(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
#endif
}

MDM_INLINE float bfloat16_to_float(uint16_t bits) { return float_from_bits(static_cast<uint32_t>(bits) << 16); }

// Exact for every input, subnormals included: the exponent is rebiased by a power-of-two product, never by tables.
MDM_INLINE float float16_to_float(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fffu) << 13;
  if ((bits & 0x7c00u) == 0x7c00u) {  // inf and NaN
    return float_from_bits(sign | 0x7f800000u | (magnitude & 0x007fffffu));
  }
  const float scaled = float_from_bits(magnitude) * float_from_bits(0x77800000u);  // 2^112
  return sign != 0 ? -scaled : scaled;
}

MDM_INLINE float at(const FloatGrid& view, int64_t row, int64_t col) {
  const int64_t offset = row * view.row_stride + col * view.col_stride;
  switch (view.type) {
    case FloatType::bfloat16:
      return bfloat16_to_float(static_cast<const uint16_t*>(view.data)[offset]);
    case FloatType::float16:
      return float16_to_float(static_cast<const uint16_t*>(view.data)[offset]);
    default:
      return static_cast<const float*>(view.data)[offset];
  }
}

}  // namespace MDM_NAMESPACE
