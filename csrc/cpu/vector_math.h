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

}  // namespace MDM_NAMESPACE
