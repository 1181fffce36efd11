// simd.h in plain C++: arrays of 16 lanes that the compiler maps to whatever the machine has (SSE2, NEON, ...).
#pragma once

#include "core/tensor_view.h"

namespace MDM_NAMESPACE {

struct Floats {
  float v[16];
};
struct Words {
  uint32_t v[16];
};
struct Mask {
  int32_t v[16];  // 0 or -1
};

#define MDM_LANES for (int i = 0; i < 16; ++i)

MDM_INLINE Floats broadcast(float x) {
  Floats out;
  MDM_LANES out.v[i] = x;
  return out;
}
MDM_INLINE Floats load(const float* p) {
  Floats out;
  MDM_LANES out.v[i] = p[i];
  return out;
}
MDM_INLINE void store(float* p, Floats a) { MDM_LANES p[i] = a.v[i]; }
MDM_INLINE Floats load_bfloat16(const uint16_t* p) {
  Floats out;
  MDM_LANES out.v[i] = bfloat16_to_float(p[i]);
  return out;
}
MDM_INLINE Floats load_float16(const uint16_t* p) {
  Floats out;
  MDM_LANES out.v[i] = float16_to_float(p[i]);
  return out;
}

MDM_INLINE Floats add(Floats a, Floats b) {
  MDM_LANES a.v[i] += b.v[i];
  return a;
}
MDM_INLINE Floats sub(Floats a, Floats b) {
  MDM_LANES a.v[i] -= b.v[i];
  return a;
}
MDM_INLINE Floats mul(Floats a, Floats b) {
  MDM_LANES a.v[i] *= b.v[i];
  return a;
}
MDM_INLINE Floats div(Floats a, Floats b) {
  MDM_LANES a.v[i] /= b.v[i];
  return a;
}
// Fused only where that is one instruction: elsewhere it would be a library call per lane.
MDM_INLINE Floats multiply_add(Floats a, Floats b, Floats c) {
#if defined(__FP_FAST_FMAF)
  MDM_LANES c.v[i] = __builtin_fmaf(a.v[i], b.v[i], c.v[i]);
#else
  MDM_LANES c.v[i] = a.v[i] * b.v[i] + c.v[i];
#endif
  return c;
}
MDM_INLINE Floats maximum(Floats a, Floats b) {
  MDM_LANES a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return a;
}

MDM_INLINE Mask at_least(Floats a, Floats b) {
  Mask out;
  MDM_LANES out.v[i] = -(a.v[i] >= b.v[i]);
  return out;
}
MDM_INLINE Mask equal(Floats a, Floats b) {
  Mask out;
  MDM_LANES out.v[i] = -(a.v[i] == b.v[i]);
  return out;
}
MDM_INLINE Mask unordered(Floats a, Floats b) {
  Mask out;
  MDM_LANES out.v[i] = -((a.v[i] != a.v[i]) | (b.v[i] != b.v[i]));
  return out;
}
MDM_INLINE uint32_t bits(Mask mask) {
  uint32_t out = 0;
  MDM_LANES out |= (static_cast<uint32_t>(mask.v[i]) & 1u) << i;
  return out;
}
MDM_INLINE Floats select(Mask mask, Floats yes, Floats no) {
  MDM_LANES no.v[i] = mask.v[i] != 0 ? yes.v[i] : no.v[i];
  return no;
}

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

MDM_INLINE Words words_from(uint32_t x) {
  Words out;
  MDM_LANES out.v[i] = x;
  return out;
}
MDM_INLINE Words iota(uint32_t first) {
  Words out;
  MDM_LANES out.v[i] = first + static_cast<uint32_t>(i);
  return out;
}
MDM_INLINE Words load(const uint32_t* p) {
  Words a;
  MDM_LANES a.v[i] = p[i];
  return a;
}
MDM_INLINE void store(uint32_t* p, Words a) { MDM_LANES p[i] = a.v[i]; }
MDM_INLINE Words add_words(Words a, Words b) {
  MDM_LANES a.v[i] += b.v[i];
  return a;
}
MDM_INLINE Words sub_words(Words a, Words b) {
  MDM_LANES a.v[i] -= b.v[i];
  return a;
}
MDM_INLINE Words xor_words(Words a, Words b) {
  MDM_LANES a.v[i] ^= b.v[i];
  return a;
}
template <int n>
MDM_INLINE Words shift_left(Words a) {
  MDM_LANES a.v[i] <<= n;
  return a;
}
template <int n>
MDM_INLINE Words shift_right_signed(Words a) {
  MDM_LANES a.v[i] = static_cast<uint32_t>(static_cast<int32_t>(a.v[i]) >> n);
  return a;
}
MDM_INLINE void multiply_wide(Words a, uint32_t multiplier, Words* high, Words* low) {
  MDM_LANES {
    const uint64_t product = static_cast<uint64_t>(a.v[i]) * multiplier;
    high->v[i] = static_cast<uint32_t>(product >> 32);
    low->v[i] = static_cast<uint32_t>(product);
  }
}

MDM_INLINE Words as_words(Floats a) {
  Words out;
  __builtin_memcpy(&out, &a, sizeof(out));
  return out;
}
MDM_INLINE Floats as_floats(Words a) {
  Floats out;
  __builtin_memcpy(&out, &a, sizeof(out));
  return out;
}
MDM_INLINE Floats signed_to_float(Words a) {
  Floats out;
  MDM_LANES out.v[i] = static_cast<float>(static_cast<int32_t>(a.v[i]));
  return out;
}
MDM_INLINE Words truncate(Floats a) {
  Words out;
  MDM_LANES out.v[i] = static_cast<uint32_t>(static_cast<int32_t>(a.v[i]));
  return out;
}
MDM_INLINE Floats float_from_u64(Words high, Words low) {
  Floats out;
  MDM_LANES out.v[i] = static_cast<float>(static_cast<uint64_t>(high.v[i]) << 32 | low.v[i]);
  return out;
}

#undef MDM_LANES

}  // namespace MDM_NAMESPACE
