// Uniform, exponential and Gumbel variates from 64 random bits, in float32, with the tails that matter kept.
//
// A float32 uniform near 1 ends at 1 - 2^-24 and would cut Gumbel noise at 16.6, which lowers the effective temperature
// (Zheng et al., arXiv 2409.02908, section 5). Here u is fine near 0, and small u means a small exponential, a large
// Gumbel: the largest possible Gumbel is log(2^65) = 45.05. The end that is cut, u > 1 - 2^-24, is the lower tail of
// the Gumbel, which loses the race anyway.
#pragma once

#if !defined(__CUDACC_RTC__)
#include <math.h>
#endif

#include "core/philox.h"

namespace MDM_NAMESPACE {

// min((r + 1/2) 2^-64, 1 - 2^-24), rounded to nearest twice: r to float32, then the sum.
MDM_INLINE float uniform_from_bits(uint64_t bits) {
  const float u = static_cast<float>(bits) * 0x1p-64f + 0x1p-65f;  // the product is exact: contraction changes nothing
  return u < 0x1.fffffep-1f ? u : 0x1.fffffep-1f;
}

// The same in double precision, below 1 - 2^-53.
MDM_INLINE double double_uniform_from_bits(uint64_t bits) {
  const double u = static_cast<double>(bits) * 0x1p-64 + 0x1p-65;
  return u < 0x1.fffffffffffffp-1 ? u : 0x1.fffffffffffffp-1;
}

// Standard exponential variate.
MDM_INLINE float exponential_from_bits(uint64_t bits) { return -log1pf(-uniform_from_bits(bits)); }

// Standard Gumbel variate.
MDM_INLINE float gumbel_from_bits(uint64_t bits) { return -logf(exponential_from_bits(bits)); }

}  // namespace MDM_NAMESPACE
