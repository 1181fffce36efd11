#include "runtime/memory.h"

#include <link.h>
#include <string.h>

#include <algorithm>

#include "runtime/banks.h"
#include "runtime/machine.h"
#include "runtime/stacks.h"

alignas(1024) unsigned char mdm_shared_memory[simt::kSharedCapacity];

namespace simt {

std::vector<std::unique_ptr<Buffer>> buffers;

static std::vector<Cell> shared_cells(kSharedCapacity);
constexpr unsigned char kPoison = 0xcb;  // no small count, no likely pointer; as a float about -2.7e7

// ---- addresses ----

// This library's own code and data: constants and counters of coverage, which no kernel could reach otherwise.
static bool in_this_library(uintptr_t address) {
  struct Image {
    uintptr_t begin = 0, end = 0;
  };
  static const Image image = [] {
    Image found;
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* out) {
          const uintptr_t self = reinterpret_cast<uintptr_t>(mdm_shared_memory);
          uintptr_t begin = ~uintptr_t{0}, end = 0;
          for (int i = 0; i < info->dlpi_phnum; ++i) {
            if (info->dlpi_phdr[i].p_type != PT_LOAD) continue;
            const uintptr_t first = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
            begin = std::min(begin, first);
            end = std::max(end, first + info->dlpi_phdr[i].p_memsz);
          }
          if (self < begin || self >= end) return 0;
          *static_cast<Image*>(out) = {begin, end};
          return 1;
        },
        &found);
    return found;
  }();
  return address - image.begin < image.end - image.begin;
}

static Buffer* buffer_of(uintptr_t address, int* index) {
  static int last = 0;
  const int count = static_cast<int>(buffers.size());
  if (last >= count) last = 0;  // an earlier launch had more buffers
  for (int i = 0; i < count; ++i) {
    const int candidate = last + i < count ? last + i : last + i - count;
    Buffer* buffer = buffers[candidate].get();
    if (address - reinterpret_cast<uintptr_t>(buffer->data) < buffer->bytes) {
      *index = last = candidate;
      return buffer;
    }
  }
  return nullptr;
}

static std::string verb(Access kind) {
  return kind == Access::read ? "reads " : kind == Access::write ? "writes " : "updates ";
}

// "block 0, thread 5 reads 4 bytes "
static std::string who(unsigned bytes, Access kind) {
  return place(machine.block, machine.current->id) + ' ' + verb(kind) + std::to_string(bytes) + " bytes ";
}

[[noreturn]] static void fail_outside(uintptr_t address, unsigned bytes, Access kind, const void* pc) {
  const Buffer* nearest = nullptr;
  int64_t distance = 0, best = INT64_MAX;
  for (const auto& buffer : buffers) {
    const int64_t offset = static_cast<int64_t>(address - reinterpret_cast<uintptr_t>(buffer->data));
    const int64_t past = offset < 0 ? -offset : offset - static_cast<int64_t>(buffer->bytes) + 1;
    if (past < best) best = past, nearest = buffer.get(), distance = offset;
  }
  std::string where = "of no buffer";
  if (nearest != nullptr) {
    where = "at offset " + std::to_string(distance) + " of `" + nearest->name + "`, which has " +
            std::to_string(nearest->bytes) + " bytes";
  }
  fail("out of bounds: " + who(bytes, kind) + where, pc);
}

// ---- cells ----

static void check_cells(Cell* cells, size_t first, size_t last, bool initialised, const std::string& name,
                        size_t offset, unsigned bytes, Access kind, const void* pc) {
  const Touch now = touch_now(kind, pc);
  for (size_t i = first; i <= last; ++i) {
    Cell& cell = cells[i];
    if (cell.in_flight) {
      fail("in flight: " + who(bytes, kind) + "at offset " + std::to_string(offset) + " of " + name +
               " before the wait for the cp.async that fills it",
           pc);
    }
    if (kind != Access::write && cell.write.launch == 0 && !initialised) {
      fail("uninitialised: " + who(bytes, kind) + "at offset " + std::to_string(offset) + " of " + name +
               ", which nothing has written",
           pc);
    }
    if (const Touch* earlier = record(&cell, now)) {
      fail("race: " + who(bytes, kind) + "at offset " + std::to_string(offset) + " of " + name + ", unordered with " +
               describe(*earlier),
           pc);
    }
  }
}

static void access_shared(size_t offset, unsigned bytes, Access kind, const void* pc) {
  if (offset + bytes > machine.shared_bytes) {
    fail("out of bounds: " + who(bytes, kind) + "at offset " + std::to_string(offset) + " of shared memory, of which " +
             "the launch has " + std::to_string(machine.shared_bytes) + " bytes",
         pc);
  }
  check_cells(shared_cells.data(), offset, offset + bytes - 1, false, "shared memory", offset, bytes, kind, pc);
}

