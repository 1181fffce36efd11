// What the matrix products of csrc/cpu multiply: C[row][lane] = sum over step of A[row][step] * B[step][lane], in 32-bit
// words. A word is a float32, or a pair of bfloat16 whose products with the other operand's pair are added.
#pragma once

#include "cpu/simd.h"

namespace MDM_NAMESPACE {

// A
struct Operand {
  const char* words;  // at any address: strides of bfloat16 tensors may be odd
  int64_t step_bytes;
  int64_t row_bytes;
};

// Rows of memory, words side by side.
MDM_INLINE Operand rows_of_words(const void* words, int64_t row_bytes) {
  return {static_cast<const char*>(words), 4, row_bytes};
}

// B, in lines of registers: column c of line i at words[i * line_stride + c / 16 * group_stride + c % 16].
struct Panels {
  float* words;
  int64_t line_stride;
  int64_t group_stride;
};

// C, in lines that lie whole in memory.
struct Lines {
  float* words;
  int64_t stride;
};

MDM_INLINE Panels panels_of(Lines lines) { return {lines.words, lines.stride, kLanes}; }

// Panels [groups][lines][16], which the first-level cache holds whatever the number of groups.
MDM_INLINE Panels as_panels(float* words, int64_t lines) { return {words, kLanes, lines * kLanes}; }

}  // namespace MDM_NAMESPACE
