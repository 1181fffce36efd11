// top_k and top_p of one row by one block, without a sort.
//
// Every filter keeps a prefix of the order "falling value, then rising id", so a kept set is a value and the last id kept
// among those that tie with it. The prefix ends where a cumulative weight crosses a limit (a count for top_k, probability
// mass for top_p), and that place is found by adding weights into 256 bins in shared memory, eight bits of the value at a
// time. Masses are integers of 2^-40 of the largest, so their sums have no order: the same set as on the CPU
// (cpu/proposal_filter.h) but for the last bit of an exponential. The row is read again for each pass; chunks whose
// maximum shows that they hold nothing of interest are not.
#pragma once

#include "cuda/score_chunks.cuh"

namespace MDM_NAMESPACE {

constexpr int kMassBins = 256;
constexpr int64_t kEveryTie = 0x7fffffffffffffff;
// How far below the maximum, in nats, the nucleus is looked for before everywhere.
constexpr int kReaches = 2;

struct Crossing {
  bool found;
  uint32_t key;     // of the value at which the running weight, largest value first, exceeds the limit
  uint64_t before;  // weight of all larger values
};

struct FilterState {
  unsigned long long bins[kMassBins];
  unsigned long long mass[1 + kReaches];
  Crossing crossing;
  unsigned counts[cuda::kScoreThreads / kWarpLanes];
  int64_t tie;
};

// Warp 0: the bin, from the top, in which the running weight exceeds the limit. Lane i holds bins 255 - 8i to 248 - 8i.
__device__ inline void cross_bins(FilterState& state, int shift, uint64_t limit) {
  constexpr int kPerLane = kMassBins / kWarpLanes;
  const int top = kMassBins - 1 - kPerLane * lane_id();
  uint64_t own = 0;
  for (int i = 0; i < kPerLane; ++i) own += state.bins[top - i];
  uint64_t through = own;  // weight of this lane's bins and all higher ones
  for (int offset = 1; offset < kWarpLanes; offset *= 2) {
    const uint64_t other = __shfl_up_sync(kWholeWarp, through, offset);
    if (lane_id() >= offset) through += other;
  }
  const Crossing crossing = state.crossing;
  uint64_t before = crossing.before + (through - own);
  const bool here = before <= limit && limit < crossing.before + through;  // true for one lane or none
  const bool found = __any_sync(kWholeWarp, here);
  __syncwarp();  // all have read `crossing` before it changes
  if (here) {
    int bin = top;
    while (before + state.bins[bin] <= limit) before += state.bins[bin--];
    state.crossing = {true, crossing.key | static_cast<uint32_t>(bin) << shift, before};
  } else if (!found && lane_id() == 0) {
    state.crossing.found = false;
  }
}

// Adds weights of the keys that begin with `prefix`. A type with a name, since NVRTC 12.8 to 13.1 takes the call operator of
// a lambda with an `auto` parameter for a function of the host.
struct AddToBins {
  FilterState& state;
  uint32_t prefix, fixed_bits;
  int shift;

  __device__ __forceinline__ void operator()(uint32_t key, uint64_t weight) const {
    if ((key & fixed_bits) == prefix) {
      atomicAdd(&state.bins[key >> shift & 255], static_cast<unsigned long long>(weight));
    }
  }
};

// each(smallest, add) calls add(key, weight) for this thread's candidates, of which those with a key below `smallest` may
// be left out; every thread of the block calls this.
template <class Each>
__device__ inline Crossing find_crossing(FilterState& state, uint64_t limit, const Each& each) {
  if (threadIdx.x == 0) state.crossing = {true, 0, 0};
#pragma unroll 1
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int bin = threadIdx.x; bin < kMassBins; bin += blockDim.x) state.bins[bin] = 0;
    __syncthreads();
    const uint32_t prefix = state.crossing.key;
    const uint32_t fixed_bits = shift == 24 ? 0 : 0xffffffffu << (shift + 8);
    each(prefix, AddToBins{state, prefix, fixed_bits, shift});
    __syncthreads();
    if (warp_id() == 0) cross_bins(state, shift, limit);
    __syncthreads();
    if (!state.crossing.found) break;
  }
  const Crossing crossing = state.crossing;
  __syncthreads();  // all have read it before the next search
  return crossing;
}