static void count_request(int buffer, size_t address, unsigned bytes, bool write, const void* pc) {
  const Thread& thread = *machine.current;
  std::vector<Site>& sites = machine.warps[thread.warp].sites;
  Site* site = nullptr;
  for (Site& known : sites) {
    if (known.pc == pc && known.buffer == buffer && known.write == write) site = &known;
  }
  if (site == nullptr) {
    sites.push_back({pc, buffer, write, {}, {}});
    site = &sites.back();
  }
  const uint32_t turn = site->count[thread.lane]++;
  const uint64_t sector = address / 32;
  if (turn >= site->requests.size()) site->requests.push_back({sector < 31 ? 0 : sector - 31, 0, 0});
  Request& request = site->requests[turn];
  for (uint64_t s = sector; s <= (address + bytes - 1) / 32; ++s) {
    if (s - request.window < 64) {
      request.sectors |= uint64_t{1} << (s - request.window);
    } else {
      ++request.outside;
    }
  }
}

static void access_global(Buffer* buffer, int index, uintptr_t address, unsigned bytes, Access kind, const void* pc) {
  const size_t offset = address - reinterpret_cast<uintptr_t>(buffer->data);
  if (offset + bytes > buffer->bytes) fail_outside(address, bytes, kind, pc);
  if (kind != Access::read && buffer->granule == 0) {
    fail("read-only: " + who(bytes, kind) + "at offset " + std::to_string(offset) + " of `" + buffer->name + "`", pc);
  }
  if (kind != Access::write) buffer->read.bytes += bytes;
  if (kind != Access::read) buffer->written.bytes += bytes;
  count_request(index, address, bytes, kind != Access::read, pc);
  if (buffer->granule == 0) return;
  check_cells(buffer->cells.data(), offset / buffer->granule, (offset + bytes - 1) / buffer->granule,
              buffer->initialised, '`' + buffer->name + '`', offset, bytes, kind, pc);
}

void access(void* pointer, unsigned bytes, Access kind, const void* pc) {
#if defined(__SANITIZE_ADDRESS__)
  return;  // without hooks only the harness's own accesses would be known
#endif
  if (!machine.running) return;
  const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
  if (in_stacks(address)) return;
  if (bytes <= 16 && address % bytes != 0) fail("misaligned: " + who(bytes, kind) + "off their alignment", pc);
  const size_t offset = address - reinterpret_cast<uintptr_t>(mdm_shared_memory);
  if (offset < kSharedCapacity) return access_shared(offset, bytes, kind, pc);
  int index = 0;
  if (Buffer* buffer = buffer_of(address, &index)) return access_global(buffer, index, address, bytes, kind, pc);
  if (!in_this_library(address)) fail_outside(address, bytes, kind, pc);
}

void load_or_store(void* pointer, unsigned bytes, Access kind, const void* pc) {
  const size_t offset = static_cast<size_t>(static_cast<unsigned char*>(pointer) - mdm_shared_memory);
  if (machine.running && offset < kSharedCapacity) {
    note_bank_access(static_cast<uint32_t>(offset), bytes, kind != Access::read, pc);
  }
  access(pointer, bytes, kind, pc);
}

void written_by_host(void* pointer, size_t bytes) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
  int index = 0;
  Buffer* buffer = buffer_of(address, &index);
  if (buffer == nullptr || buffer->granule == 0) return;
  const size_t offset = address - reinterpret_cast<uintptr_t>(buffer->data);
  for (size_t i = offset / buffer->granule; i * buffer->granule < offset + bytes; ++i) {
    buffer->cells[i].write.launch = machine.launch;  // which the next one comes after
  }
}

void read_bytes(const void* address, unsigned bytes) {
  access(const_cast<void*>(address), bytes, Access::read, __builtin_return_address(0));
}

void atomic_access(void* address, unsigned bytes) {
  access(address, bytes, Access::atomic, __builtin_return_address(0));
}

void copy_in_flight(unsigned char* shared, unsigned bytes, bool landed, const void* pc) {
  const size_t offset = static_cast<size_t>(shared - mdm_shared_memory);
  for (size_t i = offset; landed && i < offset + bytes; ++i) shared_cells[i].in_flight = false;
  access(shared, bytes, Access::write, pc);
  for (size_t i = offset; !landed && i < offset + bytes; ++i) shared_cells[i].in_flight = true;
}

// ---- one block ----

void start_block_memory() {
  memset(mdm_shared_memory, kPoison, machine.shared_bytes);
  for (size_t i = 0; i < machine.shared_bytes; ++i) shared_cells[i] = Cell{};
}

void finish_block_memory() {
  for (unsigned warp = 0; warp * kLanes < machine.thread_count; ++warp) {
    for (const Site& site : machine.warps[warp].sites) {
      Traffic& traffic = site.write ? buffers[site.buffer]->written : buffers[site.buffer]->read;
      traffic.requests += site.requests.size();
      for (const Request& request : site.requests) {
        traffic.sectors += static_cast<unsigned>(__builtin_popcountll(request.sectors)) + request.outside;
      }
    }
    machine.warps[warp].sites.clear();
    finish_bank_accesses(warp);
  }
}

}  // namespace simt
