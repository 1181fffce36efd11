// The threads of a block as a team (core/step_open.h, core/step_close.h).
//
// Thread t meets positions t, t + blockDim.x, ... in every call of the team, so whatever a position has in the outputs is
// written and read by one thread, and so are the keys of a ranking. What crosses threads goes through the collectives below;
// every thread gets the same answer of them, on which alone a row's course depends, so all meet the same barriers.
#pragma once

#include "cuda/count_positions.cuh"

namespace MDM_NAMESPACE {

// What the block shares about one row. A field is written between two barriers and read after the second.
struct StepState {
  CountState count;
  double partial[cuda::kCountThreads / kWarp];  // of each warp
};

struct Plus {
  __device__ __forceinline__ double operator()(double a, double b) const { return a + b; }
};

struct Larger {
  __device__ __forceinline__ double operator()(double a, double b) const { return b > a ? b : a; }
};

// `own` of all threads combined, for every thread: in an order that depends on the number of threads alone.
template <class Combine>
__device__ inline double block_reduce(StepState& state, double own, const Combine& combine) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) own = combine(own, __shfl_down_sync(kFullWarp, own, offset));
  if (threadIdx.x % kWarp == 0) state.partial[threadIdx.x / kWarp] = own;
  __syncthreads();
  const int warps = blockDim.x / kWarp;
  double all = state.partial[0];
  for (int warp = 1; warp < warps; ++warp) all = combine(all, state.partial[warp]);
  __syncthreads();  // all have read the partial results before the next call writes its own
  return all;
}

struct BlockTeam {
  StepState& state;
  int64_t length;
  uint64_t* keys;        // [length]
  int64_t participants;  // of the last ranking

  __device__ __forceinline__ bool leads() const { return threadIdx.x == 0; }

  template <class F>
  __device__ __forceinline__ void each(const F& f) const {
    for (int64_t col = threadIdx.x; col < length; col += blockDim.x) f(col);
  }

  template <class F>
  __device__ __forceinline__ int64_t count(const F& f) const {
    unsigned own = 0;
    for (int64_t col = threadIdx.x; col < length; col += blockDim.x) own += f(col);
    return block_sum(state.count.select, own);
  }

  template <class F>
  __device__ __forceinline__ int64_t first(const F& f) const {
    int64_t col = threadIdx.x;
    while (col < length && !f(col)) col += blockDim.x;
    const unsigned left = col < length ? static_cast<unsigned>(length - col) : 0;  // most where it is first
    return length - block_max(state.count, left);
  }

  template <class F>
  __device__ __forceinline__ double sum(const F& f) const {
    double own = 0.0;
    for (int64_t col = threadIdx.x; col < length; col += blockDim.x) own += f(col);
    return block_reduce(state, own, Plus{});
  }

  template <class F>
  __device__ __forceinline__ double largest(const F& f) const {
    double own = -__builtin_inf();
    for (int64_t col = threadIdx.x; col < length; col += blockDim.x) own = Larger{}(own, f(col));
    return block_reduce(state, own, Larger{});
  }

  // Computes every key once; threads read back their own.
  template <class KeyOf>
  __device__ __forceinline__ int64_t rank(const KeyOf& key_of) {
    unsigned own = 0;
    for (int64_t col = threadIdx.x; col < length; col += blockDim.x) {
      const uint32_t key = key_of(col);
      keys[col] = key;
      own += key != kLeftOut;
    }
    return participants = block_sum(state.count.select, own);
  }

  __device__ __forceinline__ uint32_t key(int64_t col) const { return static_cast<uint32_t>(keys[col]); }

  template <class Take>
  __device__ __forceinline__ void select(int64_t number, const Take& take) const {
    KeyCut cut = find_cut(state.count.select, length, number, participants, kScoreKeyBits, KeptKeys{keys});
    for (int64_t begin = 0; begin < length; begin += blockDim.x) {  // the same number of turns for every thread
      const int64_t col = begin + threadIdx.x;
      const bool chosen = is_selected(state.count.select, col < length ? keys[col] : kLeftOut, &cut);
      if (col < length) take(col, chosen);
    }
  }

  template <class TakesPart, class ScoreOf>
  __device__ __forceinline__ int64_t admitted(CountRule rule, double bound, int64_t at_least,
                                              const TakesPart& takes_part, const ScoreOf& score_of) {
    const bool ascending = is_ascending(rule);
    const int64_t n =
        rank([&](int64_t col) { return takes_part(col) ? score_key(score_of(col), !ascending) : kLeftOut; });
    const int64_t count = count_admitted(state.count, rule, length, n, bound, KeptKeys{keys});
    if (count >= at_least) return count;
    return at_least < n ? at_least : n;
  }

  struct KeptKeys {
    const uint64_t* keys;

    __device__ __forceinline__ uint64_t operator()(int64_t col) const { return keys[col]; }
  };
};

}  // namespace MDM_NAMESPACE
