// linear_cross_entropy on the CPU: the logits of a slice of ids and a panel of rows live in the first-level cache, and
// nowhere else.
//
// Forward: a slice's logits are made, their maxima and sums of exponentials taken, and they are forgotten. Backward: they
// are made again and turned into their own gradient, softmax - onehot, for a stretch of ids at a time; the gradient's
// products with hidden and with weight are the gradients of weight and of hidden. That is four products where three
// would do if the logits were kept; at the speed of matmul_tile.h the fourth costs less than keeping them.
//
// Sums run in a fixed order (ids ascending, rows ascending), so that results do not depend on the threads.
#include "cpu/linear_cross_entropy_operands.h"

#include "cpu/kernels.h"

namespace MDM_NAMESPACE {

namespace {

// ---- logits ----

// Calls work(id) for the suppressed ids in [first, first + count).
template <class Work>
static inline void each_suppressed(const Params& params, int64_t first, int64_t count, const Work& work) {
  for (int64_t i = 0; i < params.suppress_count; ++i) {
    if (params.suppress[i] >= first && params.suppress[i] < first + count) work(params.suppress[i]);
  }
}

static inline double square(double x) { return x * x; }

template <class Value>
static inline void fill_row(Value* row, Value value) {
  for (int64_t i = 0; i < kPanel; ++i) row[i] = value;
}

// logits[count][panel] of the ids from `first` and the rows of one panel.
template <class Ts>
static inline void slice_logits(const Params& params, const LeftOperand<typename Ts::Words>& weight, int64_t first,
                                int64_t count, int64_t panel, typename Ts::Value* logits) {
  using W = typename Ts::Words;
  const int64_t steps = words_of<W>(params.width);
  const auto* columns = static_cast<const typename Ts::Word*>(params.hidden_columns) + panel * steps * kPanel;
  multiply_panel<W>(weight.data, weight.stride, count, columns, steps, logits);
  if (params.bias != nullptr) {
    const auto* bias = static_cast<const typename Ts::Value*>(params.bias) + first;
    for (int64_t row = 0; row < count; ++row) {
      for (int64_t i = 0; i < kPanel; ++i) logits[row * kPanel + i] += bias[row];
    }
  }
  if (params.softcap == 0) return;
  const typename Ts::Lanes cap = broadcast(static_cast<typename Ts::Value>(params.softcap));
  for (int64_t i = 0; i < count * kPanel; i += kLanes) store(logits + i, soft_capped(load(logits + i), cap));
}

// Calls work(lane, place) where the target of a panel's row is logits[place], among the ids from `first`.
template <class Work>
static inline void each_target(const Params& params, int64_t first, int64_t count, int64_t panel, const Work& work) {
  const int64_t lanes = smaller(kPanel, params.rows - panel * kPanel);
  for (int64_t lane = 0; lane < lanes; ++lane) {
    const int64_t target = params.targets[params.row_index[panel * kPanel + lane]];
    if (target >= first && target < first + count) work(lane, (target - first) * kPanel + lane);
  }
}

// Where a maximum starts: -inf - -inf would be NaN.
MDM_INLINE float lowest(float) { return -0x1.fffffep127f; }
MDM_INLINE double lowest(double) { return -0x1.fffffffffffffp1023; }

// Maximum and sum of exponentials of sixteen rows over `count` ids, merged with what stands in *maximum_out, *sum_out.
// A NaN stays in the sum.
template <class Lanes, class Value>
static inline void merge_statistics(const Value* logits, int64_t count, bool first, Value* maximum_out,
                                    Value* sum_out) {
  const Lanes before = first ? broadcast(lowest(Value{})) : load(maximum_out);
  Lanes top = before, seen = broadcast(Value{0});
  for (int64_t row = 0; row < count; ++row) {
    const Lanes x = load(logits + row * kPanel);
    top = maximum(x, top);
    seen = remember_nan(seen, x);
  }
  Lanes sum = first ? broadcast(Value{0}) : mul(load(sum_out), exp_nonpositive(sub(before, top)));
  sum = add(sum, seen);
  for (int64_t row = 0; row < count; ++row) sum = add(sum, exp_nonpositive(sub(load(logits + row * kPanel), top)));
  store(maximum_out, top);
  store(sum_out, sum);
}

// How many of the ids [first, first + count) are not suppressed.
static inline int64_t kept_ids(const Params& params, int64_t first, int64_t count) {
  int64_t kept = count;
  each_suppressed(params, first, count, [&](int64_t) { --kept; });
  return kept;
}

// Sum over the kept ids of how far sixteen rows' logits are behind `top`, times kLogitScale: that of `count` ids, merged
// with that of `kept_before` ids behind `before`. Relative to the maximum, since beside large logits their mean would be
// rounded away.
template <class Lanes, class Value>
static inline void merge_behind(const Params& params, const Value* logits, int64_t first, int64_t count, Lanes before,
                                int64_t kept_before, Lanes top, Value* sum_out) {
  const Lanes scale = broadcast(static_cast<Value>(kLogitScale)), reference = mul(top, scale);
  Lanes sums[4];  // of every fourth id: terms of one sign lose less in short sums
  for (Lanes& sum : sums) sum = broadcast(Value{0});
  int64_t next = 0;
  while (next < params.suppress_count && params.suppress[next] < first) ++next;
  for (int64_t row = 0; row < count; ++row) {
    if (next < params.suppress_count && params.suppress[next] == first + row) {
      ++next;
    } else {
      sums[row % 4] = add(sums[row % 4], sub(mul(load(logits + row * kPanel), scale), reference));
    }
  }
  Lanes sum = add(add(sums[0], sums[1]), add(sums[2], sums[3]));
  if (kept_before > 0) {
    const Lanes moved = mul(sub(mul(before, scale), reference), broadcast(static_cast<Value>(kept_before)));
    sum = add(sum, add(load(sum_out), moved));
  }
  store(sum_out, sum);
}

template <class Ts>
static void statistics(const Params& params, int64_t begin, int64_t end, uint64_t* scratch) {
  using Value = typename Ts::Value;
  using Word = typename Ts::Word;
  auto* logits = reinterpret_cast<Value*>(scratch);
  auto* room = reinterpret_cast<Word*>(scratch + kVocabSlice * kPanelPadding);
  auto* target_logit = static_cast<Value*>(params.target_logit);
  const TileRegisters tiles;
  const int64_t rows = padded(params.rows, kPanelPadding);
  for (int64_t slice = begin * kSlicesPerBlock; slice < end * kSlicesPerBlock; ++slice) {
    const int64_t first = slice * kVocabSlice, count = smaller(kVocabSlice, params.vocab - first);
    if (count <= 0) break;
    auto* maxima = static_cast<Value*>(params.partial) + slice / kSlicesPerBlock * statistics_kept(params) * rows;
    const bool starts = slice % kSlicesPerBlock == 0, smoothed = params.label_smoothing > 0;
    const int64_t block = slice / kSlicesPerBlock * kSlicesPerBlock * kVocabSlice;
    const int64_t kept_before = smoothed ? kept_ids(params, block, first - block) : 0;
    const auto weight = weight_slice<typename Ts::Words, typename Ts::Element>(params, first, count, room);
    for (int64_t panel = 0; panel * kPanel < params.rows; ++panel) {
      slice_logits<Ts>(params, weight, first, count, panel, logits);
      each_suppressed(params, first, count,
                      [&](int64_t id) { fill_row(logits + (id - first) * kPanel, -Value{__builtin_inff()}); });
      each_target(params, first, count, panel,
                  [&](int64_t lane, int64_t place) { target_logit[panel * kPanel + lane] = logits[place]; });
      for (int64_t lane = 0; lane < kPanel; lane += kLanes) {
        using Lanes = typename Ts::Lanes;
        Value* out = maxima + panel * kPanel + lane;
        const Lanes before = starts ? broadcast(Value{0}) : load(out);
        merge_statistics<Lanes>(logits + lane, count, starts, out, out + rows);
        if (!smoothed) continue;
        merge_behind<Lanes>(params, logits + lane, first, count, before, kept_before, load(out), out + 2 * rows);
      }
    }
  }
}

// How far the mean of the kept ids' logits of a row is behind `top`; `entry` is its place in the first block's statistics.
template <class Value>
static inline double kept_mean_behind(const Params& params, const Value* entry, int64_t rows, int64_t blocks,
                                      double top) {
  constexpr int64_t kBlock = kVocabSlice * kSlicesPerBlock;
  double sum = 0.0;
  for (int64_t block = 0; block < blocks; ++block, entry += 3 * rows) {
    const int64_t first = block * kBlock, kept = kept_ids(params, first, smaller(kBlock, params.vocab - first));
    if (kept == 0) continue;
    sum += static_cast<double>(entry[2 * rows]) / kLogitScale +
           static_cast<double>(kept) * (static_cast<double>(entry[0]) - top);
  }
  return sum / static_cast<double>(params.kept);
}

template <class Ts>
static void losses(const Params& params, int64_t begin, int64_t end) {
  using Value = typename Ts::Value;
  const int64_t rows = padded(params.rows, kPanelPadding);
  const int64_t blocks = parts(params.vocab, kVocabSlice * kSlicesPerBlock);
  const auto* partial = static_cast<const Value*>(params.partial);
  const int64_t stride = statistics_kept(params) * rows;
  for (int64_t r = begin; r < end; ++r) {
    Value top = lowest(Value{});
    for (int64_t block = 0; block < blocks; ++block) {
      const Value other = partial[block * stride + r];
      top = other > top ? other : top;
    }
    double sum = 0.0;
    for (int64_t block = 0; block < blocks; ++block) {
      const Value* entry = partial + block * stride + r;
      sum += static_cast<double>(entry[rows]) * exp(static_cast<double>(entry[0]) - static_cast<double>(top));
    }
    // A row whose maximum is where maxima start has met that number, whose exponential is 1, or only -inf.
    const bool proper = (top > lowest(Value{}) || sum > 0.5) && top < Value{__builtin_inff()};
    const double log_sum = proper ? log(sum) : static_cast<double>(__builtin_nanf(""));
    const int64_t place = params.row_index[r], target = params.targets[place];
    const bool known = target >= 0 && target < params.vocab;
    const Value logit = known ? static_cast<const Value*>(params.target_logit)[r] : Value{__builtin_nanf("")};
    // Differences first: beside large logits the logarithm is rounded away.
    double loss = static_cast<double>(top) - static_cast<double>(logit) + log_sum;
    if (params.label_smoothing > 0) {
      const double behind = kept_mean_behind(params, partial + r, rows, blocks, static_cast<double>(top));
      const double target_share = 1.0 - params.label_smoothing;  // at 0 an infinite loss is nobody's
      loss = (target_share > 0.0 || loss != loss ? target_share * loss : 0.0) +
             params.label_smoothing * (log_sum - behind);
    }
    static_cast<Value*>(params.losses)[place] = static_cast<Value>(loss);
    static_cast<Value*>(params.maximum)[place] = top;
    static_cast<Value*>(params.log_sum)[place] = static_cast<Value>(log_sum);
    params.correct[place] = proper && logit >= top;
  }
}

// ---- gradients ----

// The gradient of one panel's logits into both left operands; `local` counts the slice's ids from params.first_id.
template <class Ts>
static inline void store_logit_gradient(const Params& params, const typename Ts::Value* gradient, int64_t local,
                                        int64_t count, int64_t panel) {
  using W = typename Ts::Words;
  using Element = typename LogitGradient<W::kIsPair, typename Ts::Value>::Element;
  const int64_t rows = padded(params.rows, kPanelPadding);
  for (int64_t lane = 0; lane < kPanel; lane += kLanes) {
    const int64_t r = panel * kPanel + lane;
    auto* out = static_cast<Element*>(params.grad_logits) + local * rows + r;
    for (int64_t row = 0; row < count; ++row) store_values(out + row * rows, load(gradient + row * kPanel + lane));
    if (params.grad_interleaved == nullptr) continue;
    store_left_of_hidden<W>(params, r, local, count, [&](int64_t id) {
      if constexpr (W::kIsPair) {
        const auto values = [&](int64_t i) { return i < count ? load_values(out + i * rows) : broadcast(0.0f); };
        return W::join(values(id), values(id + 1));
      } else {
        return load(gradient + id * kPanel + lane);
      }
    });
  }
}

// NaN where the row has no loss: NaN or infinite logits, a target outside the vocabulary.
template <class Value>
static inline void row_scales(const Params& params, int64_t panel, Value* top, Value* log_sum, Value* scale) {
  for (int64_t lane = 0; lane < kPanel; ++lane) {
    const int64_t r = panel * kPanel + lane;
    top[lane] = log_sum[lane] = scale[lane] = Value{0};
    if (r >= params.rows) continue;
    const int64_t place = params.row_index[r], target = params.targets[place];
    top[lane] = static_cast<const Value*>(params.maximum)[place];
    log_sum[lane] = static_cast<const Value*>(params.log_sum)[place];
    const bool proper = log_sum[lane] == log_sum[lane] && target >= 0 && target < params.vocab;
    scale[lane] = proper ? static_cast<const Value*>(params.grad_losses)[place] : Value{__builtin_nanf("")};
  }
}

// A panel's logits into their gradient, less what the targets take: scale (softmax - share) and the cap's derivative.
template <class Ts>
static inline void differentiate(const Params& params, const typename Ts::Value* top, const typename Ts::Value* log_sum,
                                 const typename Ts::Value* scale, int64_t count, typename Ts::Value* logits) {
  using Value = typename Ts::Value;
  using Lanes = typename Ts::Lanes;
  const bool smoothed = params.label_smoothing > 0, capped = params.softcap > 0;
  const Lanes share = broadcast(static_cast<Value>(smoothed ? params.label_smoothing / params.kept : 0.0));
  const Lanes cap = broadcast(static_cast<Value>(params.softcap));
  for (int64_t lane = 0; lane < kPanel; lane += kLanes) {
    const Lanes largest = load(top + lane), rest = load(log_sum + lane), factor = load(scale + lane);
    for (Value* row = logits + lane; row < logits + count * kPanel; row += kPanel) {
      const Lanes y = load(row);
      Lanes x = exp_nonpositive(sub(sub(y, largest), rest));  // at most 0: these logits have the forward's bits
      if (smoothed) x = sub(x, share);
      if (capped) x = mul(x, cap_slope(y, cap));
      store(row, mul(x, factor));
    }
  }
}

template <class Ts>
static void grad_logits(const Params& params, int64_t begin, int64_t end, uint64_t* scratch) {
  using Value = typename Ts::Value;
  auto* logits = reinterpret_cast<Value*>(scratch);
  auto* room = reinterpret_cast<typename Ts::Word*>(scratch + kVocabSlice * kPanelPadding);
  const TileRegisters tiles;
  const int64_t groups = parts(params.rows, kRowsPerUnit);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t local = unit / groups * kVocabSlice, first = params.first_id + local;
    const int64_t count = smaller(kVocabSlice, params.ids - local);
    const int64_t from = unit % groups * kRowsPerUnit, to = smaller(from + kRowsPerUnit, params.rows);
    const auto weight = weight_slice<typename Ts::Words, typename Ts::Element>(params, first, count, room);
    for (int64_t panel = from / kPanel; panel * kPanel < to; ++panel) {
      Value top[kPanel], log_sum[kPanel], scale[kPanel];
      row_scales(params, panel, top, log_sum, scale);
      slice_logits<Ts>(params, weight, first, count, panel, logits);
      Value target_share[kPanel];  // of scale, for the rows whose target is here
      each_target(params, first, count, panel, [&](int64_t lane, int64_t place) {
        const double slope = params.softcap > 0 ? 1.0 - square(logits[place] / params.softcap) : 1.0;
        target_share[lane] = static_cast<Value>((1.0 - params.label_smoothing) * slope);
      });
      differentiate<Ts>(params, top, log_sum, scale, count, logits);
      each_target(params, first, count, panel,
                  [&](int64_t lane, int64_t place) { logits[place] -= target_share[lane] * scale[lane]; });
      each_suppressed(params, first, count, [&](int64_t id) { fill_row(logits + (id - first) * kPanel, Value{0}); });
      store_logit_gradient<Ts>(params, logits, local, count, panel);
    }
  }
}

template <class Ts>
static void grad_weight(const Params& params, int64_t begin, int64_t end, uint64_t* scratch) {
  using W = typename Ts::Words;
  auto* product = reinterpret_cast<typename Ts::Value*>(scratch);
  const TileRegisters tiles;
  const int64_t groups = parts(params.width, kColumnsPerUnit), steps = words_of<W>(params.rows);
  const int64_t stride = padded(params.rows, kPanelPadding) / W::kValues;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t local = unit / groups * kVocabSlice, count = smaller(kVocabSlice, params.ids - local);
    const int64_t from = unit % groups * kColumnsPerUnit, to = smaller(from + kColumnsPerUnit, params.width);
    const auto* left = static_cast<const typename Ts::Word*>(params.grad_logits) + local * stride;
    for (int64_t col = from; col < to; col += kPanel) {
      const auto* right = static_cast<const typename Ts::Word*>(params.hidden_rows) + col * steps;
      multiply_panel<W>(left, stride, count, right, steps, product);
      for (int64_t row = 0; row < count; ++row) {
        auto* out = static_cast<typename Ts::Element*>(params.grad_weight) +
                    (params.first_id + local + row) * params.width + col;
        for (int64_t lane = 0; lane < smaller(kPanel, params.width - col); lane += kLanes) {
          const typename Ts::Lanes x = load(product + row * kPanel + lane);
          const int64_t left_over = params.width - col - lane;
          left_over >= kLanes ? store_values(out + lane, x) : store_some(out + lane, x, left_over);
        }
      }
    }
  }
}

