// Products of matrices in register tiles, for kernels that use a product where it is made and never store it.
//
// A tile of C is rows x panel; every word of A is broadcast and multiplied with the vectors of one row of B:
//   C[i][j] += A[i][k] B[k][j],    A row major or, in blocks of rows, k major; B packed [k][panel]; C [rows][panel]
// Each element of C is summed in the order of k, in passes whose sums are then added up (a single chain over a long k
// would lose digits), whatever tile, unit or thread it falls into: results depend on nothing but the operands. Pairs of
// bfloat16 go through tiles of AMX where the machine has them (tile_bf16.h).
//
// On AVX-512 a step of a tile of 12 x 32 is two loads of B and twelve broadcasts for 24 multiplications, which keeps both
// multipliers of a Zen 5 core busy with A and B in the second-level cache.
#pragma once

#include "cpu/elements.h"
#include "cpu/tile_bf16.h"

namespace MDM_NAMESPACE {

#if defined(__AVX512F__)
constexpr int kTileRows = 12, kTileVectors = 2;  // 24 of 32 registers
#elif defined(__AVX2__)
constexpr int kTileRows = 6, kTileVectors = 1;  // 12 of 16 (sixteen lanes are two registers)
#else
constexpr int kTileRows = 3, kTileVectors = 1;  // 12 of 16 in SSE (sixteen lanes are four)
#endif
constexpr int64_t kPanel = kTileVectors * kLanes;
constexpr int64_t kStepsPerPass = 512;  // a panel of B then stays in the second-level cache beside A

// What one multiplication takes: one value of each operand ...
template <class T, class L>
struct SingleWord {
  using Word = T;
  using Value = T;
  using Lanes = L;
  static constexpr int64_t kValues = 1;  // values per word
  static constexpr bool kIsPair = false;

  MDM_INLINE L multiply_add_word(T a, const L& b, const L& c) { return multiply_add(broadcast(a), b, c); }
  MDM_INLINE L load_words(const T* p) { return load(p); }
};
using FloatWord = SingleWord<float, Floats>;
using DoubleWord = SingleWord<double, Doubles>;

#if defined(__AVX512BF16__)
// ... or two neighbouring bfloat16 of each: products and sum in float32, subnormals taken as 0.
struct PairWord {
  using Word = uint32_t;
  using Value = float;
  using Lanes = Floats;
  static constexpr int64_t kValues = 2;
  static constexpr bool kIsPair = true;

