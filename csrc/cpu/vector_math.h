// Exponential and logarithm of sixteen floats. The polynomials are minimax fits of ours; the errors stated here are
// measured over every float32 of the domain by tests/test_vector_math.py.
#pragma once

#include "cpu/simd.h"

namespace MDM_NAMESPACE {

// e^x for x <= 0, within 0.9 ulp (1.2 without FMA) down to -86; below, and for -inf, e^-86 = 4e-38 instead of less:
// nothing that is added to a term of size 1 or raced against one can tell. A NaN also gives e^-86: callers look for NaN
// before.
MDM_INLINE Floats exp_nonpositive(Floats x) {
  x = maximum(x, broadcast(-86.0f));
  const Floats magic = broadcast(0x1.8p23f);  // adding it leaves the nearest integer in the low bits
  const Floats shifted = multiply_add(x, broadcast(0x1.715476p0f), magic);
  const Floats n = sub(shifted, magic);
  // ln 2 in two parts; n times the first is exact, so this is right without FMA too.
  Floats r = multiply_add(n, broadcast(-0x1.63p-1f), x);
  r = multiply_add(n, broadcast(0x1.bd0106p-13f), r);
  Floats p = broadcast(0x1.6a241ap-10f);
  p = multiply_add(p, r, broadcast(0x1.1239f2p-7f));
  p = multiply_add(p, r, broadcast(0x1.5558f2p-5f));
  p = multiply_add(p, r, broadcast(0x1.555492p-3f));
  p = multiply_add(p, r, broadcast(0x1.fffffcp-2f));
  p = multiply_add(p, r, broadcast(1.0f));
  p = multiply_add(p, r, broadcast(1.0f));
  return as_floats(add_words(as_words(p), shift_left<23>(as_words(shifted))));
}

// 2^(j / 32) for j = 0, ..., 31, less what adding j << 18 to the word puts back.
alignas(64) static const uint32_t kPowersOfTwo[32] = {
    0x3f800000u, 0x3f7ecd87u, 0x3f7daac3u, 0x3f7c980fu, 0x3f7b95c2u, 0x3f7aa43au, 0x3f79c3d3u, 0x3f78f4f0u,
    0x3f7837f0u, 0x3f778d3au, 0x3f76f532u, 0x3f767043u, 0x3f75fed7u, 0x3f75a15bu, 0x3f75583fu, 0x3f7523f6u,
    0x3f7504f3u, 0x3f74fbafu, 0x3f7508a4u, 0x3f752c4du, 0x3f75672au, 0x3f75b9beu, 0x3f76248cu, 0x3f76a81eu,
    0x3f7744fdu, 0x3f77fbb8u, 0x3f78ccdfu, 0x3f79b907u, 0x3f7ac0c7u, 0x3f7be4bau, 0x3f7d257du, 0x3f7e83b3u};

// e^(scale y) for y <= 0, the exponential of the statistics: as few instructions as the sums' accuracy allows.
struct ScaledExp {
  Floats factor;  // scale, times log2 e where a table is used
  Floats floor;   // -86 / scale
  Table table;
};

MDM_INLINE ScaledExp scaled_exp(float scale) {
  return {broadcast(kHasTable ? scale * 0x1.715476p0f : scale), broadcast(-86.0f / scale), load_table(kPowersOfTwo)};
}

// What evaluate may be given: y, but not below e^-86, so that -inf times its weight stays finite. A NaN stays.
MDM_INLINE Floats bounded(const ScaledExp& exp, Floats y) { return maximum(exp.floor, y); }

constexpr bool kKeepsNan = kHasTable;  // evaluate(NaN) is NaN

// Within 1.7 ulp + 0.22 ulp per unit of |scale y|, since scale log2 e is rounded once, as if the temperature were 2e-8
// off. Exactly 1 at 0.
MDM_INLINE Floats evaluate(const ScaledExp& exp, Floats y) {
  if constexpr (!kHasTable) return exp_nonpositive(mul(y, exp.factor));
  const Floats magic = broadcast(0x1.8p18f);  // adding it leaves the nearest 1/32 in the low bits
  const Floats shifted = multiply_add(y, exp.factor, magic);
  const Floats f = multiply_add(y, exp.factor, sub(magic, shifted));  // at most 1/64
  const Words power = add_words(look_up(exp.table, as_words(shifted)), shift_left<18>(as_words(shifted)));
  const Floats p = mul(f, multiply_add(f, broadcast(0x1.ebfbdep-3f), broadcast(0x1.62e584p-1f)));
  return multiply_add(p, as_floats(power), as_floats(power));
}

// log x for normal positive x, within 0.9 ulp.
MDM_INLINE Floats log_normal(Floats x) {
  const uint32_t sqrt_half = 0x3f3504f3u;
  // The exponent that brings x into [sqrt(1/2), sqrt(2)).
  const Words exponent = shift_right_signed<23>(sub_words(as_words(x), words_from(sqrt_half)));
  const Floats e = signed_to_float(exponent);
  const Floats f = sub(as_floats(sub_words(as_words(x), shift_left<23>(exponent))), broadcast(1.0f));
  const Floats square = mul(f, f);
  Floats p = broadcast(-0x1.38b58cp-4f);
  p = multiply_add(p, f, broadcast(0x1.055b70p-3f));
  p = multiply_add(p, f, broadcast(-0x1.0d8542p-3f));
  p = multiply_add(p, f, broadcast(0x1.22da1cp-3f));
  p = multiply_add(p, f, broadcast(-0x1.547244p-3f));
  p = multiply_add(p, f, broadcast(0x1.99a008p-3f));
  p = multiply_add(p, f, broadcast(-0x1.000226p-2f));
  p = multiply_add(p, f, broadcast(0x1.555554p-2f));
  // log x = e ln2_high + (f + (f^3 p + e ln2_low - f^2 / 2)), smallest terms first.
  Floats small = mul(mul(p, f), square);
  small = multiply_add(e, broadcast(-0x1.bd0106p-13f), small);
  small = multiply_add(square, broadcast(-0.5f), small);
  return multiply_add(e, broadcast(0x1.63p-1f), add(small, f));
}

// log x for any x: -inf at 0, NaN below 0 and for NaN, +inf at +inf; subnormals, scaled first, within 1.1 ulp.
MDM_INLINE Floats log_any(Floats x) {
  const Floats smallest = broadcast(0x1p-126f);
  const Mask normal = at_least(x, smallest);
  const Floats scaled = select(normal, x, mul(x, broadcast(0x1p24f)));
  const Floats shift = select(normal, broadcast(0.0f), broadcast(-0x1.0a2b24p4f));  // -24 ln 2
  Floats y = add(log_normal(scaled), shift);
  y = select(equal(x, broadcast(0.0f)), broadcast(-__builtin_inff()), y);
  y = select(equal(x, broadcast(__builtin_inff())), x, y);
  return select(at_least(x, broadcast(0.0f)), y, broadcast(__builtin_nanf("")));
}

// tanh x for any x, within 1.7 ulp (2 without FMA); NaN for NaN.
MDM_INLINE Floats tanh_any(Floats x) {
  const Words sign = and_words(as_words(x), words_from(0x80000000u));
  const Floats size = as_floats(xor_words(as_words(x), sign)), one = broadcast(1.0f);
  const Floats square = mul(x, x);
  Floats p = broadcast(-0x1.75e1ccp-8f);
  p = multiply_add(p, square, broadcast(0x1.52269ap-6f));
  p = multiply_add(p, square, broadcast(-0x1.b83c5ap-5f));
  p = multiply_add(p, square, broadcast(0x1.110726p-3f));
  p = multiply_add(p, square, broadcast(-0x1.555532p-2f));
  const Floats near = multiply_add(mul(p, square), x, x);
  const Floats power = exp_nonpositive(mul(size, broadcast(-2.0f)));
  const Floats far = as_floats(xor_words(as_words(div(sub(one, power), add(one, power))), sign));
  return select(unordered(x, x), x, select(at_least(size, broadcast(0.625f)), far, near));
}

}  // namespace MDM_NAMESPACE