// visit(x) for every proposable value of at least `floor`, a slot at a time; chunks are shared out among the warps.
template <class Visit>
__device__ inline void visit_values(const ScoredRow& row, float floor, const Visit& visit) {
#pragma unroll 1
  for (int64_t index = warp_id(); index < row.chunks; index += warp_count()) {
    const float max = row.proposal[index].max;
    if (!(max >= floor) || max == -__builtin_inff()) continue;
    const ChunkReader reader = read_proposal(row, index);
#pragma unroll 4
    for (int slot = 0; slot < PlainChunk::kSlots; ++slot) {
      const float x = reader.value(slot);
      if (x >= floor && x > -__builtin_inff()) visit(x);
    }
  }
}

// trunc(2^40 e^y) in two digits to the base 2^20, each exact; y = scale (x - max).
__device__ __forceinline__ uint64_t mass_of(float x, float max, float scale) {
  constexpr float kBase = 0x1p20f;
  const float scaled = expf(scale * (x - max)) * kBase;
  const uint32_t high = static_cast<uint32_t>(scaled);
  const uint32_t low = static_cast<uint32_t>((scaled - static_cast<float>(high)) * kBase);
  return (static_cast<uint64_t>(high) << 20) + low;
}

// The n-th of the chunk's ids (from 1) whose value is x; there are as many.
__device__ inline int64_t nth_in_chunk(const ChunkReader& reader, float x, unsigned n) {
  unsigned before = 0;
#pragma unroll 1
  for (int slot = 0;; ++slot) {  // slots are in order of id, and so are their lanes
    const unsigned ties = __ballot_sync(kWholeWarp, reader.value(slot) == x);
    const unsigned rank = before + __popc(ties & ((2u << lane_id()) - 1u));  // of this lane's id, if it ties
    const unsigned here = __ballot_sync(kWholeWarp, (ties >> lane_id() & 1) != 0 && rank == n);
    if (here != 0) return reader.begin + slot * kWarpLanes + __ffs(here) - 1;
    before += __popc(ties);
  }
}

// The id of the n-th proposable value (from 1) that equals x; -1 for n = 0, kEveryTie where there are fewer.
__device__ inline int64_t nth_tie(const ScoredRow& row, FilterState& state, float x, uint64_t n) {
  if (n == 0) return -1;
  if (threadIdx.x == 0) state.tie = kEveryTie;
  uint64_t before = 0;
#pragma unroll 1
  for (int64_t first = 0; first < row.chunks && before < n; first += warp_count()) {
    const int64_t index = first + warp_id();
    const bool possible = index < row.chunks && row.proposal[index].max >= x;
    ChunkReader reader{};
    unsigned own = 0;
    if (possible) {
      reader = read_proposal(row, index);
#pragma unroll 1
      for (int slot = 0; slot < PlainChunk::kSlots; ++slot) own += reader.value(slot) == x;
      own = __reduce_add_sync(kWholeWarp, own);
    }
    if (lane_id() == 0) state.counts[warp_id()] = own;
    __syncthreads();
    uint64_t through = before;
    for (int w = 0; w <= warp_id(); ++w) through += state.counts[w];
    if (through >= n && through - own < n) {
      const int64_t id = nth_in_chunk(reader, x, static_cast<unsigned>(n - (through - own)));
      if (lane_id() == 0) state.tie = id;
    }
    for (int w = 0; w < warp_count(); ++w) before += state.counts[w];
    __syncthreads();  // all have read the counts before the next turn writes them
  }
  return state.tie;
}

