// Gradients of softmax attention, a head of keys and values at a time: the weights P are computed again from the largest
// score and the log of the sum (FlashAttention, arXiv 2205.14135, algorithm 4), a tile of queries and a block of keys at a
// time. The scores have the forward's bits, so the exponents are at most 0 and the largest is what it was.
//
//   dV = P^T dO,  dP = dO V^T,  dS = scale P (dP - rowsum(dO O) + dlse),  dQ = dS K,  dK = dS^T Q
//
// P and dS are transposed, [keys][queries], as in the forward pass. One thread has a whole head, adds up dK and dV in
// float32 in the order of the tiles, and so gives the same gradients in any batch and on any number of threads.
#include "cpu/attention_float64.h"
#include "cpu/attention_panels.h"
#include "cpu/attention_softmax.h"
#include "cpu/kernels.h"
#include "cpu/rows.h"

namespace MDM_NAMESPACE {

namespace {

constexpr int64_t kBlockKeys = 64;

// A tile of queries or of output gradients, as both sides of products need it.
struct PackedTile {
  float* columns;  // [D / kPack][lanes], lanes being queries
  float* rows;     // [lanes / kPack][D]
};

struct Workspace {
  PackedTile queries;
  PackedTile grads;
  float* grad_queries;  // [kTileRows][D]
  float* scores;        // [kBlockKeys][lanes]
  float* products;      // [kBlockKeys][lanes]: dP
  float* weights;       // P in words along queries, [kBlockKeys][lanes / kPack]
  float* slopes;        // dS the same
  float* key_slopes;    // dS in words along keys, [kBlockKeys / kPack][lanes]
  float* keys;          // [D / 16][kBlockKeys / kPack][16]
  float* wide_keys;     // [kBlockKeys][D]: rows widened to float32, or dS transposed
  float* wide_values;
  float* grad_keys;  // [Sk][D]
  float* grad_values;
};

template <class Arithmetic>
Workspace carve(uint64_t* scratch, const BidirectionalAttentionParams& params) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(scratch);
  Scratch pieces{scratch + (64 - address % 64) % 64 / 8};
  const int64_t tile = params.width * kTileRows, block = params.width * kBlockKeys;
  Workspace work{};
  work.queries = {pieces.take<float>(tile), pieces.take<float>(tile)};
  work.grads = {pieces.take<float>(tile), pieces.take<float>(tile)};
  work.grad_queries = pieces.take<float>(tile);
  work.scores = pieces.take<float>(kBlockKeys * kTileRows);
  work.products = pieces.take<float>(kBlockKeys * kTileRows);
  if (Arithmetic::kPack == 1) {  // a word is a value: all in place
    work.weights = work.scores;
    work.slopes = work.key_slopes = work.products;
  } else {
    work.weights = pieces.take<float>(kBlockKeys * kTileRows / 2);
    work.slopes = pieces.take<float>(kBlockKeys * kTileRows / 2);
    work.key_slopes = pieces.take<float>(kBlockKeys * kTileRows / 2);
  }
  work.keys = pieces.take<float>(block);
  work.wide_keys = pieces.take<float>(block);
  work.wide_values = pieces.take<float>(block);
  work.grad_keys = pieces.take<float>(params.keys * params.width);
  work.grad_values = pieces.take<float>(params.keys * params.width);
  return work;
}

void fill_zeros(float* to, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) store(to + i, broadcast(0.0f));
}

// What turns scores into weights and dP into dS, for each query of a tile; none that sees nothing or does not exist has
// any weight.
struct RowTerms {
  alignas(64) float maximum[kTileRows];
  alignas(64) float log_sum[kTileRows];  // to base 2
  alignas(64) float mean[kTileRows];     // scale (rowsum(dO O) - dlse)
};

void row_terms(const BidirectionalAttentionBackwardParams& params, const AttentionTile& tile, RowTerms* terms) {
  const BidirectionalAttentionParams& forward = params.forward;
  const int64_t first = (tile.batch * forward.heads + tile.head) * forward.queries + tile.first;
  for (int64_t row = 0; row < kTileRows; ++row) {
    terms->log_sum[row] = __builtin_inff();
    terms->maximum[row] = terms->mean[row] = 0.0f;
    if (row >= tile.count || params.log_sum[first + row] == __builtin_inff()) continue;
    const char* out = row_address(params.out, forward.type, tile.batch, tile.head, tile.first + row);
    const char* grad = row_address(params.grad_out, forward.type, tile.batch, tile.head, tile.first + row);
    Floats sum = broadcast(0.0f);
    for (int64_t column = 0; column < forward.width; column += kLanes) {
      sum = multiply_add(load_as(forward.type, out, column), load_as(forward.type, grad, column), sum);
    }
    const float lse_grad = params.grad_lse == nullptr ? 0.0f : params.grad_lse[first + row];
    terms->maximum[row] = params.maximum[first + row];
    terms->log_sum[row] = params.log_sum[first + row] * kLog2E;
    terms->mean[row] = static_cast<float>(forward.scale * (reduce_add(sum) - lse_grad));
  }
}

