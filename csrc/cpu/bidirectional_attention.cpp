// Softmax attention, a tile of up to 64 queries against blocks of keys, with the online softmax of FlashAttention
// (arXiv 2205.14135, algorithm 1). Nothing of size S x S exists.
//
// Scores are transposed, [keys][queries]: keys are then read straight from the tensor, word by word, only the values
// are packed, and the softmax works on registers of queries. The transposed weights are the left operand of the second
// product. Blocks start at the sequence's first key, so a row's result is the same in any batch, tile, padding or thread.
#include "cpu/attention_float64.h"
#include "cpu/attention_panels.h"
#include "cpu/attention_softmax.h"
#include "cpu/kernels.h"
#include "cpu/rows.h"

namespace MDM_NAMESPACE {

namespace {

constexpr int64_t kBlockKeys = 128;
constexpr int64_t kAheadKeys = 16;      // how far ahead of the product memory is asked for keys,
constexpr int64_t kBytesAtOnce = 1024;  // and for how much at once, as much again for values

struct Workspace {
  float* queries;  // [D / kPack][lanes]
  float* scores;   // [kBlockKeys][lanes], then weights [kBlockKeys / kPack][lanes]
  float* output;   // [kTileRows][D]
  float* values;   // [D / 16][kBlockKeys / kPack][16]
  float* wide;     // [kBlockKeys][D]: rows widened to float32, or weights transposed
};

Workspace carve(uint64_t* scratch, int64_t width) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(scratch);
  Scratch pieces{scratch + (64 - address % 64) % 64 / 8};
  Workspace work{};
  work.queries = pieces.take<float>(width * kTileRows);
  work.scores = pieces.take<float>(kBlockKeys * kTileRows);
  work.output = pieces.take<float>(width * kTileRows);
  work.values = pieces.take<float>(width * kBlockKeys);
  work.wide = pieces.take<float>(width * kBlockKeys);
  return work;
}

// Asks for rows that are needed soon.
void prefetch_rows(const char* rows, int64_t row_bytes, int64_t count, int64_t bytes) {
  for (int64_t row = 0; row < count; ++row, rows += row_bytes) {
    for (int64_t offset = 0; offset < bytes; offset += 64) __builtin_prefetch(rows + offset, 0, 2);
  }
}

// Rows of a step of the product: two tiles, or as many as registers hold.
template <class Arithmetic>
int64_t rows_at_once(int vectors) {
#if defined(__AMX_BF16__)
  if (Arithmetic::kPack == 2) return 2 * kTileHeight;
#endif
  return vectors == 4 ? 4 : 8;
}

template <class Arithmetic>
void attend(const BidirectionalAttentionParams& params, const AttentionTile& tile, const Workspace& work) {
  const int64_t width = params.width, element = bytes_of(params.type);
  const int64_t kv_head = tile.head / (params.heads / params.kv_heads);
  const int64_t k_bytes = params.k.row_stride * element, v_bytes = params.v.row_stride * element;
  const int vectors = vectors_for(tile.count);
  const int64_t lanes = vectors * kLanes;
  const float factor = exponent_factor(params);
  TileMask mask;
  tile_mask(params, tile, &mask);
  Softmax state;
  start(&state, vectors);
  for (int64_t i = 0; i < width * tile.count; i += kLanes) store(work.output + i, broadcast(0.0f));
  if (mask.end > 0) {
    prefetch_rows(row_address(params.k, params.type, tile.batch, kv_head, mask.begin), k_bytes,
                  least(mask.end, kAheadKeys), width * element);
    const char* q = row_address(params.q, params.type, tile.batch, tile.head, tile.first);
    const Operand queries =
        rows_operand<Arithmetic>(q, params.q.row_stride * element, params.type, tile.count, width, work.wide);
    pack_columns(queries.words, queries.row_bytes, tile.count, width / Arithmetic::kPack, vectors, work.queries);
  }

  for (int64_t from = 0; from < mask.end; from += kBlockKeys) {
    const int64_t keys = least(mask.end - from, kBlockKeys);
    const char* k = row_address(params.k, params.type, tile.batch, kv_head, mask.begin + from);
    const char* v = row_address(params.v, params.type, tile.batch, kv_head, mask.begin + from);
    Operand rows = rows_operand<Arithmetic>(k, k_bytes, params.type, keys, width, work.wide);
    // Memory is asked for what comes next, the block's values and further keys, no more at a time than it can have
    // under way, between strips of the product that are whole steps of it.
    const int64_t fewest = rows_at_once<Arithmetic>(vectors);
    const int64_t step = clamp_index(kBytesAtOnce / (width * element), fewest, fewest > 16 ? fewest : 16);
    for (int64_t strip = 0; strip < keys; strip += step, rows.words += step * rows.row_bytes) {
      const int64_t count = least(keys - strip, step);
      prefetch_rows(v + strip * v_bytes, v_bytes, count, width * element);
      prefetch_rows(k + (strip + kAheadKeys) * k_bytes, k_bytes, least(mask.end - from - strip - kAheadKeys, count),
                    width * element);
      score<Arithmetic>(rows, count, work.queries, width / Arithmetic::kPack, vectors, work.scores + strip * lanes);
    }
    if (touches(mask, from, from + keys)) hide(mask, from, keys, vectors, work.scores);
    advance(&state, factor, vectors, keys, work.scores);
    for (int64_t lane = 0; lane < lanes; lane += kLanes) {
      const Floats sum = mul(load(state.sum + lane), load(state.decay + lane));
      store(state.sum + lane,
            weigh(Arithmetic{}, load(state.maximum + lane), factor, keys, lanes, sum, work.scores + lane));
    }
    const int64_t steps = (keys + Arithmetic::kPack - 1) / Arithmetic::kPack;
    const Panels values = as_panels(work.values, steps);
    pack_rows(Arithmetic{}, v, v_bytes, params.type, keys, width, values);
    const Operand weights = columns_of_lines<Arithmetic>(work.scores, steps, lanes, work.wide);
    multiply<Arithmetic>(weights, tile.count, values, steps, width / kLanes, Update::decay, state.decay,
                         {work.output, width});
  }

  alignas(64) float inverse[kTileRows];
  finish(state, params, tile, inverse);
  for (int64_t row = 0; row < tile.count; ++row) {
    char* out = row_address(params.out, params.type, tile.batch, tile.head, tile.first + row);
    store_row(params.type, out, width, work.output + row * width, inverse[row]);
  }
}

}  // namespace

void bidirectional_attention(const BidirectionalAttentionParams& params, int64_t begin, int64_t end,
                             uint64_t* scratch) {
  const Workspace work = carve(scratch, params.width);
  const TileRegisters tiles;
  for (int64_t i = begin; i < end; ++i) {
    if (params.type == FloatType::float64) {
      attend_float64(params, params.tiles[i]);
      continue;
    }
#if defined(__AVX512BF16__)
    if (params.type == FloatType::bfloat16) {
      attend<Bfloat16Pairs>(params, params.tiles[i], work);
      continue;
    }
#endif
    attend<Float32>(params, params.tiles[i], work);
  }
}

}  // namespace MDM_NAMESPACE
