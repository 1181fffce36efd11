// Rows over torch's own threads (no OpenMP of ours: a second runtime in the process oversubscribes the machine).
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "torch/memory.h"

namespace mdmcorrect {

// Work that repays waking a thread, in elements of about a nanosecond each.
constexpr int64_t kElementsPerTask = 16384;

// Splits [0, rows) into contiguous ranges and calls
//   kernel(begin, end, scratch)
// for each, scratch being words_per_task words of its thread's own. row_cost: about how many elements a row takes. There
// are several ranges for each thread, which takes the next when it is done with one: a thread that sleeps may take longer
// to wake than a small call takes, and then finds its share done. The scratch is allocated here, in the caller's thread,
// because a worker must not throw: its message would be lost across the ABI.
template <class Kernel>
void parallel_rows(const char* op, int64_t rows, int64_t row_cost, int64_t words_per_task, const Kernel& kernel) {
  if (rows <= 0) return;
  constexpr int64_t kRangesPerTask = 8;
  const int64_t worthwhile = std::max<int64_t>(1, rows * std::max<int64_t>(1, row_cost) / kElementsPerTask);
  const int64_t threads = static_cast<int64_t>(torch::stable::get_num_threads());
  const int64_t tasks = std::min({rows, worthwhile, threads});
  const std::unique_ptr<uint64_t[]> scratch = scratch_words(op, tasks * words_per_task);
  if (tasks == 1) return kernel(0, rows, scratch.get());
  const int64_t ranges = std::min(rows, kRangesPerTask * tasks);
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) {
      for (int64_t range = next++; range < ranges; range = next++) {
        kernel(rows * range / ranges, rows * (range + 1) / ranges, scratch.get() + task * words_per_task);
      }
    }
  });
}

// The same for items of uneven cost, cost in all: each thread takes the next item when it is done with its last, so the
// most costly should come first.
template <class Kernel>
void parallel_items(const char* op, int64_t items, int64_t cost, int64_t words_per_task, const Kernel& kernel) {
  if (items <= 0) return;
  const int64_t worthwhile = std::max<int64_t>(1, cost / kElementsPerTask);
  const int64_t threads = static_cast<int64_t>(torch::stable::get_num_threads());
  const int64_t tasks = std::min({items, worthwhile, threads});
  const std::unique_ptr<uint64_t[]> scratch = scratch_words(op, tasks * words_per_task);
  if (tasks == 1) return kernel(0, items, scratch.get());
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) {
      for (int64_t item = next++; item < items; item = next++) {
        kernel(item, item + 1, scratch.get() + task * words_per_task);
      }
    }
  });
}

// Work in groups that follow one another, group g needing the results of the groups up to g - 2 (never of g - 1):
// kernel(group, unit, task) for each unit of each group, task < the number of threads being that of the thread the unit
// falls to. A thread takes the next unit when it is done with one, across groups: nobody sleeps between groups, and what
// a thread loses to other work the others make up for. A thread only waits for units that others are at work on, so this
// also ends if one thread has to do it all.
template <class Kernel>
void parallel_groups(const std::vector<int64_t>& units, const Kernel& kernel) {
  std::vector<int64_t> ends;
  for (const int64_t count : units) ends.push_back((ends.empty() ? 0 : ends.back()) + count);
  const int64_t total = ends.empty() ? 0 : ends.back();
  const int64_t tasks = std::min<int64_t>(total, torch::stable::get_num_threads());
  std::atomic<int64_t> next{0};
  std::vector<std::atomic<int64_t>> done(units.size());
  const auto run = [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) {
      int64_t group = 0, finished = 0;  // groups before `finished` are
      for (int64_t unit = next++; unit < total; unit = next++) {
        while (unit >= ends[group]) ++group;
        while (finished <= group - 2) {
          if (done[finished].load(std::memory_order_acquire) == units[finished]) {
            ++finished;
          } else {
            std::this_thread::yield();
          }
        }
        kernel(group, unit - (ends[group] - units[group]), task);
        done[group].fetch_add(1, std::memory_order_release);
      }
    }
  };
  if (tasks <= 1) {
    run(0, tasks);
  } else {
    torch::stable::parallel_for(0, tasks, 1, run);
  }
}

}  // namespace mdmcorrect
