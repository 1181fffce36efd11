#include "runtime/machine.h"

#include <algorithm>
#include <random>

#include "runtime/memory.h"
#include "runtime/races.h"
#include "runtime/stacks.h"
#include "simt/launch.h"

namespace simt {

Machine machine;

const dim3& thread_index() { return machine.current->index; }
const dim3& block_index() { return machine.block_index; }
const dim3& block_size() { return machine.block_size; }
const dim3& grid_size() { return machine.grid_size; }

unsigned warp_lanes(unsigned warp) { return std::min(kLanes, machine.thread_count - warp * kLanes); }

std::string place(uint32_t block, unsigned thread) {
  return "block " + std::to_string(block) + ", thread " + std::to_string(thread);
}

// ---- threads ----

void wait_in(State state) {
  Thread* thread = machine.current;
  thread->state = state;
  machine.running = false;
  switch_fiber(&thread->fiber, &machine.scheduler);
}

void fail(const std::string& sentence, const void* pc) {
  if (machine.fault.empty()) {
    machine.fault = std::string(machine.kernel) + ": " + sentence;
    machine.fault_pc = pc;
  }
  wait_in(State::done);  // the scheduler sees the fault and resumes nobody
  __builtin_unreachable();
}

static void thread_main() {
  machine.entry(machine.closure);
  if (!machine.current->copies.empty()) fail("in flight: a thread returns before the wait for its cp.async");
  wait_in(State::done);
  __builtin_unreachable();
}

static void resume(Thread* thread) {
  machine.current = thread;
  machine.running = true;
  switch_fiber(&machine.scheduler, &thread->fiber);
  machine.running = false;
}

// ---- barriers ----

static void release(Barrier* barrier) {
  unsigned warps = 0, flags = 0;
  for (const Thread* thread : barrier->waiting) {
    warps |= 1u << thread->warp;
    flags += thread->flag;
  }
  unsigned whole = 0;
  for (unsigned warp = 0; warp < kMaxWarps; ++warp) whole += warps >> warp & 1 ? warp_lanes(warp) : 0;
  if (whole != barrier->waiting.size())
    fail("divergence: only some lanes of a warp came to " + std::string(machine.current->what));
  join_warps(warps);
  for (Thread* thread : barrier->waiting) {
    thread->state = State::ready;
    thread->flag_count = flags;
  }
  barrier->waiting.clear();
}

static void wait_at(int name, unsigned threads, bool flag, const char* what) {
  Thread* thread = machine.current;
  const unsigned expected = threads == 0 ? machine.thread_count : threads;
  Barrier& barrier = machine.barriers[name];
  if (!barrier.waiting.empty() && barrier.expected != expected) {
    fail("divergence: " + std::string(what) + " " + std::to_string(name) + " is called for " +
         std::to_string(expected) + " threads and for " + std::to_string(barrier.expected));
  }
  barrier.expected = expected;
  barrier.waiting.push_back(thread);
  thread->what = what;
  thread->flag = flag;
  thread->barrier = name;
  thread->state = State::barrier;
  if (barrier.waiting.size() == expected) release(&barrier);
  wait_in(thread->state);
}

void barrier(int name, unsigned threads, const char* what) { wait_at(name, threads, false, what); }

unsigned barrier_count(bool flag, const char* what) {
  wait_at(0, 0, flag, what);
  return machine.current->flag_count;
}

// ---- blocks ----

static void start_block() {
  start_block_memory();
  reset_clocks();
  for (Barrier& barrier : machine.barriers) barrier.waiting.clear();
  const dim3 size = machine.block_size;
  for (unsigned id = 0; id < machine.thread_count; ++id) {
    Thread& thread = machine.threads[id];
    thread.index = {id % size.x, id / size.x % size.y, id / size.x / size.y};
    thread.id = id;
    thread.warp = id / kLanes;
    thread.lane = id % kLanes;
    thread.state = State::ready;
    thread.copies.clear();
    thread.copy_groups = 0;
    prepare_fiber(&thread.fiber, stack_of(id), thread_main);
  }
  for (Warp& warp : machine.warps) {
    warp.sites.clear();
    warp.bank_sites.clear();
  }
}

static void report_deadlock() {
  std::string sentence = "divergence: nobody can go on:";
  const char* last = nullptr;
  for (unsigned id = 0; id < machine.thread_count; ++id) {
    const Thread& thread = machine.threads[id];
    const char* what = thread.state == State::done ? "a return" : thread.what;
    if (what == last) continue;
    last = what;
    sentence += " thread " + std::to_string(id) + " (and those after it) is at " + what + ";";
  }
  machine.fault = std::string(machine.kernel) + ": " + sentence;
}

static void run_block(std::vector<unsigned>* order, std::mt19937* random) {
  start_block();
  for (;;) {
    unsigned done = 0;
    bool progress = false;
    if (machine.order == Order::shuffled) std::shuffle(order->begin(), order->end(), *random);
    for (unsigned id : *order) {
      Thread* thread = &machine.threads[id];
      if (thread->state == State::ready) {
        resume(thread);
        progress = true;
        if (!machine.fault.empty()) return;
      }
      done += thread->state == State::done;
    }
    if (done == machine.thread_count) return finish_block_memory();
    if (!progress) return report_deadlock();
  }
}

bool run(const char* kernel, dim3 blocks, dim3 threads, size_t shared_bytes, void (*entry)(void*), void* closure) {
  if (!machine.fault.empty()) return false;
  machine.kernel = kernel;
  const unsigned count = threads.x * threads.y * threads.z;
  const bool possible = count >= 1 && count <= kMaxThreads && threads.z <= 64 && blocks.x >= 1 && blocks.y >= 1 &&
                        blocks.z >= 1 && blocks.x <= 0x7fffffffu && blocks.y <= 65535 && blocks.z <= 65535;
  if (!possible || shared_bytes > kSharedCapacity) {
    machine.fault = std::string(kernel) + ": launch: " + std::to_string(blocks.x) + " x " + std::to_string(blocks.y) +
                    " x " + std::to_string(blocks.z) + " blocks of " + std::to_string(count) + " threads with " +
                    std::to_string(shared_bytes) + " bytes of shared memory is no launch";
    return false;
  }
  const Stacks stacks(count);
  if (!stacks.mapped()) {
    machine.fault = std::string(kernel) + ": launch: there is no memory for " + std::to_string(count) + " stacks";
    return false;
  }
  ++machine.launch;
  machine.entry = entry;
  machine.closure = closure;
  machine.block_size = threads;
  machine.grid_size = blocks;
  machine.thread_count = count;
  machine.shared_bytes = shared_bytes;
  std::vector<unsigned> order(count);
  for (unsigned i = 0; i < count; ++i) order[i] = machine.order == Order::backward ? count - 1 - i : i;
  std::mt19937 random(machine.launch);
  const uint64_t total = static_cast<uint64_t>(blocks.x) * blocks.y * blocks.z;
  for (uint64_t i = 0; i < total && machine.fault.empty(); ++i) {
    const uint64_t block = machine.order == Order::backward ? total - 1 - i : i;
    machine.block = static_cast<uint32_t>(block);
    machine.block_index = {static_cast<unsigned>(block % blocks.x), static_cast<unsigned>(block / blocks.x % blocks.y),
                           static_cast<unsigned>(block / blocks.x / blocks.y)};
    run_block(&order, &random);
  }
  return machine.fault.empty();
}

}  // namespace simt
