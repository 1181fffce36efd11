// What the bindings of bidirectional_attention and its backward share: checks, params, and the list of tiles.
#pragma once

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "core/bidirectional_attention_params.h"
#include "torch/checks.h"

namespace mdmcorrect {

constexpr int64_t kAttentionTileRows = 64;

inline void check_heads(const char* op, const char* name, const Tensor& tensor, int64_t batch, int64_t heads,
                        int64_t length, const Tensor& q) {
  check(tensor.dim() == 4 && tensor.size(0) == batch && tensor.size(1) == heads && tensor.size(2) == length &&
            tensor.size(3) == q.size(3),
        op, name, ": expected shape [", batch, ", ", heads, ", ", length, ", ", q.size(3), "], got ", shape_of(tensor));
  check(tensor.scalar_type() == q.scalar_type(), op, name, ": expected the dtype of q");
  check(tensor.device() == q.device(), op, name, ": expected the device of q");
  check(tensor.numel() == 0 || tensor.stride(3) == 1, op, name, ": expected a contiguous last dimension");
}

// Of log-sum-exps.
inline ScalarType lse_type(const Tensor& q) {
  return q.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// The largest scores and the logs of sums, [B, Hq, Sq] each, of a tensor [2, B, Hq, Sq]. float* in truth double* where
// params.type is float64.
template <class Pointer, class Data>
std::pair<Pointer, Pointer> normaliser_parts(Data* data, const BidirectionalAttentionParams& params) {
  const int64_t words = params.batch * params.heads * params.queries * (params.type == FloatType::float64 ? 2 : 1);
  const Pointer first = static_cast<Pointer>(data);
  return {first, first + words};
}

inline Heads heads_of(const Tensor& tensor) {
  return {tensor.const_data_ptr(), tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}

inline MutableHeads mutable_heads_of(const Tensor& tensor) {
  return {tensor.mutable_data_ptr(), tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}

// [B, H, S, D] in the memory order of [B, S, H, D], which is how projections write and read it.
inline Tensor empty_heads(const char* op, int64_t batch, int64_t heads, int64_t length, const Tensor& like) {
  return torch::stable::transpose(allocate(op, {batch, length, heads, like.size(3)}, like.scalar_type(), like.device()),
                                  1, 2);
}

// Everything but out, lse and tiles.
inline BidirectionalAttentionParams attention_params(const char* op, const Tensor& q, const Tensor& k, const Tensor& v,
                                                     const std::optional<Tensor>& starts,
                                                     const std::optional<Tensor>& lengths,
                                                     const std::optional<Tensor>& q_positions, int64_t mask,
                                                     bool hide_self, int64_t block_size,
                                                     const std::optional<Tensor>& shadow_of, double scale) {
  check(q.dim() == 4, op, "q: expected shape [B, Hq, Sq, D], got ", shape_of(q));
  check(k.dim() == 4 && k.size(1) > 0 && q.size(1) % k.size(1) == 0, op,
        "k: expected shape [B, Hkv, Sk, D] with Hkv dividing Hq, got ", shape_of(k));
  BidirectionalAttentionParams params{};
  params.batch = q.size(0);
  params.heads = q.size(1);
  params.kv_heads = k.size(1);
  params.queries = q.size(2);
  params.keys = k.size(2);
  params.width = q.size(3);
  check(params.width > 0 && params.width % 32 == 0 && params.width <= 256, op,
        "q: expected D to be a multiple of 32, at most 256, got ", params.width);
  check(params.keys <= int64_t{1} << 24, op, "k: expected at most 2^24 keys");
  check_heads(op, "q", q, params.batch, params.heads, params.queries, q);
  check_heads(op, "k", k, params.batch, params.kv_heads, params.keys, q);
  check_heads(op, "v", v, params.batch, params.kv_heads, params.keys, q);
  check(q_positions.has_value() || params.queries == params.keys, op, "q_positions: needed where Sq is not Sk");
  check(mask >= 0 && mask <= 2, op, "mask: expected 0 (full), 1 (block_causal) or 2 (shadow), got ", mask);
  params.mask = static_cast<AttentionMask>(mask);
  check(params.mask == AttentionMask::full || block_size >= 1, op, "block_size: expected at least 1, got ", block_size);
  check(params.mask != AttentionMask::shadow || shadow_of.has_value(), op, "shadow_of: needed with a shadow mask");
  check(scale > 0.0 && scale < std::numeric_limits<double>::infinity(), op, "scale: expected a positive number, got ",
        scale);
  switch (q.scalar_type()) {
    case ScalarType::Float:
      params.type = FloatType::float32;
      break;
    case ScalarType::BFloat16:
      params.type = FloatType::bfloat16;
      break;
    case ScalarType::Half:
      params.type = FloatType::float16;
      break;
    case ScalarType::Double:
      params.type = FloatType::float64;
      break;
    default:
      check(false, op, "q: expected float32, bfloat16, float16 or float64");
  }
  params.q = heads_of(q);
  params.k = heads_of(k);
  params.v = heads_of(v);
  params.starts = row_ints(op, "starts", starts, params.batch, q);
  params.lengths = row_ints(op, "lengths", lengths, params.batch, q);
  params.positions = position_grid(op, q_positions, params.batch, params.queries, q, "q_positions");
  params.hide_self = hide_self;
  params.block_size = block_size;
  params.shadow_of = row_ints(op, "shadow_of", shadow_of, params.batch, q);
  params.scale = scale;
  return params;
}

// Tiles of one sequence's rows and what they cost, in keys seen times registers of queries.
struct CostedTile {
  int64_t first;
  int64_t count;
  int64_t cost;
};

// The rows of sequence b in tiles. Without q_positions, tiles also end where padding begins or ends, so that none has
// rows of both kinds.
inline std::vector<CostedTile> sequence_tiles(const BidirectionalAttentionParams& params, int64_t b) {
  int64_t first_seeing = 0, last_seeing = params.queries;
  if (params.positions.data == nullptr) {
    const auto sees = [&](int64_t row) {
      const VisibleKeys seen = portable::visible_keys(params, b, row);
      return seen.end > seen.begin;
    };
    while (first_seeing < params.queries && !sees(first_seeing)) ++first_seeing;
    while (last_seeing > first_seeing && !sees(last_seeing - 1)) --last_seeing;
  }
  std::vector<CostedTile> tiles;
  for (int64_t row = 0; row < params.queries;) {
    const int64_t limit = row < first_seeing ? first_seeing : (row < last_seeing ? last_seeing : params.queries);
    const int64_t count = std::min(kAttentionTileRows, limit - row);
    int64_t keys = 0;
    for (int64_t i = row; i < row + count; ++i) {
      const VisibleKeys seen = portable::visible_keys(params, b, i);
      keys = std::max(keys, seen.end - seen.begin);
    }
    tiles.push_back({row, count, keys * ((count + 15) / 16)});
    row += count;
  }
  return tiles;
}

struct Sequence {
  int64_t index;
  int64_t cost;  // of one head
  std::vector<CostedTile> tiles;
};

// Sequences and their tiles, the most costly sequence first.
inline std::vector<Sequence> attention_sequences(const BidirectionalAttentionParams& params) {
  std::vector<Sequence> sequences;
  for (int64_t b = 0; b < params.batch; ++b) {
    Sequence sequence{b, 0, sequence_tiles(params, b)};
    for (const CostedTile& tile : sequence.tiles) sequence.cost += tile.cost;
    sequences.push_back(std::move(sequence));
  }
  std::stable_sort(sequences.begin(), sequences.end(),
                   [](const Sequence& a, const Sequence& b) { return a.cost > b.cost; });
  return sequences;
}

}  // namespace mdmcorrect
