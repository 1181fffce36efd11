// The functions of vector_math.h and vector_random.h over arrays, so that tests can measure their errors.
#include "cpu/kernels.h"
#include "cpu/vector_random.h"

namespace MDM_NAMESPACE {

void exp_nonpositive_array(const float* x, float* y, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) store(y + i, exp_nonpositive(load(x + i)));
}

void log_array(const float* x, float* y, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) store(y + i, log_any(load(x + i)));
}

void exponential_array(const float* u, float* y, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) store(y + i, exponential_from_uniform16(load(u + i)));
}

}  // namespace MDM_NAMESPACE
