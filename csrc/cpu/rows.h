// One row of an argument as contiguous memory: the tensor's own where its last dimension is contiguous, else a copy in
// scratch. Kernels then have plain loops over plain arrays, which the compiler vectorises.
#pragma once

#include "core/tensor_view.h"
#include "cpu/simd.h"

namespace MDM_NAMESPACE {

// Hands out pieces of a kernel's scratch, each starting at a multiple of 8 bytes.
struct Scratch {
  uint64_t* next;

  template <class T>
  T* take(int64_t count) {
    void* piece = next;
    next += (count * static_cast<int64_t>(sizeof(T)) + 7) / 8;
    return static_cast<T*>(piece);
  }
};

// Where the argument was not given the row is `absent` throughout.
template <class T>
static inline const T* row_of(const Grid<T>& grid, int64_t row, int64_t length, T absent, T* buffer) {
  if (grid.data == nullptr) {
    for (int64_t col = 0; col < length; ++col) buffer[col] = absent;
    return buffer;
  }
  if (grid.col_stride == 1) return grid.data + row * grid.row_stride;
  for (int64_t col = 0; col < length; ++col) buffer[col] = at(grid, row, col);
  return buffer;
}

// Scores as float32.
static inline const float* row_of(const FloatGrid& grid, int64_t row, int64_t length, float* buffer) {
  const bool contiguous = grid.col_stride == 1;
  if (contiguous && grid.type == FloatType::float32)
    return static_cast<const float*>(grid.data) + row * grid.row_stride;
  int64_t col = 0;
  if (contiguous) {
    const uint16_t* raw = static_cast<const uint16_t*>(grid.data) + row * grid.row_stride;
    const bool half = grid.type == FloatType::float16;
    for (; col + kLanes <= length; col += kLanes) {
      store(buffer + col, half ? load_float16(raw + col) : load_bfloat16(raw + col));
    }
  }
  for (; col < length; ++col) buffer[col] = at(grid, row, col);
  return buffer;
}

}  // namespace MDM_NAMESPACE
