// Tensor memory into the operands of attention_product.h, and results back.
#pragma once

#include "core/bidirectional_attention_params.h"
#include "cpu/attention_product.h"
#include "cpu/transpose.h"

namespace MDM_NAMESPACE {

MDM_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

MDM_INLINE int64_t bytes_of(FloatType type) {
  return type == FloatType::float64 ? 8 : (type == FloatType::float32 ? 4 : 2);
}

// The first element of row `row` of head h of sequence b.
MDM_INLINE const char* row_address(const Heads& heads, FloatType type, int64_t b, int64_t h, int64_t row) {
  return static_cast<const char*>(heads.data) +
         (b * heads.batch_stride + h * heads.head_stride + row * heads.row_stride) * bytes_of(type);
}
MDM_INLINE char* row_address(const MutableHeads& heads, FloatType type, int64_t b, int64_t h, int64_t row) {
  return static_cast<char*>(heads.data) +
         (b * heads.batch_stride + h * heads.head_stride + row * heads.row_stride) * bytes_of(type);
}

// Sixteen columns of a row, as float32.
MDM_INLINE Floats load_as(FloatType type, const char* row, int64_t column) {
  if (type == FloatType::float32) return load(reinterpret_cast<const float*>(row) + column);
  const uint16_t* halves = reinterpret_cast<const uint16_t*>(row) + column;
  return type == FloatType::bfloat16 ? load_bfloat16(halves) : load_float16(halves);
}

// Rows of a tensor as words: where they are, or widened into `wide`, [count][width].
template <class Arithmetic>
static inline Operand rows_operand(const char* rows, int64_t row_bytes, FloatType type, int64_t count, int64_t width,
                                   float* wide) {
  if (Arithmetic::kPack == 2 || type == FloatType::float32) return rows_of_words(rows, row_bytes);
  for (int64_t row = 0; row < count; ++row) {
    for (int64_t i = 0; i < width; i += kLanes) store(wide + row * width + i, load_as(type, rows + row * row_bytes, i));
  }
  return rows_of_words(wide, width * 4);
}

// `count` rows of `words` 32-bit words as a panel [words][16 * vectors] whose lanes are the rows; lanes beyond are zero.
static inline void pack_columns(const char* from, int64_t row_bytes, int64_t count, int64_t words, int vectors,
                                float* panel) {
  alignas(64) static const char zeros[4 * 256] = {};
  for (int vector = 0; vector < vectors; ++vector) {
    for (int64_t word = 0; word < words; word += 16) {
      const char* rows[16];
      for (int r = 0; r < 16; ++r) {
        const int64_t row = vector * kLanes + r;
        rows[r] = (row < count ? from + row * row_bytes : zeros) + 4 * word;
      }
      transpose_words(rows, panel + word * vectors * kLanes + vector * kLanes, vectors * kLanes);
    }
  }
}

// [rows, width] with rows as steps: with pairs, row 2i meets row 2i + 1 in a word, and a last odd row meets zeros.
#if defined(__AVX512BF16__)
static inline void pack_rows(Bfloat16Pairs, const char* from, int64_t row_bytes, FloatType, int64_t rows, int64_t width,
                             Panels to) {
  for (int64_t row = 0; row < rows; row += 2, to.words += to.line_stride) {
    const char* first = from + row * row_bytes;
    const char* second = first + row_bytes;
    for (int64_t column = 0; column < width; column += 16) {
      const auto widen = [column](const char* source) {
        return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + 2 * column)));
      };
      __m512i pairs = widen(first);
      if (row + 1 < rows) pairs = _mm512_or_si512(pairs, _mm512_slli_epi32(widen(second), 16));
      _mm512_storeu_si512(to.words + column / kLanes * to.group_stride, pairs);
    }
  }
}
#endif

static inline void pack_rows(Float32, const char* from, int64_t row_bytes, FloatType type, int64_t rows, int64_t width,
                             Panels to) {
  for (int64_t row = 0; row < rows; ++row, from += row_bytes, to.words += to.line_stride) {
    for (int64_t column = 0; column < width; column += 16) {
      store(to.words + column / kLanes * to.group_stride, load_as(type, from, column));
    }
  }
}

// The transpose of lines [steps][lanes] as the left operand of a product, a row of C per lane: read across the lines, or,
// as tiles need rows, transposed in `room` [lanes][steps, rounded up to 16].
template <class Arithmetic>
static inline Operand columns_of_lines(const float* lines, int64_t steps, int64_t lanes, [[maybe_unused]] float* room) {
  const char* words = reinterpret_cast<const char*>(lines);
#if defined(__AMX_BF16__)
  if constexpr (Arithmetic::kPack == 2) {
    const int vectors = static_cast<int>((steps + kLanes - 1) / kLanes);
    pack_columns(words, lanes * 4, steps, lanes, vectors, room);
    return rows_of_words(room, vectors * kLanes * 4);
  }
#endif
  (void)steps;
  return {words, lanes * 4, 4};
}

// Sixteen floats, rounded to nearest even, into columns of a row.
MDM_INLINE void store_as(FloatType type, char* row, int64_t column, Floats value) {
  if (type == FloatType::float32) {
    store(reinterpret_cast<float*>(row) + column, value);
  } else if (type == FloatType::bfloat16) {
    store_bfloat16(reinterpret_cast<uint16_t*>(row) + column, value);
  } else {
    store_float16(reinterpret_cast<uint16_t*>(row) + column, value);
  }
}

// Floats times a factor as a row of the tensor.
MDM_INLINE void store_row(FloatType type, char* row, int64_t width, const float* values, float factor) {
  for (int64_t column = 0; column < width; column += kLanes) {
    store_as(type, row, column, mul(load(values + column), broadcast(factor)));
  }
}

// scores [count][16 * vectors], the products of rows with columns [steps][16 * vectors].
template <class Arithmetic>
static inline void score(Operand rows, int64_t count, float* columns, int64_t steps, int vectors, float* scores) {
  constexpr int64_t kChain = 64;  // steps summed in one chain: several short chains round less than one long
  const int64_t lanes = vectors * kLanes;
  for (int64_t step = 0; step < steps; step += kChain) {
    const int64_t chain = least(steps - step, kChain);
    multiply<Arithmetic>(rows, count, panels_of({columns + step * lanes, lanes}), chain, vectors,
                         step == 0 ? Update::overwrite : Update::add, nullptr, {scores, lanes});
    rows.words += chain * rows.step_bytes;
  }
}

}  // namespace MDM_NAMESPACE
