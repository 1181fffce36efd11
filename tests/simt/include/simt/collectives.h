// Warp collectives. The lanes of `mask` must all come, with the same function and the same mask; the last one computes
// every lane's result.
#pragma once

namespace simt {

enum class Collective {
  sync,
  ballot,
  any,
  all,
  shuffle,
  shuffle_up,
  shuffle_down,
  shuffle_xor,
  match_any,
  match_all,
  reduce_add,
  reduce_min,
  reduce_max,
  reduce_and,
  reduce_or,
  reduce_xor,
  gather
};

// value: what the lane brings (bits); operand: source lane or distance; width: of the shuffle's segments.
uint64_t collective(Collective kind, unsigned mask, uint64_t value, int operand = 0, int width = 32);
// Every lane of the full warp brings `bytes` bytes; *all points to 32 such pieces, valid until the lane's next
// collective. For ldmatrix and mma.sync.
void gather_warp(const char* what, const void* own, unsigned bytes, void* all);

template <class T>
T shuffle(Collective kind, unsigned mask, T value, int operand, int width) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "a shuffle moves at most 64 bits");
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof(T));
  bits = collective(kind, mask, bits, operand, width);
  __builtin_memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace simt

inline void __syncwarp(unsigned mask = 0xffffffffu) { simt::collective(simt::Collective::sync, mask, 0); }
inline unsigned __ballot_sync(unsigned mask, int flag) {
  return static_cast<unsigned>(simt::collective(simt::Collective::ballot, mask, flag != 0));
}
inline int __any_sync(unsigned mask, int flag) {
  return static_cast<int>(simt::collective(simt::Collective::any, mask, flag != 0));
}
inline int __all_sync(unsigned mask, int flag) {
  return static_cast<int>(simt::collective(simt::Collective::all, mask, flag != 0));
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
  return simt::shuffle(simt::Collective::shuffle, mask, value, lane, width);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32) {
  return simt::shuffle(simt::Collective::shuffle_up, mask, value, static_cast<int>(distance), width);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32) {
  return simt::shuffle(simt::Collective::shuffle_down, mask, value, static_cast<int>(distance), width);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  return simt::shuffle(simt::Collective::shuffle_xor, mask, value, bits, width);
}
inline unsigned __match_any_sync(unsigned mask, uint64_t value) {
  return static_cast<unsigned>(simt::collective(simt::Collective::match_any, mask, value));
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned value) {
  return static_cast<unsigned>(simt::collective(simt::Collective::reduce_add, mask, value));
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value) {
  return static_cast<unsigned>(simt::collective(simt::Collective::reduce_min, mask, value));
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value) {
  return static_cast<unsigned>(simt::collective(simt::Collective::reduce_max, mask, value));
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned value) {
  return static_cast<unsigned>(simt::collective(simt::Collective::reduce_and, mask, value));
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value) {
  return static_cast<unsigned>(simt::collective(simt::Collective::reduce_or, mask, value));
}
inline unsigned __reduce_xor_sync(unsigned mask, unsigned value) {
  return static_cast<unsigned>(simt::collective(simt::Collective::reduce_xor, mask, value));
}