  MDM_INLINE Floats multiply_add_word(uint32_t a, Words b, Floats c) {
    return {_mm512_dpbf16_ps(c.v, (__m512bh)words_from(a).v, (__m512bh)b.v)};
  }
  // Values of bfloat16 precision, two lanes into one word.
  MDM_INLINE Words join(Floats even, Floats odd) {
    return {_mm512_or_si512(_mm512_srli_epi32(as_words(even).v, 16), as_words(odd).v)};
  }
  MDM_INLINE Words load_words(const uint32_t* p) { return load(p); }
};
#endif

MDM_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
MDM_INLINE int64_t parts(int64_t count, int64_t size) { return (count + size - 1) / size; }
MDM_INLINE int64_t padded(int64_t count, int64_t size) { return parts(count, size) * size; }

// ---- operands ----

// Words that hold `count` values of one row.
template <class W>
static inline int64_t words_of(int64_t count) {
  return parts(count, W::kValues);
}

// One row of `width` values as words `stride` apart; a null row is zeros.
template <class W, class T>
static inline void copy_words(const T* row, int64_t width, int64_t stride, typename W::Word* out) {
  for (int64_t k = 0; k < words_of<W>(width); ++k) {
    if (row == nullptr) {
      out[k * stride] = 0;
    } else if constexpr (W::kIsPair) {
      const uint32_t high = 2 * k + 1 < width ? row[2 * k + 1].bits : 0;
      out[k * stride] = row[2 * k].bits | high << 16;
    } else {
      out[k * stride] = value_of(row[k]);
    }
  }
}

// One step of a right operand [columns / panel][steps][panel] from W::kValues rows of `width` values; a null row is zeros.
template <class W, class T>
static inline void pack_step(const T* first, const T* second, int64_t width, int64_t panel_stride,
                             typename W::Word* out) {
  for (int64_t col = 0; col < padded(width, kPanel); col += kLanes) {
    typename W::Word* words = out + col / kPanel * panel_stride + col % kPanel;
    const int64_t count = smaller(kLanes, width - col);
    if constexpr (W::kIsPair) {
      if (count == kLanes && second != nullptr) {
        for (int i = 0; i < kLanes; ++i) {
          words[i] = first[col + i].bits | static_cast<uint32_t>(second[col + i].bits) << 16;
        }
        continue;
      }
    } else {
      if (count == kLanes) {
        store(words, load_values(first + col));
        continue;
      }
    }
    for (int64_t i = 0; i < kLanes; ++i) {
      words[i] = 0;
      if (i >= count) continue;
      if constexpr (W::kIsPair) {
        words[i] = first[col + i].bits | (second != nullptr ? static_cast<uint32_t>(second[col + i].bits) << 16 : 0);
      } else {
        words[i] = value_of(first[col + i]);
      }
    }
  }
}

template <class T>
static inline const T* row_at(const void* data, int64_t stride, int64_t row) {
  return static_cast<const T*>(data) + row * stride;
}

template <class W>
struct LeftOperand {
  const typename W::Word* data;
  int64_t stride;
};

// ---- products ----

// One tile: c = A B or, to accumulate, c += A B. A[i][k] is a[i * stride + k] (kRowMajor) or a[k * stride + i].
template <class W, bool kRowMajor>
static inline void multiply_tile(const typename W::Word* a, int64_t stride, const typename W::Word* b, int64_t steps,
                                 typename W::Value* c, bool accumulate) {
  using Lanes = typename W::Lanes;
  Lanes sums[kTileRows][kTileVectors];
  for (int i = 0; i < kTileRows; ++i) {
    for (int j = 0; j < kTileVectors; ++j) {
      sums[i][j] = broadcast(typename W::Value{0});
    }
  }
  for (int64_t k = 0; k < steps; ++k) {
    decltype(W::load_words(b)) row[kTileVectors];
    for (int j = 0; j < kTileVectors; ++j) row[j] = W::load_words(b + k * kPanel + j * kLanes);
#pragma GCC unroll 12
    for (int i = 0; i < kTileRows; ++i) {
      typename W::Word word;  // rows of 16-bit values may start at odd addresses of words
      __builtin_memcpy(&word, kRowMajor ? a + i * stride + k : a + k * stride + i, sizeof(word));
      for (int j = 0; j < kTileVectors; ++j) sums[i][j] = W::multiply_add_word(word, row[j], sums[i][j]);
    }
  }
  for (int i = 0; i < kTileRows; ++i) {
    for (int j = 0; j < kTileVectors; ++j) {
      typename W::Value* out = c + i * kPanel + j * kLanes;
      store(out, accumulate ? add(load(out), sums[i][j]) : sums[i][j]);
    }
  }
}

#if defined(__AMX_BF16__)
// The same by tiles of AMX, for as many rows of pairs as there are.
static inline void multiply_panel_by_tiles(const uint32_t* a, int64_t stride, int64_t rows, const uint32_t* b,
                                           int64_t steps, float* c, bool accumulate) {
  float* lines = reinterpret_cast<float*>(const_cast<uint32_t*>(b));
  multiply_tiles(rows_of_words(a, stride * 4), rows, panels_of({lines, kPanel}), steps, kTileVectors, accumulate,
                 {c, kPanel});
}
#endif

// c[rows, rounded up to tiles][panel] = A B; a row major, readable up to the last tile's rows.
template <class W>
static inline void multiply_panel(const typename W::Word* a, int64_t stride, int64_t rows, const typename W::Word* b,
                                  int64_t steps, typename W::Value* c) {
#if defined(__AMX_BF16__)
  if constexpr (W::kIsPair) {
    constexpr int64_t kSteps = kStepsPerPass / 2;  // which the first-level cache holds for all rows of a slice
    for (int64_t done = 0; done < steps; done += kSteps) {
      multiply_panel_by_tiles(a + done, stride, rows, b + done * kPanel, smaller(steps - done, kSteps), c, done > 0);
    }
    return;
  }
#endif
  for (int64_t done = 0; done < steps; done += kStepsPerPass) {
    const int64_t now = smaller(steps - done, kStepsPerPass);
    for (int64_t row = 0; row < rows; row += kTileRows) {
      multiply_tile<W, true>(a + row * stride + done, stride, b + done * kPanel, now, c + row * kPanel, done > 0);
    }
  }
}

}  // namespace MDM_NAMESPACE