// The value of the k-th largest, -inf where there are no more than k.
__device__ inline float kth_largest(const ScoredRow& row, FilterState& state, int64_t k) {
  const float nothing = -__builtin_inff();
  const uint64_t limit = static_cast<uint64_t>(k - 1);
  // The k-th largest chunk maximum is a lower bound, and usually close.
  const Crossing bound = find_crossing(state, limit, [&](uint32_t, const AddToBins& add) {
#pragma unroll 1
    for (int64_t c = threadIdx.x; c < row.chunks; c += blockDim.x) {
      if (row.proposal[c].max > nothing) add(ordered_bits(row.proposal[c].max), 1);
    }
  });
  const float floor = bound.found ? value_of_key(bound.key) : nothing;
  const Crossing kth = find_crossing(state, limit, [&](uint32_t smallest, const AddToBins& add) {
    const float prefix = value_of_key(smallest);
    visit_values(row, prefix > floor ? prefix : floor, [&](float x) { add(ordered_bits(x), 1); });
  });
  return kth.found ? value_of_key(kth.key) : nothing;
}

// The nucleus of what is at least `kept_from`.
__device__ inline KeptSet nucleus(const ScoredRow& row, FilterState& state, float max, float scale, double top_p,
                                  float kept_from) {
  constexpr float kReach[kReaches] = {4.0f, 9.0f};
  if (threadIdx.x <= kReaches) state.mass[threadIdx.x] = 0;
  __syncthreads();
  uint64_t total = 0, near[kReaches] = {};
  visit_values(row, kept_from, [&](float x) {
    const uint64_t mass = mass_of(x, max, scale);
    total += mass;
    for (int i = 0; i < kReaches; ++i) near[i] += x >= max - kReach[i] / scale ? mass : 0;
  });
  atomicAdd(&state.mass[0], static_cast<unsigned long long>(total));
  for (int i = 0; i < kReaches; ++i) atomicAdd(&state.mass[1 + i], static_cast<unsigned long long>(near[i]));
  __syncthreads();
  const double share = top_p > 0.0 ? top_p : 0.0;
  const uint64_t limit = static_cast<uint64_t>(share * static_cast<double>(state.mass[0]));
  float floor = kept_from;
  for (int i = kReaches - 1; i >= 0; --i) {
    const float reach = max - kReach[i] / scale;
    if (state.mass[1 + i] > limit && reach > floor) floor = reach;
  }
  const Crossing crossing = find_crossing(state, limit, [&](uint32_t smallest, const AddToBins& add) {
    const float prefix = value_of_key(smallest);
    visit_values(row, prefix > floor ? prefix : floor, [&](float x) { add(ordered_bits(x), mass_of(x, max, scale)); });
  });
  if (!crossing.found) return {kept_from, kEveryTie};
  const float value = value_of_key(crossing.key);
  uint64_t ties = (limit - crossing.before) / mass_of(value, max, scale) + (row.params->top_p_inclusive ? 1 : 0);
  if (ties == 0 && crossing.before == 0) ties = 1;  // the most likely id always stays
  return {value, nth_tie(row, state, value, ties)};
}

// The kept set of a row whose largest proposable value is `max`; top_p not below 1 means no nucleus.
__device__ inline KeptSet find_kept(const ScoredRow& row, FilterState& state, float max, const RowPlan& plan) {
  const float everything = -__builtin_inff();
  const float kth = plan.top_k < row.params->vocab ? kth_largest(row, state, plan.top_k) : everything;
  if (!(plan.top_p < 1.0)) return {kth, kEveryTie};
  const float kept_from = row.params->top_p_first ? everything : kth;
  const KeptSet kept = nucleus(row, state, max, plan.scale, plan.top_p, kept_from);
  return kth > kept.threshold ? KeptSet{kth, kEveryTie} : kept;
}

}  // namespace MDM_NAMESPACE