template <class Ts>
static void grad_bias(const Params& params, int64_t begin, int64_t end) {
  using Value = typename Ts::Value;
  using Element = typename LogitGradient<Ts::Words::kIsPair, Value>::Element;
  const int64_t rows = padded(params.rows, kPanelPadding);
  for (int64_t id = begin * kVocabSlice; id < smaller(end * kVocabSlice, params.ids); ++id) {
    const auto* gradient = static_cast<const Element*>(params.grad_logits) + id * rows;
    typename Ts::Lanes sum = broadcast(Value{0});
    for (int64_t r = 0; r < params.rows; r += kLanes) sum = add(sum, load_values(gradient + r));  // padding holds 0
    static_cast<Value*>(params.grad_bias)[params.first_id + id] = reduce_add(sum);
  }
}

template <class Ts>
static void grad_hidden(const Params& params, int64_t begin, int64_t end) {
  using W = typename Ts::Words;
  const TileRegisters tiles;
  const int64_t blocks = parts(params.rows, kInterleavedRows), steps = words_of<W>(params.ids);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t block = unit % blocks;
    for (int64_t col = unit / blocks * kPanelPadding; col < (unit / blocks + 1) * kPanelPadding; col += kPanel) {
      const auto* right = static_cast<const typename Ts::Word*>(params.weight_rows) + col * steps;
      auto* sums = static_cast<typename Ts::Value*>(params.hidden_sums) + col * blocks * kInterleavedRows;
      const int64_t first = block * kInterleavedRows;
      multiply_left_of_hidden<W>(params, first, smaller(kInterleavedRows, params.rows - first), right,
                                 sums + first * kPanel, params.first_id > 0);
    }
  }
}

