// One warp, one instruction: the harness's own ldmatrix and mma.sync, for tests that know the layouts from elsewhere.
#include "cuda/memory.cuh"
#include "cuda/ptx.cuh"
#include "simt/launch.h"

namespace {

namespace ptx = mdmcorrect::portable::ptx;
using mdmcorrect::portable::shared_at;

struct Product {
  const uint32_t* a;  // [32, 4]
  const uint32_t* b;  // [32, 2]
  float* d;           // [32, 4]
  bool bfloat16;
};

void multiply(Product product) {
  const int lane = threadIdx.x;
  uint32_t a[4];
  float d[4] = {};
  for (int i = 0; i < 4; ++i) a[i] = product.a[4 * lane + i];
  const uint32_t b0 = product.b[2 * lane], b1 = product.b[2 * lane + 1];
  product.bfloat16 ? ptx::mma_bf16(d, a, b0, b1) : ptx::mma_fp16(d, a, b0, b1);
  for (int i = 0; i < 4; ++i) product.d[4 * lane + i] = d[i];
}

struct Load {
  const uint32_t* rows;  // [32, 4]: the 16 bytes that lane l addresses
  uint32_t* d;           // [32, 4]
  bool transposed;
};

void load(Load one) {
  const int lane = threadIdx.x;
  uint32_t* own = shared_at<uint32_t>(16 * lane);
  for (int i = 0; i < 4; ++i) own[i] = one.rows[4 * lane + i];
  __syncwarp();
  uint32_t d[4];
  one.transposed ? ptx::ldmatrix_x4_trans(d, ptx::shared_address(own)) : ptx::ldmatrix_x4(d, ptx::shared_address(own));
  for (int i = 0; i < 4; ++i) one.d[4 * lane + i] = d[i];
}

}  // namespace

#define SIMT_VISIBLE extern "C" __attribute__((visibility("default")))

SIMT_VISIBLE int simt_multiply(const uint32_t* a, const uint32_t* b, float* d, int bfloat16) {
  return !simt::launch("multiply", multiply, dim3{1, 1, 1}, dim3{32, 1, 1}, 0, Product{a, b, d, bfloat16 != 0});
}
SIMT_VISIBLE int simt_load(const uint32_t* rows, uint32_t* d, int transposed) {
  return !simt::launch("load", load, dim3{1, 1, 1}, dim3{32, 1, 1}, 512, Load{rows, d, transposed != 0});
}
