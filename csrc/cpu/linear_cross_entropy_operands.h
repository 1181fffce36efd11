// linear_cross_entropy's types and operands: what is multiplied for each dtype, and hidden and weight as the operands of
// its three products.
#pragma once

#include "core/linear_cross_entropy_params.h"
#include "cpu/matmul_tile.h"
#include "cpu/transpose.h"

namespace MDM_NAMESPACE {

namespace {

using Params = LinearCrossEntropyParams;

// ---- types ----

template <class W, class T>
struct Types {
  using Words = W;  // what is multiplied
  using Word = typename W::Word;
  using Value = typename W::Value;
  using Lanes = typename W::Lanes;
  using Element = T;  // of hidden and weight
};

template <bool kPair, class Value>
struct LogitGradient {
  using Element = Value;
};
template <class Value>
struct LogitGradient<true, Value> {
  using Element = Bfloat16;
};

template <class Work>
static inline void by_type(FloatType type, const Work& work) {
  switch (type) {
    case FloatType::bfloat16:
#if defined(__AVX512BF16__)
      return work(Types<PairWord, Bfloat16>{});
#else
      return work(Types<FloatWord, Bfloat16>{});
#endif
    case FloatType::float16:
      return work(Types<FloatWord, Float16>{});
    case FloatType::float64:
      return work(Types<DoubleWord, double>{});
    default:
      return work(Types<FloatWord, float>{});
  }
}

// ---- operands ----

// Rows [first, first + count) of weight as words, up to whole tiles: the tensor itself where it has that form, else a
// copy in `room`.
template <class W, class T>
static inline LeftOperand<W> weight_slice(const Params& params, int64_t first, int64_t count, typename W::Word* room) {
  using Word = typename W::Word;
  const int64_t steps = words_of<W>(params.width);
  const bool same_form = (W::kIsPair || sizeof(T) == sizeof(Word)) && params.width % W::kValues == 0 &&
                         params.weight_stride % W::kValues == 0;
  if (same_form && count % kTileRows == 0) {
    const void* data = row_at<T>(params.weight, params.weight_stride, first);
    return {static_cast<const Word*>(data), params.weight_stride / W::kValues};
  }
  for (int64_t row = 0; row < padded(count, kTileRows); ++row) {
    const T* source = row < count ? row_at<T>(params.weight, params.weight_stride, first + row) : nullptr;
    copy_words<W>(source, params.width, 1, room + row * steps);
  }
  return {room, steps};
}

template <class Ts>
static void pack_hidden(const Params& params, int64_t begin, int64_t end) {
  using W = typename Ts::Words;
  using T = typename Ts::Element;
  using Word = typename Ts::Word;
  const int64_t steps = words_of<W>(params.width);
  const auto row_of_hidden = [&](int64_t r) {
    return r < params.rows ? row_at<T>(params.hidden, params.hidden_stride, params.row_index[r]) : nullptr;
  };
  const int64_t from = begin * kPanelPadding, to = end * kPanelPadding;
  for (int64_t r = from; r < to; ++r) {
    Word* column = static_cast<Word*>(params.hidden_columns) + r / kPanel * kPanel * steps + r % kPanel;
    const T* row = row_of_hidden(r);
    copy_words<W>(row, params.width, kPanel, column);
  }
  if (params.hidden_rows == nullptr) return;
  const int64_t stride = words_of<W>(params.rows) * kPanel;
  for (int64_t r = from; r < smaller(to, params.rows); r += W::kValues) {
    Word* words = static_cast<Word*>(params.hidden_rows) + r / W::kValues * kPanel;
    pack_step<W>(row_of_hidden(r), row_of_hidden(r + 1), params.width, stride, words);
  }
}

template <class Ts>
static void pack_weight(const Params& params, int64_t begin, int64_t end) {
  using W = typename Ts::Words;
  using T = typename Ts::Element;
  const int64_t stride = words_of<W>(params.ids) * kPanel;
  for (int64_t id = begin * kVocabSlice; id < smaller(end * kVocabSlice, params.ids); id += W::kValues) {
    const T* row = row_at<T>(params.weight, params.weight_stride, params.first_id + id);
    const T* next = id + 1 < params.ids ? row + params.weight_stride : nullptr;
    auto* words = static_cast<typename Ts::Word*>(params.weight_rows) + id / W::kValues * kPanel;
    pack_step<W>(row, next, params.width, stride, words);
  }
}

// ---- the gradient of the logits as the left operand of hidden's gradient ----

// Sixteen rows from r on of `count` ids, from lines [ids][16] of it in bfloat16 or of values: params.grad_interleaved is
// [R / 48][ids words][48], and for tiles, which take rows, [R][ids words, rounded up to 16].
template <class W, class Line>
static inline void store_left_of_hidden(const Params& params, int64_t r, int64_t local, int64_t count,
                                        const Line& line) {
  const int64_t steps = words_of<W>(params.ids);
  auto* base = static_cast<typename W::Word*>(params.grad_interleaved);
#if defined(__AMX_BF16__)
  if constexpr (W::kIsPair) {
    const int64_t stride = padded(steps, kLanes);
    float* to = reinterpret_cast<float*>(base) + r * stride + local / 2;
    for (int64_t id = 0; id < count; id += 2 * kLanes, to += kLanes) {
      alignas(64) uint32_t lines[kLanes][kLanes];
      const char* rows[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) {
        store(lines[i], line(id + 2 * i));
        rows[i] = reinterpret_cast<const char*>(lines[i]);
      }
      transpose_words(rows, to, stride);
    }
    return;
  }
#endif
  auto* words = base + (r / kInterleavedRows * steps + local / W::kValues) * kInterleavedRows + r % kInterleavedRows;
  for (int64_t id = 0; id < count; id += W::kValues, words += kInterleavedRows) store(words, line(id));
}

// c [rows][panel] (+)= the product of rows [first, first + rows) of that, rows <= 48 and first a multiple of it.
template <class W>
static inline void multiply_left_of_hidden(const Params& params, int64_t first, int64_t rows,
                                           const typename W::Word* right, typename W::Value* c, bool accumulate) {
  const int64_t steps = words_of<W>(params.ids);
  const auto* base = static_cast<const typename W::Word*>(params.grad_interleaved);
#if defined(__AMX_BF16__)
  if constexpr (W::kIsPair) {
    const int64_t stride = padded(steps, kLanes);
    return multiply_panel_by_tiles(base + first * stride, stride, rows, right, steps, c, accumulate);
  }
#endif
  const auto* left = base + first * steps;
  for (int64_t i = 0; i < rows; i += kTileRows) {
    multiply_tile<W, false>(left + i, kInterleavedRows, right, steps, c + i * kPanel, accumulate);
  }
}

}  // namespace

}  // namespace MDM_NAMESPACE
