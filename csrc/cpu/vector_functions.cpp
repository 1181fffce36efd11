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

void exponential_array(const float* u, float* y, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) store(y + i, exponential_from_uniform16(load(u + i)));
}

// Four rows by sixteen columns of registers over panels of 17 KB, so that every load is from the first-level cache.
template <class Arithmetic>
static void repeat_products(int64_t repeats) {
  constexpr int64_t kSteps = 64, kRows = 4, kLines = 4 * kLanes;
  alignas(64) float left[kRows * kSteps], right[kSteps * kLines], product[kRows * kLines];
  for (int64_t i = 0; i < kRows * kSteps; ++i) left[i] = 1.0f / static_cast<float>(i + 1);
  for (int64_t i = 0; i < kSteps * kLines; ++i) right[i] = 1.0f / static_cast<float>(i + 1);
  for (int64_t i = 0; i < repeats; ++i) {
    multiply<Arithmetic>(rows_of_words(left, kSteps * 4), kRows, panels_of({right, kLines}), kSteps, kLines / kLanes,
                         Update::overwrite, nullptr, {product, kLines});
    left[i % kSteps] = product[i % kLines] * 0.0f + 1.0f;  // so that no repetition is like the last
  }
}

int64_t multiply_probe(bool bfloat16_pairs, int64_t repeats) {
#if defined(__AVX512BF16__)
  if (bfloat16_pairs) {
    repeat_products<Bfloat16Pairs>(repeats);
    return repeats * 4 * 64 * 64 * 4;
  }
#else
  if (bfloat16_pairs) return 0;
#endif
  repeat_products<Float32>(repeats);
  return repeats * 4 * 64 * 64 * 2;
}

}  // namespace MDM_NAMESPACE
