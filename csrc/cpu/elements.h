// Sixteen values at a time from and to memory of any floating-point type, rounded to nearest even.
#pragma once

#include <math.h>

#include "core/round_to.h"
#include "cpu/vector_math.h"

namespace MDM_NAMESPACE {

struct Bfloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// ---- sixteen float64 lanes: for gradient checks, so plain loops do ----

struct Doubles {
  double v[kLanes];
};

#define MDM_LANES for (int i = 0; i < kLanes; ++i)

MDM_INLINE Doubles broadcast(double x) {
  Doubles out;
  MDM_LANES out.v[i] = x;
  return out;
}
MDM_INLINE Doubles load(const double* p) {
  Doubles out;
  MDM_LANES out.v[i] = p[i];
  return out;
}
MDM_INLINE void store(double* p, const Doubles& a) { MDM_LANES p[i] = a.v[i]; }
MDM_INLINE Doubles add(Doubles a, const Doubles& b) {
  MDM_LANES a.v[i] += b.v[i];
  return a;
}
MDM_INLINE Doubles sub(Doubles a, const Doubles& b) {
  MDM_LANES a.v[i] -= b.v[i];
  return a;
}
MDM_INLINE Doubles mul(Doubles a, const Doubles& b) {
  MDM_LANES a.v[i] *= b.v[i];
  return a;
}
MDM_INLINE Doubles multiply_add(const Doubles& a, const Doubles& b, Doubles c) {
  MDM_LANES c.v[i] += a.v[i] * b.v[i];
  return c;
}
MDM_INLINE Doubles maximum(Doubles a, const Doubles& b) {
  MDM_LANES a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return a;
}
MDM_INLINE Doubles exp_nonpositive(Doubles a) {
  MDM_LANES a.v[i] = exp(a.v[i]);
  return a;
}
MDM_INLINE double reduce_add(const Doubles& a) {
  double sum = 0.0;
  MDM_LANES sum += a.v[i];
  return sum;
}

// cap tanh(x / cap), and its derivative where that is y.
MDM_INLINE Floats soft_capped(Floats x, Floats cap) { return mul(cap, tanh_any(div(x, cap))); }
MDM_INLINE Doubles soft_capped(Doubles x, const Doubles& cap) {
  MDM_LANES x.v[i] = cap.v[i] * tanh(x.v[i] / cap.v[i]);
  return x;
}
MDM_INLINE Floats cap_slope(Floats y, Floats cap) {
  const Floats share = div(y, cap);
  return sub(broadcast(1.0f), mul(share, share));
}
MDM_INLINE Doubles cap_slope(Doubles y, const Doubles& cap) {
  MDM_LANES y.v[i] = 1.0 - y.v[i] / cap.v[i] * (y.v[i] / cap.v[i]);
  return y;
}

// `seen` with NaN in every lane where x is NaN; other lanes as they were.
MDM_INLINE Floats remember_nan(Floats seen, Floats x) { return select(unordered(x, x), x, seen); }
MDM_INLINE Doubles remember_nan(Doubles seen, const Doubles& x) {
  MDM_LANES seen.v[i] = x.v[i] != x.v[i] ? x.v[i] : seen.v[i];
  return seen;
}

#undef MDM_LANES

// ---- one value ----

MDM_INLINE float value_of(Bfloat16 x) { return bfloat16_to_float(x.bits); }
MDM_INLINE float value_of(Float16 x) { return float16_to_float(x.bits); }
MDM_INLINE float value_of(float x) { return x; }
MDM_INLINE double value_of(double x) { return x; }

MDM_INLINE void store_value(float* p, float x) { *p = x; }
MDM_INLINE void store_value(double* p, double x) { *p = x; }
MDM_INLINE void store_value(Bfloat16* p, float x) {
  const uint32_t word = bits_of_float(x);
  const uint32_t rounded = (word + 0x7fffu + (word >> 16 & 1u)) >> 16;
  p->bits = static_cast<uint16_t>(x == x ? rounded : 0x7fc0u);
}
MDM_INLINE void store_value(Float16* p, float x) {
  const uint32_t sign = bits_of_float(x) >> 16 & 0x8000u;
  const uint32_t word = bits_of_float(x) & 0x7fffffffu;
  uint32_t half;
  if (word >= 0x47800000u) {  // 2^16 and above, infinity, NaN
    half = word > 0x7f800000u ? 0x7e00u : 0x7c00u;
  } else if (word < 0x38800000u) {  // subnormals are multiples of 2^-24, the spacing of float32 in [1/2, 1)
    half = bits_of_float(float_from_bits(word) + 0.5f) - 0x3f000000u;
  } else {
    half = (word - 0x38000000u + 0xfffu + (word >> 13 & 1u)) >> 13;
  }
  p->bits = static_cast<uint16_t>(sign | half);
}

// ---- sixteen values ----

MDM_INLINE Floats load_values(const float* p) { return load(p); }
MDM_INLINE Doubles load_values(const double* p) { return load(p); }
MDM_INLINE Floats load_values(const Bfloat16* p) { return load_bfloat16(&p->bits); }
MDM_INLINE Floats load_values(const Float16* p) { return load_float16(&p->bits); }

MDM_INLINE void store_values(float* p, Floats x) { store(p, x); }
MDM_INLINE void store_values(double* p, const Doubles& x) { store(p, x); }
template <class T>
MDM_INLINE void store_values_each(T* p, Floats x) {
  float values[kLanes];
  store(values, x);
  for (int i = 0; i < kLanes; ++i) store_value(p + i, values[i]);
}
MDM_INLINE void store_values(Bfloat16* p, Floats x) {
#if defined(__AVX512BF16__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(x.v));
#else
  store_values_each(p, x);
#endif
}
MDM_INLINE void store_values(Float16* p, Floats x) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
#else
  store_values_each(p, x);
#endif
}

// count < kLanes of them.
template <class T, class Lanes>
MDM_INLINE void store_some(T* p, const Lanes& x, int64_t count) {
  T values[kLanes];
  store_values(values, x);
  for (int64_t i = 0; i < count; ++i) p[i] = values[i];
}

}  // namespace MDM_NAMESPACE