template <class Ts>
static void write_grad_hidden(const Params& params, int64_t begin, int64_t end) {
  const int64_t rows = parts(params.rows, kInterleavedRows) * kInterleavedRows;
  for (int64_t r = begin; r < end; ++r) {
    auto* out = static_cast<typename Ts::Element*>(params.grad_hidden) + params.row_index[r] * params.width;
    const auto* sums = static_cast<const typename Ts::Value*>(params.hidden_sums) + r * kPanel;
    for (int64_t col = 0; col < params.width; col += kLanes) {
      const typename Ts::Lanes x = load(sums + col / kPanel * kPanel * rows + col % kPanel);
      const int64_t left_over = params.width - col;
      left_over >= kLanes ? store_values(out + col, x) : store_some(out + col, x, left_over);
    }
  }
}

}  // namespace

void linear_cross_entropy(const Params& params, LinearCrossEntropyPhase phase, int64_t begin, int64_t end,
                          uint64_t* scratch) {
  by_type(params.type, [&](auto types) {
    using Ts = decltype(types);
    switch (phase) {
      case LinearCrossEntropyPhase::pack_hidden:
        return pack_hidden<Ts>(params, begin, end);
      case LinearCrossEntropyPhase::statistics:
        return statistics<Ts>(params, begin, end, scratch);
      case LinearCrossEntropyPhase::losses:
        return losses<Ts>(params, begin, end);
      case LinearCrossEntropyPhase::pack_weight:
        return pack_weight<Ts>(params, begin, end);
      case LinearCrossEntropyPhase::grad_logits:
        return grad_logits<Ts>(params, begin, end, scratch);
      case LinearCrossEntropyPhase::grad_weight:
        return grad_weight<Ts>(params, begin, end, scratch);
      case LinearCrossEntropyPhase::grad_bias:
        return grad_bias<Ts>(params, begin, end);
      case LinearCrossEntropyPhase::grad_hidden:
        return grad_hidden<Ts>(params, begin, end);
      case LinearCrossEntropyPhase::write_grad_hidden:
        return write_grad_hidden<Ts>(params, begin, end);
    }
  });
}

}  // namespace MDM_NAMESPACE
