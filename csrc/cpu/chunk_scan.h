// The loop that everything waits for: the maximum of a chunk and the sums of its exponentials, in one pass over it.
//
// Exponentials are relative to a reference, the row's largest value before this chunk. If the chunk turns out to exceed
// it, its sums mean nothing: the caller raises the reference and scans the chunk again, from the first-level cache; in a
// row of n chunks that happens about log n times. So every sum that is used is of exponents that are at most 0, without
// an instruction that holds them there. NaN costs nothing to find where the exponential keeps it: it makes such a sum NaN.
#pragma once

#include "cpu/vocabulary_chunk.h"

namespace MDM_NAMESPACE {

struct ChunkSums {
  float sum;  // of w = e^(scale y), y = x - reference
  float dot;  // of y w; 0 if not asked for
};

struct ChunkScan {
  float max;                // of what is not NaN
  ChunkSums first, second;  // nothing unless max <= reference; first.sum is NaN if a value is
};

// What to sum. Two laws at different temperatures share a pass: they differ in scale only.
enum class Terms { none, sum, sum_and_dot };

template <FloatType type, Terms first, Terms second>
static ChunkScan scan(const Chunk& chunk, float reference, float first_scale, float second_scale) {
  const ScaledExp first_exp = scaled_exp(first_scale), second_exp = scaled_exp(second_scale);
  const Floats zero = broadcast(0.0f), from = broadcast(reference);
  Floats max[2], sum[2], dot[2], sum2[2], dot2[2];
  for (int k = 0; k < 2; ++k) max[k] = broadcast(-__builtin_inff()), sum[k] = dot[k] = sum2[k] = dot2[k] = zero;
  uint32_t nan = 0;
  for (int i = 0; i < chunk.padded; i += kPair) {
    Floats x[2];
    load_pair<type>(chunk.data, i, &x[0], &x[1]);
    if constexpr (!kKeepsNan) nan |= bits(unordered(x[0], x[1]));
    for (int k = 0; k < 2; ++k) {
      max[k] = maximum(x[k], max[k]);
      const Floats difference = sub(x[k], from);
      const Floats y = bounded(first_exp, difference);
      const Floats w = evaluate(first_exp, y);
      sum[k] = add(sum[k], w);
      if constexpr (first == Terms::sum_and_dot) dot[k] = multiply_add(y, w, dot[k]);
      if constexpr (second != Terms::none) {
        const Floats y2 = bounded(second_exp, difference);
        const Floats w2 = evaluate(second_exp, y2);
        sum2[k] = add(sum2[k], w2);
        if constexpr (second == Terms::sum_and_dot) dot2[k] = multiply_add(y2, w2, dot2[k]);
      }
    }
  }
  ChunkScan out{};
  out.max = reduce_max(maximum(max[0], max[1]));
  out.first.sum = nan != 0 ? __builtin_nanf("") : reduce_add(add(sum[0], sum[1]));
  if constexpr (first == Terms::sum_and_dot) out.first.dot = reduce_add(add(dot[0], dot[1]));
  if constexpr (second != Terms::none) out.second.sum = reduce_add(add(sum2[0], sum2[1]));
  if constexpr (second == Terms::sum_and_dot) out.second.dot = reduce_add(add(dot2[0], dot2[1]));
  return out;
}

// Sums over the values from `floor` on, above -inf, relative to a maximum that is known.
template <FloatType type, bool dot>
static ChunkSums sums_from(const Chunk& chunk, float max, float scale, float floor) {
  const ScaledExp exp = scaled_exp(scale);
  const Floats zero = broadcast(0.0f), least = broadcast(floor);
  Floats sums[2] = {zero, zero}, dots[2] = {zero, zero};
  for (int i = 0; i < chunk.padded; i += kPair) {
    Floats x[2];
    load_pair<type>(chunk.data, i, &x[0], &x[1]);
    for (int k = 0; k < 2; ++k) {
      const Floats y = bounded(exp, sub(x[k], broadcast(max)));
      const Floats w = select(at_least(x[k], least), evaluate(exp, y), zero);
      sums[k] = add(sums[k], w);
      if constexpr (dot) dots[k] = multiply_add(y, w, dots[k]);
    }
  }
  return {reduce_add(add(sums[0], sums[1])), dot ? reduce_add(add(dots[0], dots[1])) : 0.0f};
}

template <bool dot>
static ChunkSums sums_from(const Chunk& chunk, float max, float scale, float floor) {
  switch (chunk.type) {
    case FloatType::bfloat16:
      return sums_from<FloatType::bfloat16, dot>(chunk, max, scale, floor);
    case FloatType::float16:
      return sums_from<FloatType::float16, dot>(chunk, max, scale, floor);
    default:
      return sums_from<FloatType::float32, dot>(chunk, max, scale, floor);
  }
}

// The maximum alone, NaN if there is one.
template <FloatType type>
static float top(const Chunk& chunk) {
  Floats max0 = broadcast(-__builtin_inff()), max1 = max0;
  uint32_t nan = 0;
  for (int i = 0; i < chunk.padded; i += kPair) {
    Floats a, b;
    load_pair<type>(chunk.data, i, &a, &b);
    nan |= bits(unordered(a, b));
    max0 = maximum(a, max0);
    max1 = maximum(b, max1);
  }
  return nan != 0 ? __builtin_nanf("") : reduce_max(maximum(max0, max1));
}

static float top_of(const Chunk& chunk) {
  switch (chunk.type) {
    case FloatType::bfloat16:
      return top<FloatType::bfloat16>(chunk);
    case FloatType::float16:
      return top<FloatType::float16>(chunk);
    default:
      return top<FloatType::float32>(chunk);
  }
}

using ScanFunction = ChunkScan (*)(const Chunk& chunk, float reference, float first_scale, float second_scale);

template <FloatType type>
static ScanFunction scan_of(Terms first, Terms second) {
  constexpr Terms none = Terms::none, sum = Terms::sum, both = Terms::sum_and_dot;
  if (first == both) {
    return second == both ? scan<type, both, both> : second == sum ? scan<type, both, sum> : scan<type, both, none>;
  }
  return second == both ? scan<type, sum, both> : second == sum ? scan<type, sum, sum> : scan<type, sum, none>;
}

// How a row's chunks are scanned: its terms at its scales.
struct Scanner {
  Terms first, second;
  float first_scale, second_scale;
  ScanFunction function;  // for chunks of the type it was made for; null where there is nothing to sum
};

static Scanner scanner_of(FloatType type, Terms first, float first_scale, Terms second, float second_scale) {
  Scanner scanner{first, second, first_scale, second_scale, nullptr};
  if (first == Terms::none) return scanner;
  scanner.function = type == FloatType::bfloat16  ? scan_of<FloatType::bfloat16>(first, second)
                     : type == FloatType::float16 ? scan_of<FloatType::float16>(first, second)
                                                  : scan_of<FloatType::float32>(first, second);
  return scanner;
}

MDM_INLINE ChunkScan run(const Scanner& scanner, const Chunk& chunk, float reference) {
  return scanner.function(chunk, reference, scanner.first_scale, scanner.second_scale);
}

}  // namespace MDM_NAMESPACE
