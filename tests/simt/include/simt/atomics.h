// Atomics on shared and global memory. Two atomics on one address never race; an atomic and a plain access may.
#pragma once

namespace simt {

// Checks and counts the access. Fibers change only at barriers and collectives, so what follows is atomic.
void atomic_access(void* address, unsigned bytes);

template <class T, class Update>
__attribute__((noinline, no_sanitize("thread"))) T atomic_update(T* address, Update update) {
  atomic_access(address, sizeof(T));
  const T old = *address;
  *address = update(old);
  return old;
}

}  // namespace simt

template <class T>
T atomicAdd(T* address, T value) {
  return simt::atomic_update(address, [=](T old) __attribute__((no_sanitize("thread"))) { return old + value; });
}
template <class T>
T atomicMax(T* address, T value) {
  return simt::atomic_update(address,
                             [=](T old) __attribute__((no_sanitize("thread"))) { return old > value ? old : value; });
}
template <class T>
T atomicMin(T* address, T value) {
  return simt::atomic_update(address,
                             [=](T old) __attribute__((no_sanitize("thread"))) { return old < value ? old : value; });
}
template <class T>
T atomicOr(T* address, T value) {
  return simt::atomic_update(address, [=](T old) __attribute__((no_sanitize("thread"))) { return old | value; });
}
template <class T>
T atomicExch(T* address, T value) {
  return simt::atomic_update(address, [=](T) __attribute__((no_sanitize("thread"))) { return value; });
}
template <class T>
T atomicCAS(T* address, T expected, T value) {
  return simt::atomic_update(
      address, [=](T old) __attribute__((no_sanitize("thread"))) { return old == expected ? value : old; });
}
