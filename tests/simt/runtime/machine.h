// The machine that runs a launch: one block after another, a fiber per thread, one thread at a time.
//
// A thread runs until it waits at a barrier or a collective, or returns; so the harness sees every access in some
// sequential order, and decides with logical clocks (races.h) whether the program forced that order.
#pragma once

#include <stdint.h>

#include <string>
#include <vector>

#include "runtime/fiber.h"
#include "simt/device.h"

namespace simt {

constexpr unsigned kLanes = 32;
constexpr unsigned kMaxThreads = 1024;
constexpr unsigned kMaxWarps = kMaxThreads / kLanes;
constexpr unsigned kBarriers = 16;
constexpr size_t kSharedCapacity = 227 * 1024;  // what a block of the H100 may have

// Which lanes of a warp touched global memory in the same instruction: one entry per time the instruction ran.
struct Request {
  uint64_t window;   // first sector of the 64 that `sectors` covers
  uint64_t sectors;  // a bit per 32-byte sector touched
  unsigned outside;  // touches beyond the window
};
struct Site {
  const void* pc;
  int buffer;
  bool write;
  uint32_t count[kLanes];  // how often each lane has passed
  std::vector<Request> requests;
};

// The same for shared memory, where the banks matter.
struct BankRequest {
  unsigned mask;
  uint32_t addresses[kLanes];
};
struct BankSite {
  const void* pc;
  bool write;
  unsigned bytes;
  uint32_t count[kLanes];
  std::vector<BankRequest> requests;
};

// cp.async: the bytes are in flight until the wait.
struct PendingCopy {
  unsigned char* shared;
  unsigned bytes;
  unsigned char data[16];
  unsigned group;  // commits before it
};

enum class State : uint8_t { ready, collective, barrier, done };

struct Thread {
  Fiber fiber;
  dim3 index;
  unsigned id, warp, lane;
  State state;
  // What it waits for.
  Collective kind;
  const char* what;
  unsigned mask;
  uint64_t value, result;
  int operand, width;
  const void* piece;
  unsigned piece_bytes;
  int barrier;
  bool flag;
  unsigned flag_count;

  uint32_t clock;  // of this lane among those of its warp
  std::vector<PendingCopy> copies;
  unsigned copy_groups;
};

struct Warp {
  uint32_t clock;                  // of this warp among those of its block
  uint32_t warps_seen[kMaxWarps];  // how far each warp's accesses are known to be before ours
  uint32_t lanes_seen[kLanes][kLanes];
  std::vector<Site> sites;
  std::vector<BankSite> bank_sites;
  unsigned char gathered[kLanes * 64];
};

struct Barrier {
  unsigned expected;
  std::vector<Thread*> waiting;
};

enum class Order { forward, backward, shuffled };

struct Machine {
  bool running = false;  // a thread of the device runs
  Fiber scheduler;
  Thread* current = nullptr;
  Thread threads[kMaxThreads];
  Warp warps[kMaxWarps];
  Barrier barriers[kBarriers];

  uint32_t launch = 0;  // counts launches
  uint32_t block = 0;   // linear index
  dim3 block_index, block_size, grid_size;
  unsigned thread_count = 0;
  size_t shared_bytes = 0;
  Order order = Order::forward;
  void (*entry)(void*) = nullptr;
  void* closure = nullptr;
  const char* kernel = "";

  std::string fault;  // the first one; empty: none
  const void* fault_pc = nullptr;
};

extern Machine machine;

// "block 3, thread 17"
std::string place(uint32_t block, unsigned thread);

// Ends the launch with this sentence. Never returns to the thread.
[[noreturn]] void fail(const std::string& sentence, const void* pc = nullptr);

// Hands control to the scheduler until the thread is ready again.
void wait_in(State state);

unsigned warp_lanes(unsigned warp);  // how many threads a warp of this block has
inline unsigned full_mask(unsigned warp) {
  const unsigned lanes = warp_lanes(warp);
  return lanes == kLanes ? 0xffffffffu : (1u << lanes) - 1u;
}

}  // namespace simt
