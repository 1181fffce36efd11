// Kernels with one defect each, which the harness must catch (test_controls.py). All add up the rows of a [rows, width]
// matrix; Defect::none does it right.
#include "cuda/memory.cuh"
#include "simt/launch.h"

namespace {

enum class Defect : int {
  none,
  no_barrier,         // the partial sums are read before all are there
  no_second_barrier,  // the next row's partial sums overwrite this row's
  wrong_mask,         // a shuffle that names lanes which do not come
  mask_without_self,
  shuffle_outside,  // a shuffle that reads a lane the mask does not name
  one_past_the_end,
  no_tail,        // reads whole tiles
  strided,        // each thread reads a contiguous piece: uncoalesced
  cross_block,    // blocks add to one place without an atomic
  uninitialised,  // a partial sum nobody wrote
  shared_too_small,
  early_return,  // a warp leaves before the barrier
  writes_input,
  misaligned,
  no_syncwarp,     // lanes of one warp share through memory without meeting
  shuffle_orders,  // they meet at a shuffle, which does not order memory
};

struct Params {
  const float* input;
  float* sums;
  int rows;
  int width;
};

constexpr int kThreads = 64;
constexpr unsigned kFullWarp = 0xffffffffu;

template <Defect defect>
__device__ float warp_sum(float own) {
  const unsigned lane = threadIdx.x % 32;
  unsigned mask = kFullWarp;
  if (defect == Defect::mask_without_self) mask = 0x0000ffffu;
  if (defect == Defect::shuffle_outside) {
    if (lane < 16) own += __shfl_xor_sync(0x0000ffffu, own, 16);
    return own;
  }
  if (defect == Defect::wrong_mask && lane >= 16) return own;
  for (int offset = 16; offset > 0; offset /= 2) own += __shfl_down_sync(mask, own, offset);
  return own;
}

template <Defect defect>
__device__ float row_sum(const Params& params, int row) {
  const float* values = params.input + row * params.width;
  float own = 0.0f;
  if (defect == Defect::strided) {
    const int piece = (params.width + kThreads - 1) / kThreads;
    for (int i = threadIdx.x * piece; i < params.width && i < static_cast<int>(threadIdx.x + 1) * piece; ++i) {
      own += values[i];
    }
    return own;
  }
  const int tile_end = (params.width + kThreads - 1) / kThreads * kThreads;
  const int end = defect == Defect::one_past_the_end ? params.width + (row == params.rows - 1)
                  : defect == Defect::no_tail        ? tile_end
                                                     : params.width;
  for (int i = threadIdx.x; i < end; i += kThreads) own += values[i];
  return own;
}

template <Defect defect>
__global__ void sum_rows(Params params) {
  float* partial = mdmcorrect::portable::shared_at<float>(0);
  for (int row = blockIdx.x; row < params.rows; row += gridDim.x) {
    float own = warp_sum<defect>(row_sum<defect>(params, row));
    if (defect == Defect::no_syncwarp || defect == Defect::shuffle_orders) {
      if (threadIdx.x == 0) partial[0] = own;
      if (defect == Defect::shuffle_orders) own = __shfl_sync(kFullWarp, own, static_cast<int>(threadIdx.x % 32));
      if (threadIdx.x == 1) params.sums[row] = partial[0];
    }
    if (defect == Defect::early_return && threadIdx.x >= 32) return;
    const bool writes = defect == Defect::uninitialised ? threadIdx.x == 0 : threadIdx.x % 32 == 0;
    if (writes) partial[threadIdx.x / 32] = own;
    if (defect != Defect::no_barrier) __syncthreads();
    if (threadIdx.x == 0) {
      float* out = params.sums + (defect == Defect::cross_block ? 0 : row);
      if (defect == Defect::misaligned) out = reinterpret_cast<float*>(reinterpret_cast<char*>(out) + 2);
      if (defect == Defect::writes_input) out = const_cast<float*>(params.input);
      *out = partial[0] + partial[1];
    }
    if (defect != Defect::no_second_barrier) __syncthreads();
  }
}

template <Defect defect>
bool launch_sum(const Params& params) {
  const size_t shared_bytes = defect == Defect::shared_too_small ? 4 : 2 * sizeof(float);
  return simt::launch("sum_rows", sum_rows<defect>, dim3{2, 1, 1}, dim3{kThreads, 1, 1}, shared_bytes, params);
}

template <int... defects>
bool dispatch(int defect, const Params& params, std::integer_sequence<int, defects...>) {
  bool done = false;
  static_cast<void>(((defect == defects && (done = launch_sum<static_cast<Defect>(defects)>(params), true)) || ...));
  return done;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int simt_control(int defect, const float* input, float* sums,
                                                                   int rows, int width) {
  return !dispatch(defect, {input, sums, rows, width},
                   std::make_integer_sequence<int, static_cast<int>(Defect::shuffle_orders) + 1>());
}
