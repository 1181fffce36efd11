// The functions of vector_math.h and vector_random.h over arrays, so that tests can measure their errors, and the most
// products a core can do, which benchmarks of matrix products compare with.
#include "cpu/attention_product.h"
#include "cpu/kernels.h"
#include "cpu/vector_random.h"

namespace MDM_NAMESPACE {

void exp_nonpositive_array(const float* x, float* y, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) store(y + i, exp_nonpositive(load(x + i)));
}

void scaled_exp_array(const float* x, float* y, int64_t count) {
  const ScaledExp exp = scaled_exp(1.0f);
  for (int64_t i = 0; i < count; i += kLanes) store(y + i, evaluate(exp, bounded(exp, load(x + i))));
}

void log_array(const float* x, float* y, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) store(y + i, log_any(load(x + i)));
}

void tanh_array(const float* x, float* y, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) store(y + i, tanh_any(load(x + i)));
}

void exponential_array(const float* u, float* y, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) store(y + i, exponential_from_uniform16(load(u + i)));
}

// Products of operands of up to 40 KB, so that every load is from the first-level cache.
template <class Arithmetic, int64_t kRows, int64_t kSteps, int64_t kLines>
static int64_t repeat_products(int64_t repeats) {
  alignas(64) float left[kRows * kSteps], right[kSteps * kLines], product[kRows * kLines];
  for (int64_t i = 0; i < kRows * kSteps; ++i) left[i] = 1.0f / static_cast<float>(i + 1);
  for (int64_t i = 0; i < kSteps * kLines; ++i) right[i] = 1.0f / static_cast<float>(i + 1);
  for (int64_t i = 0; i < repeats; ++i) {
    multiply<Arithmetic>(rows_of_words(left, kSteps * 4), kRows, panels_of({right, kLines}), kSteps, kLines / kLanes,
                         Update::overwrite, nullptr, {product, kLines});
    left[i % kSteps] = product[i % kLines] * 0.0f + 1.0f;  // so that no repetition is like the last
  }
  return repeats * kRows * kSteps * kLines * 2 * Arithmetic::kPack;
}

int64_t multiply_probe(bool bfloat16_pairs, int64_t repeats) {
#if defined(__AVX512BF16__)
  if (bfloat16_pairs) {
    const TileRegisters tiles;
#if defined(__AMX_BF16__)
    return repeat_products<Bfloat16Pairs, 32, 128, 32>(repeats);  // one block of tiles
#else
    return repeat_products<Bfloat16Pairs, 4, 64, 64>(repeats);
#endif
  }
#else
  if (bfloat16_pairs) return 0;
#endif
  return repeat_products<Float32, 4, 64, 64>(repeats);
}

}  // namespace MDM_NAMESPACE
