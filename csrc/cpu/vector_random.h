// core/philox.h and core/gumbel.h for sixteen consecutive indices: the same bits, in registers.
#pragma once

#include "core/philox.h"
#include "cpu/vector_math.h"

namespace MDM_NAMESPACE {

// What the sixteen draws of one call share.
struct DrawKey {
  uint32_t key0, key1;
  uint32_t position, step;
  uint32_t stream;  // purpose and call
};

MDM_INLINE DrawKey draw_key(int64_t seed, int64_t position, int64_t step, Purpose purpose, int64_t call) {
  const uint64_t key = static_cast<uint64_t>(seed);
  return {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32), static_cast<uint32_t>(position),
          static_cast<uint32_t>(step), philox_stream(purpose, call)};
}

// Sixteen Philox4x32-10 outputs, of which the first two words are used.
MDM_INLINE void philox16(Words x0, Words x1, Words x2, Words x3, uint32_t key0, uint32_t key1, Words* high,
                         Words* low) {
  for (int round = 0; round < kPhiloxRounds; ++round) {
    Words high0, low0, high1, low1;
    multiply_wide(x0, kPhiloxMultiplier0, &high0, &low0);
    multiply_wide(x2, kPhiloxMultiplier1, &high1, &low1);
    x0 = xor_words(xor_words(high1, x1), words_from(key0));
    x1 = low1;
    x2 = xor_words(xor_words(high0, x3), words_from(key1));
    x3 = low0;
    key0 += kPhiloxWeyl0;
    key1 += kPhiloxWeyl1;
  }
  *high = x0;
  *low = x1;
}

// The 64 bits of the draws first_index, ..., first_index + 15.
MDM_INLINE void philox_bits16(const DrawKey& key, uint32_t first_index, Words* high, Words* low) {
  philox16(iota(first_index), words_from(key.position), words_from(key.step), words_from(key.stream), key.key0,
           key.key1, high, low);
}

// The draws of index 0 that differ in their position only. Of Philox's first rounds most words are then the same for all
// positions and are computed here, once for a row: in round 1 nothing but an addition is left, in rounds 2 and 3 one
// product of two.
struct PositionDraws {
  uint32_t key0, key1;
  uint32_t first;           // round 1: x0 is the position xor this
  uint32_t x0, x1, second;  // round 2: x0, x1 and what x2's product is combined with
  uint32_t third, x3;       // round 3
};

MDM_INLINE PositionDraws position_draws(int64_t seed, int64_t step, Purpose purpose, int64_t call) {
  PositionDraws draws{};
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(static_cast<uint64_t>(seed) >> 32);
  draws.key0 = key0;
  draws.key1 = key1;
  const uint64_t of_step = static_cast<uint64_t>(kPhiloxMultiplier1) * static_cast<uint32_t>(step);
  draws.first = static_cast<uint32_t>(of_step >> 32) ^ key0;
  const uint32_t x1 = static_cast<uint32_t>(of_step), x2 = philox_stream(purpose, call) ^ key1;
  key0 += kPhiloxWeyl0;
  key1 += kPhiloxWeyl1;
  const uint64_t of_x2 = static_cast<uint64_t>(kPhiloxMultiplier1) * x2;
  draws.x0 = static_cast<uint32_t>(of_x2 >> 32) ^ x1 ^ key0;
  draws.x1 = static_cast<uint32_t>(of_x2);
  draws.second = key1;
  key0 += kPhiloxWeyl0;
  key1 += kPhiloxWeyl1;
  const uint64_t of_x0 = static_cast<uint64_t>(kPhiloxMultiplier0) * draws.x0;
  draws.x1 ^= key0;
  draws.third = static_cast<uint32_t>(of_x0 >> 32) ^ key1;
  draws.x3 = static_cast<uint32_t>(of_x0);
  return draws;
}

// The 64 bits of sixteen positions.
MDM_INLINE void position_bits16(const PositionDraws& draws, Words positions, Words* high, Words* low) {
  Words x0, x1, x2, x3, high0, low0, high1, low1;
  multiply_wide(xor_words(positions, words_from(draws.first)), kPhiloxMultiplier0, &high0, &x3);  // round 2
  x2 = xor_words(high0, words_from(draws.second));
  multiply_wide(x2, kPhiloxMultiplier1, &high1, &x1);  // round 3
  x0 = xor_words(high1, words_from(draws.x1));
  x2 = xor_words(x3, words_from(draws.third));
  x3 = words_from(draws.x3);
  uint32_t key0 = draws.key0 + 3 * kPhiloxWeyl0, key1 = draws.key1 + 3 * kPhiloxWeyl1;
  for (int round = 4; round < kPhiloxRounds; ++round) {
    multiply_wide(x0, kPhiloxMultiplier0, &high0, &low0);
    multiply_wide(x2, kPhiloxMultiplier1, &high1, &low1);
    x0 = xor_words(xor_words(high1, x1), words_from(key0));
    x1 = low1;
    x2 = xor_words(xor_words(high0, x3), words_from(key1));
    x3 = low0;
    key0 += kPhiloxWeyl0;
    key1 += kPhiloxWeyl1;
  }
  multiply_wide(x2, kPhiloxMultiplier1, &high1, low);  // of the last round two words are asked for
  *high = xor_words(xor_words(high1, x1), words_from(key0));
}

MDM_INLINE Floats uniform_from_bits16(Words high, Words low) {
  const Floats u = add(mul(float_from_u64(high, low), broadcast(0x1p-64f)), broadcast(0x1p-65f));
  return select(at_least(u, broadcast(0x1.fffffep-1f)), broadcast(0x1.fffffep-1f), u);
}

// -log(1 - u), within 1.5 ulp for every u in [2^-65, 1 - 2^-24]: what 1 - u loses is put back to first order, and for
// tiny u that is all there is.
MDM_INLINE Floats exponential_from_uniform16(Floats u) {
  const Floats one = broadcast(1.0f);
  const Floats w = sub(one, u);
  const Floats lost = sub(sub(one, w), u);
  return sub(broadcast(0.0f), add(log_normal(w), div(lost, w)));
}

// Sixteen standard exponential variates.
MDM_INLINE Floats exponential16(const DrawKey& key, uint32_t first_index) {
  Words high, low;
  philox_bits16(key, first_index, &high, &low);
  return exponential_from_uniform16(uniform_from_bits16(high, low));
}

}  // namespace MDM_NAMESPACE
