// Ranking by integer keys: a larger key is chosen before a smaller one, equal keys by lowest index.
//
// A floating-point number becomes an unsigned integer of the same order: non-negative numbers get the sign bit set,
// negative ones are inverted. Radix selection then needs neither comparisons of floats nor a special case for
// infinities. Every real key is above 0 (that of -inf is 0x007fffff), so key 0 marks a position that takes no part.
#pragma once

#include "core/gumbel.h"
#include "core/philox.h"
#include "core/select_positions_params.h"
#include "core/sequence_seed.h"

namespace MDM_NAMESPACE {

constexpr uint32_t kLeftOut = 0;
constexpr int kScoreKeyBits = 32;   // score_key
constexpr int kGumbelKeyBits = 64;  // gumbel_key

// All ones where the sign bit is set.
MDM_INLINE uint32_t sign_mask(uint32_t bits) { return static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31); }

// -0 ranks as +0: adding +0 turns the one into the other and changes nothing else.
MDM_INLINE uint32_t ordered_bits(float value) {
  const float canonical = value + 0.0f;
  uint32_t bits;
#if defined(__CUDA_ARCH__)
  bits = __float_as_uint(canonical);
#else
  __builtin_memcpy(&bits, &canonical, sizeof(bits));
#endif
  return bits ^ (sign_mask(bits) | 0x80000000u);
}

// The inverse; a NaN for the key of one.
MDM_INLINE float value_of_key(uint32_t key) { return float_from_bits(key ^ (~sign_mask(key) | 0x80000000u)); }

MDM_INLINE uint64_t ordered_bits(double value) {
  const double canonical = value + 0.0;
  uint64_t bits;
#if defined(__CUDA_ARCH__)
  bits = static_cast<uint64_t>(__double_as_longlong(canonical));
#else
  __builtin_memcpy(&bits, &canonical, sizeof(bits));
#endif
  return (bits >> 63) != 0 ? ~bits : bits | 0x8000000000000000u;
}

// Rank by score; NaN is left out.
MDM_INLINE uint32_t score_key(float score, bool largest) {
  const uint32_t key = ordered_bits(largest ? score : -score);
  return score == score ? key : kLeftOut;
}

// Gumbel top-k: the k largest of score / T + Gumbel are a draw without replacement from softmax(score / T).
// In float64, since a float32 sum would drop the noise's low bits where |score / T| is large.
MDM_INLINE uint64_t gumbel_key(float score, bool largest, double temperature, float gumbel) {
  const double value = static_cast<double>(largest ? score : -score);
  const uint64_t key = ordered_bits(value / temperature + static_cast<double>(gumbel));
  return score == score ? key : kLeftOut;
}

// Key of one position of select_positions, seed being that of its row; the CPU kernel computes the same sixteen at a time.
MDM_INLINE uint64_t position_key(const SelectPositionsParams& params, int64_t row, int64_t col, int64_t seed) {
  if (at_or<uint8_t>(params.eligible, row, col, 1) == 0) return kLeftOut;
  const float score = at(params.scores, row, col);
  if (params.temperature == 0.0) return score_key(score, params.largest);
  const int64_t position = at_or<int64_t>(params.positions, row, col, col);
  const uint64_t bits = philox_bits(seed, 0, position, row_value(params.step, row), Purpose::POSITION, *params.call);
  return gumbel_key(score, params.largest, params.temperature, gumbel_from_bits(bits));
}

}  // namespace MDM_NAMESPACE
