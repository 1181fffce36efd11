// The one product that attention consists of, with the whole of its inner dimension accumulated in registers:
//
//   C[row][lane] = sum over step of A[row][step] * B[step][lane]
//
// A is read one 32-bit word at a time and broadcast, straight from the tensor where it can be. B is a panel of whole
// registers. Pairs of bfloat16 go through vdpbf16ps, or, where there are tiles, through those.
#pragma once

#include "cpu/tile_bf16.h"

namespace MDM_NAMESPACE {

MDM_INLINE Floats broadcast_word(const char* word) {
  float value;
  __builtin_memcpy(&value, word, sizeof(value));
  return broadcast(value);
}

struct Float32 {
  static constexpr int kPack = 1;  // values in a word
};

MDM_INLINE Floats multiply_add_words(Float32, Floats a, Floats b, Floats sum) { return multiply_add(a, b, sum); }

#if defined(__AVX512BF16__)
struct Bfloat16Pairs {
  static constexpr int kPack = 2;
};

// Rounds to nearest whatever the mode, and takes subnormal numbers, in and out, as zero.
MDM_INLINE Floats multiply_add_words(Bfloat16Pairs, Floats a, Floats b, Floats sum) {
  return {_mm512_dpbf16_ps(sum.v, reinterpret_cast<__m512bh>(a.v), reinterpret_cast<__m512bh>(b.v))};
}
#endif

// What becomes of C, given the product.
enum class Update { overwrite, add, decay };  // decay: C * factors + product, a factor for each row

// Columns [0, 16 N) of C, for all rows. The shapes have enough accumulators to hide the latency of a multiplication (6
// cycles at two a cycle for vdpbf16ps) and leave registers for a step of B. An element is the same in every shape.
template <class Arithmetic, int M, int N>
static inline int64_t multiply_rows(const Operand& a, int64_t row, int64_t rows, Panels b, int64_t steps, Update update,
                                    const float* factors, Lines c) {
  for (; row + M <= rows; row += M) {
    Floats sum[M][N];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) sum[m][n] = broadcast(0.0f);
    }
    const char* words = a.words + row * a.row_bytes;
    const float* line = b.words;
    for (int64_t step = 0; step < steps; ++step) {
      Floats right[N];
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) right[n] = load(line + n * b.group_stride);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const Floats left = broadcast_word(words + m * a.row_bytes);
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) sum[m][n] = multiply_add_words(Arithmetic{}, left, right[n], sum[m][n]);
      }
      words += a.step_bytes;
      line += b.line_stride;
    }
    float* out = c.words + row * c.stride;
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m, out += c.stride) {
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        float* to = out + n * kLanes;
        if (update == Update::overwrite) {
          store(to, sum[m][n]);
        } else if (update == Update::add) {
          store(to, add(load(to), sum[m][n]));
        } else {
          store(to, multiply_add(load(to), broadcast(factors[row + m]), sum[m][n]));
        }
      }
    }
  }
  return row;
}

template <class Arithmetic, int M, int N>
[[gnu::noinline]] static void multiply_columns(const Operand& a, int64_t rows, Panels b, int64_t steps, Update update,
                                               const float* factors, Lines c) {
  const int64_t row = multiply_rows<Arithmetic, M, N>(a, 0, rows, b, steps, update, factors, c);
  multiply_rows<Arithmetic, 1, N>(a, row, rows, b, steps, update, factors, c);
}

#if defined(__AMX_BF16__)
static inline void multiply_by_tiles(const Operand& a, int64_t rows, Panels b, int64_t steps, int64_t vectors,
                                     Update update, const float* factors, Lines c) {
  for (int64_t row = 0; row < rows && update == Update::decay; ++row) {
    if (factors[row] == 1.0f) continue;
    float* line = c.words + row * c.stride;
    for (int64_t i = 0; i < vectors * kLanes; i += kLanes)
      store(line + i, mul(load(line + i), broadcast(factors[row])));
  }
  multiply_tiles(a, rows, b, steps, vectors, update != Update::overwrite, c);
}
#endif

// C [rows][16 * vectors] from A and B [steps][16 * vectors].
template <class Arithmetic>
static inline void multiply(const Operand& a, int64_t rows, Panels b, int64_t steps, int64_t vectors, Update update,
                            const float* factors, Lines c) {
#if defined(__AMX_BF16__)
  if constexpr (Arithmetic::kPack == 2) return multiply_by_tiles(a, rows, b, steps, vectors, update, factors, c);
#endif
  const auto next = [&](int64_t done) {
    vectors -= done;
    b.words += done * b.group_stride;
    c.words += done * kLanes;
  };
#if defined(__AVX512F__)
  for (; vectors >= 4; next(4)) multiply_columns<Arithmetic, 4, 4>(a, rows, b, steps, update, factors, c);
  for (; vectors >= 2; next(2)) multiply_columns<Arithmetic, 8, 2>(a, rows, b, steps, update, factors, c);
  constexpr int kRows = 8;
#elif defined(__AVX2__)
  constexpr int kRows = 4;
#else
  constexpr int kRows = 2;
#endif
  for (; vectors >= 1; next(1)) multiply_columns<Arithmetic, kRows, 1>(a, rows, b, steps, update, factors, c);
}

}  // namespace MDM_NAMESPACE
