// A team of one thread (core/step_open.h).
#pragma once

#include "cpu/count_row.h"
#include "cpu/radix_select.h"
#include "cpu/rows.h"

namespace MDM_NAMESPACE {

struct Alone {
  int64_t length;
  uint32_t* keys;
  uint32_t* others;
  float* scores;
  uint8_t* flags;

  // scratch: 2 * length + 64 words.
  Alone(int64_t row_length, uint64_t* scratch) : length(row_length) {
    Scratch room{scratch};
    keys = room.take<uint32_t>(length);
    others = room.take<uint32_t>(length);
    scores = room.take<float>(length);
    flags = room.take<uint8_t>(length);
  }

  bool leads() const { return true; }

  template <class F>
  void each(const F& f) const {
    for (int64_t col = 0; col < length; ++col) f(col);
  }

  template <class F>
  int64_t count(const F& f) const {
    int64_t found = 0;
    for (int64_t col = 0; col < length; ++col) found += f(col);
    return found;
  }

  template <class F>
  int64_t first(const F& f) const {
    int64_t col = 0;
    while (col < length && !f(col)) ++col;
    return col;
  }

  template <class F>
  double sum(const F& f) const {
    double total = 0.0;
    for (int64_t col = 0; col < length; ++col) total += f(col);
    return total;
  }

  template <class F>
  double largest(const F& f) const {
    double best = -__builtin_inf();
    for (int64_t col = 0; col < length; ++col) {
      const double value = f(col);
      best = value > best ? value : best;
    }
    return best;
  }

  template <class KeyOf>
  int64_t rank(const KeyOf& key_of) const {
    int64_t participants = 0;
    for (int64_t col = 0; col < length; ++col) {
      keys[col] = key_of(col);
      participants += keys[col] != kLeftOut;
    }
    return participants;
  }

  uint32_t key(int64_t col) const { return keys[col]; }

  template <class Take>
  void select(int64_t number, const Take& take) const {
    mark_largest(keys, length, number, others, flags);
    for (int64_t col = 0; col < length; ++col) take(col, flags[col] != 0);
  }

  template <class TakesPart, class ScoreOf>
  int64_t admitted(CountRule rule, double bound, int64_t at_least, const TakesPart& takes_part,
                   const ScoreOf& score_of) const {
    for (int64_t col = 0; col < length; ++col) {
      flags[col] = takes_part(col);
      scores[col] = score_of(col);
    }
    return count_row(rule, scores, flags, length, bound, at_least, keys, others);
  }
};

}  // namespace MDM_NAMESPACE
