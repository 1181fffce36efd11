// simd.h in the compiler's own vectors of 16 lanes, which it maps to whatever the machine has (SSE2, NEON, ...).
#pragma once

#include "core/round_to.h"

namespace MDM_NAMESPACE {

typedef float FloatLanes __attribute__((vector_size(64)));
typedef uint32_t WordLanes __attribute__((vector_size(64)));
typedef int32_t IntLanes __attribute__((vector_size(64)));

struct Floats {
  FloatLanes v;
};
struct Words {
  WordLanes v;
};
struct Mask {
  IntLanes v;  // 0 or -1
};

#define MDM_LANES for (int i = 0; i < 16; ++i)

MDM_INLINE Floats broadcast(float x) { return {FloatLanes{} + x}; }
MDM_INLINE Floats load(const float* p) {
  Floats out;
  __builtin_memcpy(&out, p, sizeof(out));
  return out;
}
MDM_INLINE void store(float* p, Floats a) { __builtin_memcpy(p, &a, sizeof(a)); }
MDM_INLINE Words as_words(Floats a) { return {reinterpret_cast<WordLanes>(a.v)}; }
MDM_INLINE Floats as_floats(Words a) { return {reinterpret_cast<FloatLanes>(a.v)}; }
MDM_INLINE Floats load_bfloat16(const uint16_t* p) {
  WordLanes wide;
  MDM_LANES wide[i] = static_cast<uint32_t>(p[i]) << 16;
  return as_floats({wide});
}
MDM_INLINE Floats load_float16(const uint16_t* p) {
  FloatLanes wide;
  MDM_LANES wide[i] = float16_to_float(p[i]);
  return {wide};
}
MDM_INLINE void store_bfloat16(uint16_t* p, Floats a) { MDM_LANES p[i] = float_to_bfloat16(a.v[i]); }
MDM_INLINE void store_float16(uint16_t* p, Floats a) { MDM_LANES p[i] = float_to_float16(a.v[i]); }

MDM_INLINE Floats add(Floats a, Floats b) { return {a.v + b.v}; }
MDM_INLINE Floats sub(Floats a, Floats b) { return {a.v - b.v}; }
MDM_INLINE Floats mul(Floats a, Floats b) { return {a.v * b.v}; }
MDM_INLINE Floats div(Floats a, Floats b) { return {a.v / b.v}; }
// Fused only where that is one instruction: elsewhere it would be a library call per lane.
MDM_INLINE Floats multiply_add(Floats a, Floats b, Floats c) {
#if defined(__FP_FAST_FMAF)
  MDM_LANES c.v[i] = __builtin_fmaf(a.v[i], b.v[i], c.v[i]);
  return c;
#else
  return {a.v * b.v + c.v};
#endif
}

MDM_INLINE Mask at_least(Floats a, Floats b) { return {a.v >= b.v}; }
MDM_INLINE Mask equal(Floats a, Floats b) { return {a.v == b.v}; }
MDM_INLINE Mask unordered(Floats a, Floats b) { return {(a.v != a.v) | (b.v != b.v)}; }
MDM_INLINE uint32_t bits(Mask mask) {
  uint32_t out = 0;
  MDM_LANES out |= (static_cast<uint32_t>(mask.v[i]) & 1u) << i;
  return out;
}
MDM_INLINE Floats select(Mask mask, Floats yes, Floats no) {
  const WordLanes chosen = reinterpret_cast<WordLanes>(mask.v);
  return as_floats({(as_words(yes).v & chosen) | (as_words(no).v & ~chosen)});
}
MDM_INLINE Floats maximum(Floats a, Floats b) { return select({a.v > b.v}, a, b); }

MDM_INLINE float reduce_max(Floats a) {
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
  }
  return a.v[0];
}
MDM_INLINE float reduce_add(Floats a) {
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) a.v[i] += a.v[i + half];
  }
  return a.v[0];
}

MDM_INLINE Words words_from(uint32_t x) { return {WordLanes{} + x}; }
MDM_INLINE Words iota(uint32_t first) {
  return {WordLanes{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} + first};
}
MDM_INLINE Words load(const uint32_t* p) {
  Words out;
  __builtin_memcpy(&out, p, sizeof(out));
  return out;
}
MDM_INLINE void store(uint32_t* p, Words a) { __builtin_memcpy(p, &a, sizeof(a)); }
MDM_INLINE Words add_words(Words a, Words b) { return {a.v + b.v}; }
MDM_INLINE Words sub_words(Words a, Words b) { return {a.v - b.v}; }
MDM_INLINE Words and_words(Words a, Words b) { return {a.v & b.v}; }
MDM_INLINE Words xor_words(Words a, Words b) { return {a.v ^ b.v}; }
template <int n>
MDM_INLINE Words shift_left(Words a) {
  return {a.v << n};
}
template <int n>
MDM_INLINE Words shift_right_signed(Words a) {
  return {reinterpret_cast<WordLanes>(reinterpret_cast<IntLanes>(a.v) >> n)};
}
MDM_INLINE void multiply_wide(Words a, uint32_t multiplier, Words* high, Words* low) {
  MDM_LANES {
    const uint64_t product = static_cast<uint64_t>(a.v[i]) * multiplier;
    high->v[i] = static_cast<uint32_t>(product >> 32);
    low->v[i] = static_cast<uint32_t>(product);
  }
}

MDM_INLINE Floats signed_to_float(Words a) {
  return {__builtin_convertvector(reinterpret_cast<IntLanes>(a.v), FloatLanes)};
}
MDM_INLINE Words truncate(Floats a) { return {reinterpret_cast<WordLanes>(__builtin_convertvector(a.v, IntLanes))}; }
MDM_INLINE Floats float_from_u64(Words high, Words low) {
  FloatLanes out;
  MDM_LANES out[i] = static_cast<float>(static_cast<uint64_t>(high.v[i]) << 32 | low.v[i]);
  return {out};
}

constexpr bool kHasTable = false;
struct Table {};
MDM_INLINE Table load_table(const uint32_t*) { return {}; }
MDM_INLINE Words look_up(const Table&, Words w) { return w; }

#undef MDM_LANES

}  // namespace MDM_NAMESPACE
