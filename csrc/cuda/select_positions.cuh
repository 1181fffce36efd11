// select_positions on CUDA: one block per row, radix selection on 64-bit keys with a 256-bin histogram in shared
// memory.
//
// The keys (core/select_key.h) are those of the CPU kernel. Where a row's keys fit shared memory they are kept there;
// longer rows compute a key anew whenever it is needed, which costs arithmetic but no memory, and gives the
// same bits each time. A pass narrows the cut by one byte of the key, most significant first:
//
//   count the keys that match the bytes fixed so far, by their next byte  ->  warp 0 finds the bin in which the k-th
//   largest lies, from the top  ->  that bin is the next fixed byte, and k loses the keys in the bins above it.
//
// It ends early when the bin belongs to the selection as a whole. Keys equal to the cut that are too many are taken in
// order of position: a ballot per warp and a scan over the warps rank them tile by tile.
#pragma once

#include "core/select_key.h"

namespace MDM_NAMESPACE {

constexpr int kWarp = 32;
constexpr int kBins = 256;
constexpr int kMaxThreads = 1024;
constexpr unsigned kFullWarp = 0xffffffffu;

// What the whole block shares about one row. A field is written by one thread between two barriers, read after the
// second.
struct SelectState {
  unsigned histogram[kBins];
  unsigned warp_ties[kMaxThreads / kWarp];
  uint64_t prefix;                  // bytes of the cut fixed so far, in place; lower bytes 0
  unsigned long long participants;  // keys that are not kLeftOut
  int64_t remaining;                // how many to take among the keys that match the prefix
  int64_t matching;                 // how many there are
};

// Warp 0: the bin, from the top, in which the `remaining`-th largest key lies. Lane i holds bins 255 - 8i down to 248 -
// 8i.
__device__ inline void choose_bin(SelectState& state, int shift) {
  constexpr int kPerLane = kBins / kWarp;
  const int lane = threadIdx.x;
  const int top = kBins - 1 - kPerLane * lane;
  unsigned own = 0;
  for (int i = 0; i < kPerLane; ++i) own += state.histogram[top - i];
  unsigned through = own;  // keys in this lane's bins and all higher ones
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const unsigned other = __shfl_up_sync(kFullWarp, through, offset);
    if (lane >= offset) through += other;
  }
  const int64_t remaining = state.remaining;
  __syncwarp();  // every lane has read `remaining` before the one lane below overwrites it
  int64_t above = static_cast<int64_t>(through) - own;
  if (above < remaining && remaining <= static_cast<int64_t>(through)) {  // true for exactly one lane
    int bin = top;
    while (above + state.histogram[bin] < remaining) above += state.histogram[bin--];
    state.prefix |= static_cast<uint64_t>(bin) << shift;
    state.remaining = remaining - above;
    state.matching = state.histogram[bin];
  }
}

// Whether each thread's flag is among the first `limit` set ones, counting from the lowest thread; *limit loses the
// number of set flags. Every thread of the block calls it; blockDim.x is a multiple of 32.
__device__ inline bool take_in_order(bool flag, int64_t* limit, unsigned* warp_counts) {
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const unsigned ballot = __ballot_sync(kFullWarp, flag);
  if (lane == 0) warp_counts[warp] = __popc(ballot);
  __syncthreads();
  int64_t before = __popc(ballot & ((1u << lane) - 1u));
  int64_t total = 0;
  const int warps = blockDim.x / kWarp;
  for (int w = 0; w < warps; ++w) {
    if (w < warp) before += warp_counts[w];
    total += warp_counts[w];
  }
  __syncthreads();  // all have read warp_counts before the next call writes it
  const bool taken = flag && before < *limit;
  *limit -= total;
  return taken;
}

template <bool kCached>
__device__ void select_positions(const SelectPositionsParams& params) {
  extern __shared__ uint64_t cached_keys[];  // [length] when kCached
  __shared__ SelectState state;

  const int64_t length = params.length;
  const int top_shift = (params.temperature == 0.0 ? kScoreKeyBits : kGumbelKeyBits) - 8;

  for (int64_t row = blockIdx.x; row < params.batch; row += gridDim.x) {
    const int64_t seed = sequence_seed(params.seed, row);
    // Thread t reads back only the cached keys t, t + blockDim.x, ... that it wrote itself: no barrier is needed for
    // them.
    const auto key_of = [&](int64_t col) -> uint64_t {
      return kCached ? cached_keys[col] : position_key(params, row, col, seed);
    };

    if (threadIdx.x == 0) {
      state.participants = 0;
      state.prefix = 0;
    }
    __syncthreads();
    unsigned own = 0;
    for (int64_t col = threadIdx.x; col < length; col += blockDim.x) {
      const uint64_t key = position_key(params, row, col, seed);
      if (kCached) cached_keys[col] = key;
      own += key != kLeftOut;
    }
    for (int offset = kWarp / 2; offset > 0; offset /= 2) own += __shfl_down_sync(kFullWarp, own, offset);
    if (threadIdx.x % kWarp == 0) atomicAdd(&state.participants, static_cast<unsigned long long>(own));
    __syncthreads();

    const int64_t participants = static_cast<int64_t>(state.participants);
    const int64_t count = row_value(params.k, row);
    uint64_t cut = ~uint64_t{0};  // no key reaches it: nothing is taken
    int64_t ties = 0;             // how many keys equal to the cut are taken
    bool all_ties = false;
    if (count >= participants) {
      cut = kLeftOut;  // every key above it, which is every participant
    } else if (count > 0) {
      if (threadIdx.x == 0) state.remaining = count;
      for (int shift = top_shift;; shift -= 8) {
        for (int bin = threadIdx.x; bin < kBins; bin += blockDim.x) state.histogram[bin] = 0;
        __syncthreads();
        const uint64_t fixed_bytes = shift + 8 == 64 ? 0 : ~uint64_t{0} << (shift + 8);
        const uint64_t prefix = state.prefix;
        for (int64_t col = threadIdx.x; col < length; col += blockDim.x) {
          const uint64_t key = key_of(col);
          if (key != kLeftOut && (key & fixed_bytes) == prefix) atomicAdd(&state.histogram[key >> shift & 255], 1u);
        }
        __syncthreads();
        if (threadIdx.x < kWarp) choose_bin(state, shift);
        __syncthreads();
        all_ties = state.remaining == state.matching;
        if (all_ties || shift == 0) break;
      }
      cut = state.prefix;
      ties = state.remaining;
    }

    uint8_t* selected = params.selected + row * length;
    if (all_ties) {  // every key with the cut's bytes is taken, and they are the keys from the cut upwards
      for (int64_t col = threadIdx.x; col < length; col += blockDim.x) selected[col] = key_of(col) >= cut;
    } else if (ties == 0) {
      for (int64_t col = threadIdx.x; col < length; col += blockDim.x) selected[col] = key_of(col) > cut;
    } else {
      for (int64_t first = 0; first < length; first += blockDim.x) {  // the same number of turns for every thread
        const int64_t col = first + threadIdx.x;
        const uint64_t key = col < length ? key_of(col) : kLeftOut;
        const bool taken = take_in_order(key == cut, &ties, state.warp_ties);
        if (col < length) selected[col] = taken || key > cut;
      }
    }
    __syncthreads();  // nobody still reads `state` when the next row overwrites it
  }
}

}  // namespace MDM_NAMESPACE
