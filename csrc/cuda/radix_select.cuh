// The `count` largest keys of a row by one block: radix selection with a 256-bin histogram in shared memory.
//
// A pass narrows the cut by one byte of the key, most significant first:
//
//   count the keys that match the bytes fixed so far, by their next byte  ->  warp 0 finds the bin in which the
//   count-th largest lies, from the top  ->  that bin is the next fixed byte, and count loses the keys above it.
//
// It ends early when the bin belongs to the selection as a whole. Keys equal to the cut that are too many are taken in
// order of position: a ballot per warp and a scan over the warps rank them tile by tile. Keys are those of the CPU kernels
// (core/select_key.h); integers have no order of summation, so the result does not depend on the launch.
#pragma once

#include "core/select_key.h"
#include "cuda/memory.cuh"
#include "cuda/row_keys.h"

namespace MDM_NAMESPACE {

constexpr int kWarp = 32;
constexpr int kBins = 256;
constexpr unsigned kFullWarp = 0xffffffffu;

// Where a selection ends: keys above `key` belong to it, and the first `ties` of those equal to it.
struct KeyCut {
  uint64_t key;
  int64_t ties;
};

// What the block shares about one selection. A field is written between two barriers and read after the second.
struct SelectState {
  unsigned histogram[kBins];
  unsigned warp_counts[cuda::kMaxThreads / kWarp];
  unsigned long long total;
  uint64_t prefix;    // bytes of the cut fixed so far, in place; lower bytes 0
  int64_t remaining;  // how many to take among the keys that match the prefix
  int64_t matching;   // how many there are
};

// Sum of `own` over the block, for every thread.
__device__ inline int64_t block_sum(SelectState& state, unsigned own) {
  if (threadIdx.x == 0) state.total = 0;
  own = __reduce_add_sync(kFullWarp, own);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) atomicAdd(&state.total, static_cast<unsigned long long>(own));
  __syncthreads();
  const int64_t total = static_cast<int64_t>(state.total);
  __syncthreads();  // all have read it before the next sum clears it
  return total;
}

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

// The cut of the `count` largest of the `participants` keys that are not kLeftOut. key_of(col) is the key of a position;
// every thread of the block calls this, and thread t asks for the keys of t, t + blockDim.x, ... only.
template <class KeyOf>
__device__ inline KeyCut find_cut(SelectState& state, int64_t length, int64_t count, int64_t participants, int key_bits,
                                  const KeyOf& key_of) {
  if (count <= 0) return {~uint64_t{0}, 0};         // no key is above it
  if (count >= participants) return {kLeftOut, 0};  // every participant is
  if (threadIdx.x == 0) {
    state.prefix = 0;
    state.remaining = count;
  }
  for (int shift = key_bits - 8;; shift -= 8) {
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
    const uint64_t cut = state.prefix;
    const int64_t ties = state.remaining;
    const bool whole_bin = ties == state.matching;
    if (!whole_bin && shift != 0) continue;
    __syncthreads();  // all have read `state` before the next selection writes it
    // A whole bin is every key from the smallest it can hold upwards.
    return whole_bin ? KeyCut{cut == 0 ? 0 : cut - 1, 0} : KeyCut{cut, ties};
  }
}

// Whether each thread's flag is among the first `limit` set ones, counting from the lowest thread; *limit loses the
// number of set flags. Every thread of the block calls it; blockDim.x is a multiple of 32.
__device__ inline bool take_in_order(SelectState& state, bool flag, int64_t* limit) {
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const unsigned ballot = __ballot_sync(kFullWarp, flag);
  if (lane == 0) state.warp_counts[warp] = __popc(ballot);
  __syncthreads();
  int64_t before = __popc(ballot & ((1u << lane) - 1u));
  int64_t total = 0;
  const int warps = blockDim.x / kWarp;
  for (int w = 0; w < warps; ++w) {
    if (w < warp) before += state.warp_counts[w];
    total += state.warp_counts[w];
  }
  __syncthreads();  // all have read warp_counts before the next call writes it
  const bool taken = flag && before < *limit;
  *limit -= total;
  return taken;
}

// Whether a key is in the selection; called by every thread of the block for one tile of positions after the other, in
// order. It costs two barriers while keys equal to the cut have to be counted, nothing otherwise.
__device__ inline bool is_selected(SelectState& state, uint64_t key, KeyCut* cut) {
  const bool tie = cut->ties > 0 && take_in_order(state, key == cut->key, &cut->ties);
  return tie || key > cut->key;
}

// [length] of this block: in shared memory behind the state at its start, or in the workspace.
template <class State = SelectState, int64_t kStateBytes = cuda::kSharedState>
__device__ inline uint64_t* row_keys(uint64_t* workspace, int64_t length) {
  static_assert(sizeof(State) <= kStateBytes, "the keys come after the state");
  if (length <= cuda::kSharedKeys) return shared_at<uint64_t>(kStateBytes);
  return workspace + blockIdx.x * length;
}

}  // namespace MDM_NAMESPACE
