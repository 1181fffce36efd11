// Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
//
// A counter-based generator has no state: its bits belong to their counter, so they are the same on every device, for
// every batch, thread count and launch shape. What is drawn with them is not, quite: logarithms and sums are rounded
// otherwise by another device or instruction set, which decides near ties. Key: the sequence's seed. Counter: (index,
// position, step, purpose << 16 | call).
#pragma once

#include "core/config.h"

namespace mdmcorrect {

// What a draw is for, so that two uses of one (index, position, step) never share bits. mdmcorrect/purpose.py has the
// same names.
enum class Purpose : uint32_t {
  CHUNK = 1,     // index: vocabulary chunk
  TOKEN = 2,     // index: global token id
  POSITION = 3,  // Gumbel noise of select_positions
  COMMIT = 4,    // Bernoulli unmasking
  REMASK = 5,    // Bernoulli remasking
  COUNT = 6,     // random counts
  SEED = 7,      // seed of sequence b
  ORDER = 8,     // uniform position scores
  DENSE = 9,     // one Gumbel per token
};

struct PhiloxCounter {
  uint32_t x0, x1, x2, x3;
};

}  // namespace mdmcorrect

namespace MDM_NAMESPACE {

constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53u;
constexpr uint32_t kPhiloxMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9u;
constexpr uint32_t kPhiloxWeyl1 = 0xBB67AE85u;
constexpr int kPhiloxRounds = 10;

MDM_INLINE PhiloxCounter philox4x32(PhiloxCounter counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t product0 = static_cast<uint64_t>(kPhiloxMultiplier0) * counter.x0;
    const uint64_t product1 = static_cast<uint64_t>(kPhiloxMultiplier1) * counter.x2;
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter.x1 ^ key0, static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter.x3 ^ key1, static_cast<uint32_t>(product0)};
    key0 += kPhiloxWeyl0;
    key1 += kPhiloxWeyl1;
  }
  return counter;
}

// The last counter word: the purpose above, the call within the step below.
MDM_INLINE uint32_t philox_stream(Purpose purpose, int64_t call) {
  return static_cast<uint32_t>(purpose) << 16 | (static_cast<uint32_t>(call) & 0xFFFFu);
}

// 64 random bits of one draw; int64 arguments are taken modulo 2^32.
MDM_INLINE uint64_t philox_bits(int64_t seed, int64_t index, int64_t position, int64_t step, Purpose purpose,
                                int64_t call) {
  const uint64_t key = static_cast<uint64_t>(seed);
  const PhiloxCounter out = philox4x32({static_cast<uint32_t>(index), static_cast<uint32_t>(position),
                                        static_cast<uint32_t>(step), philox_stream(purpose, call)},
                                       static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32));
  return static_cast<uint64_t>(out.x0) << 32 | out.x1;
}

}  // namespace MDM_NAMESPACE
