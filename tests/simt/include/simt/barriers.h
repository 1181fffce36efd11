// Barriers of a block. Every thread that has not been told otherwise must come; one that has returned never will.
#pragma once

namespace simt {

// All `threads` threads of barrier `name` wait for each other; 0 threads: the whole block.
void barrier(int name, unsigned threads, const char* what);
// A block barrier that also counts the true flags.
unsigned barrier_count(bool flag, const char* what);

}  // namespace simt

inline void __syncthreads() { simt::barrier(0, 0, "__syncthreads"); }
inline int __syncthreads_count(int flag) {
  return static_cast<int>(simt::barrier_count(flag != 0, "__syncthreads_count"));
}
inline int __syncthreads_or(int flag) { return simt::barrier_count(flag != 0, "__syncthreads_or") != 0; }
inline int __syncthreads_and(int flag) { return simt::barrier_count(flag == 0, "__syncthreads_and") == 0; }
inline void __threadfence() {}  // orders nothing by itself: what blocks share within a launch is a race here
inline void __threadfence_block() {}