// Lanes and rows beyond the tile's are zero.
template <class Arithmetic>
void pack_tile(const Heads& heads, const BidirectionalAttentionParams& params, const AttentionTile& tile, int vectors,
               float* wide, PackedTile to) {
  const int64_t row_bytes = heads.row_stride * bytes_of(params.type);
  const char* rows = row_address(heads, params.type, tile.batch, tile.head, tile.first);
  const Operand words = rows_operand<Arithmetic>(rows, row_bytes, params.type, tile.count, params.width, wide);
  pack_columns(words.words, words.row_bytes, tile.count, params.width / Arithmetic::kPack, vectors, to.columns);
  fill_zeros(to.rows, params.width * vectors * kLanes / Arithmetic::kPack);
  pack_rows(Arithmetic{}, rows, row_bytes, params.type, tile.count, params.width, panels_of({to.rows, params.width}));
}

// P of a score, and dS of that and a product.
MDM_INLINE Floats weight_of(Floats score, float factor, Floats largest, Floats minus_log_sum) {
  return exp2_nonpositive(multiply_add(sub(score, largest), broadcast(factor), minus_log_sum));
}
MDM_INLINE Floats negated(const float* values) { return sub(broadcast(0.0f), load(values)); }
MDM_INLINE Floats slope_of(Floats weight, Floats product, float scale, Floats mean) {
  return mul(weight, sub(mul(product, broadcast(scale)), mean));
}

// Scores and dP [keys][lanes] to P and dS.
void differentiate(Float32, const RowTerms& terms, const BidirectionalAttentionParams& params, int64_t keys,
                   int64_t lanes, const Workspace& work) {
  const float scale = finite_factor(params.scale), factor = exponent_factor(params);
  for (int64_t lane = 0; lane < lanes; lane += kLanes) {
    const Floats largest = load(terms.maximum + lane), rest = negated(terms.log_sum + lane);
    const Floats mean = load(terms.mean + lane);
    for (int64_t at = lane; at < keys * lanes; at += lanes) {
      const Floats weight = weight_of(load(work.scores + at), factor, largest, rest);
      store(work.weights + at, weight);
      store(work.slopes + at, slope_of(weight, load(work.products + at), scale, mean));
    }
  }
}

#if defined(__AVX512BF16__)
// Two lines of sixteen as halves of rows a and b.
MDM_INLINE void store_halves(float* rows, int64_t a, int64_t b, Floats first, Floats second) {
  uint16_t* halves = reinterpret_cast<uint16_t*>(rows);
  const __m512i both = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second.v, first.v));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(halves + a), _mm512_castsi512_si256(both));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(halves + b), _mm512_extracti64x4_epi64(both, 1));
}

// An odd last key is paired with zeros.
void differentiate(Bfloat16Pairs, const RowTerms& terms, const BidirectionalAttentionParams& params, int64_t keys,
                   int64_t lanes, const Workspace& work) {
  const float scale = finite_factor(params.scale), factor = exponent_factor(params);
  for (int64_t lane = 0; lane < lanes; lane += kLanes) {
    const Floats largest = load(terms.maximum + lane), rest = negated(terms.log_sum + lane);
    const Floats mean = load(terms.mean + lane);
    for (int64_t key = 0; key < keys; key += 2) {
      const int64_t a = key * lanes + lane, b = a + lanes;
      const Floats first = weight_of(load(work.scores + a), factor, largest, rest);
      const Floats first_slope = slope_of(first, load(work.products + a), scale, mean);
      Floats second = broadcast(0.0f), second_slope = second;
      if (key + 1 < keys) {
        second = weight_of(load(work.scores + b), factor, largest, rest);
        second_slope = slope_of(second, load(work.products + b), scale, mean);
      }
      store_halves(work.weights, a, b, first, second);
      store_halves(work.slopes, a, b, first_slope, second_slope);
      store_pairs(work.key_slopes + key / 2 * lanes + lane, first_slope, second_slope);
    }
  }
}
#endif

// sums [keys][width] += left [keys][steps] * rows [steps][width]
template <class Arithmetic>
void add_to_keys(const float* left, int64_t keys, float* rows, int64_t lanes, int64_t width, float* sums) {
  const int64_t steps = lanes / Arithmetic::kPack;
  multiply<Arithmetic>(rows_of_words(left, steps * 4), keys, panels_of({rows, width}), steps, width / kLanes,
                       Update::add, nullptr, {sums, width});
}

