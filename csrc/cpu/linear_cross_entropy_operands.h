// linear_cross_entropy's types and operands: what is multiplied for each dtype, and hidden and weight as the operands of
// its three products.
#pragma once

#include "core/linear_cross_entropy_params.h"
#include "cpu/matmul_tile.h"

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

}  // namespace

}  // namespace MDM_NAMESPACE