template <class Arithmetic>
void differentiate_tile(const BidirectionalAttentionBackwardParams& params, const AttentionTile& tile,
                        const Workspace& work) {
  const BidirectionalAttentionParams& forward = params.forward;
  const FloatType type = forward.type;
  const int64_t width = forward.width, element = bytes_of(type),
                kv_head = tile.head / (forward.heads / forward.kv_heads);
  const int64_t k_bytes = forward.k.row_stride * element, v_bytes = forward.v.row_stride * element;
  const int vectors = vectors_for(tile.count);
  const int64_t lanes = vectors * kLanes;
  TileMask mask;
  tile_mask(forward, tile, &mask);
  fill_zeros(work.grad_queries, tile.count * width);
  RowTerms terms;
  if (mask.end > 0) {
    row_terms(params, tile, &terms);
    pack_tile<Arithmetic>(forward.q, forward, tile, vectors, work.wide_keys, work.queries);
    pack_tile<Arithmetic>(params.grad_out, forward, tile, vectors, work.wide_keys, work.grads);
  }
  for (int64_t from = 0; from < mask.end; from += kBlockKeys) {
    const int64_t keys = least(mask.end - from, kBlockKeys), steps = (keys + Arithmetic::kPack - 1) / Arithmetic::kPack;
    const char* k = row_address(forward.k, type, tile.batch, kv_head, mask.begin + from);
    const char* v = row_address(forward.v, type, tile.batch, kv_head, mask.begin + from);
    score<Arithmetic>(rows_operand<Arithmetic>(k, k_bytes, type, keys, width, work.wide_keys), keys,
                      work.queries.columns, width / Arithmetic::kPack, vectors, work.scores);
    if (touches(mask, from, from + keys)) hide(mask, from, keys, vectors, work.scores);
    score<Arithmetic>(rows_operand<Arithmetic>(v, v_bytes, type, keys, width, work.wide_values), keys,
                      work.grads.columns, width / Arithmetic::kPack, vectors, work.products);
    differentiate(Arithmetic{}, terms, forward, keys, lanes, work);
    add_to_keys<Arithmetic>(work.weights, keys, work.grads.rows, lanes, width, work.grad_values + from * width);
    add_to_keys<Arithmetic>(work.slopes, keys, work.queries.rows, lanes, width, work.grad_keys + from * width);
    const Panels panels = as_panels(work.keys, steps);
    pack_rows(Arithmetic{}, k, k_bytes, type, keys, width, panels);
    const Operand slopes = columns_of_lines<Arithmetic>(work.key_slopes, steps, lanes, work.wide_keys);
    multiply<Arithmetic>(slopes, tile.count, panels, steps, width / kLanes, Update::add, nullptr,
                         {work.grad_queries, width});
  }
  for (int64_t row = 0; row < tile.count; ++row) {
    char* line = row_address(params.grad_q, type, tile.batch, tile.head, tile.first + row);
    store_row(type, line, width, work.grad_queries + row * width, 1.0f);
  }
}

// Rows of float32 sums as the rows [begin, end) of a gradient, and zeros elsewhere.
void write_rows(const float* sums, int64_t begin, int64_t end, const BidirectionalAttentionParams& params, int64_t b,
                int64_t kv_head, const MutableHeads& to) {
  alignas(64) static const float zeros[256] = {};
  for (int64_t row = 0; row < params.keys; ++row) {
    const float* values = row >= begin && row < end ? sums + (row - begin) * params.width : zeros;
    store_row(params.type, row_address(to, params.type, b, kv_head, row), params.width, values, 1.0f);
  }
}

template <class Arithmetic>
void differentiate_head(const BidirectionalAttentionBackwardParams& params, const AttentionHead& head,
                        uint64_t* scratch) {
  const BidirectionalAttentionParams& forward = params.forward;
  const Workspace work = carve<Arithmetic>(scratch, forward);
  const VisibleKeys sequence = sequence_keys(forward, head.batch);
  const int64_t keys = sequence.end - sequence.begin, group = forward.heads / forward.kv_heads;
  fill_zeros(work.grad_keys, keys * forward.width);
  fill_zeros(work.grad_values, keys * forward.width);
  for (int64_t q_head = head.kv_head * group; q_head < (head.kv_head + 1) * group; ++q_head) {
    for (int64_t i = head.first_tile; i < head.end_tile; ++i) {
      AttentionTile tile = forward.tiles[i];
      tile.head = q_head;
      differentiate_tile<Arithmetic>(params, tile, work);
    }
  }
  write_rows(work.grad_keys, sequence.begin, sequence.end, forward, head.batch, head.kv_head, params.grad_k);
  write_rows(work.grad_values, sequence.begin, sequence.end, forward, head.batch, head.kv_head, params.grad_v);
}

}  // namespace

void bidirectional_attention_backward(const BidirectionalAttentionBackwardParams& params, int64_t begin, int64_t end,
                                      uint64_t* scratch) {
  const TileRegisters tiles;
  for (int64_t i = begin; i < end; ++i) {
    if (params.forward.type == FloatType::float64) {
      differentiate_float64(params, params.heads[i]);
      continue;
    }
#if defined(__AVX512BF16__)
    if (params.forward.type == FloatType::bfloat16) {
      differentiate_head<Bfloat16Pairs>(params, params.heads[i], scratch);
      continue;
    }
#endif
    differentiate_head<Float32>(params, params.heads[i], scratch);
  }
}

}  // namespace MDM_NAMESPACE
