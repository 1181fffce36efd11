// The tile instructions of AMX in software, after their pages in Intel's Software Developer's Manual (volume 2: LDTILECFG,
// TILELOADD, TILESTORED, TILEZERO, TILERELEASE, TDPBF16PS). What a processor answers with an exception ends the process
// with a sentence. Each thread has tiles of its own.
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <atomic>

#include "cpu/kernels.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

// Palette 1.
constexpr int kTiles = 8, kMostRows = 16, kMostBytes = 64;

struct Configuration {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(Configuration) == 64, "what LDTILECFG reads");

struct Tile {
  int rows;
  int row_bytes;
  alignas(64) uint8_t data[kMostRows][kMostBytes];
};

static thread_local bool configured = false;
static thread_local Tile tiles[kTiles];

static std::atomic<long> products{0};
static std::atomic<long> configured_threads{0};

[[noreturn]] static void fail(const char* instruction, const char* what, int value) {
  fprintf(stderr, "%s: %s (%d)\n", instruction, what, value);
  fflush(stderr);
  abort();
}

static void set_configured(bool now) {
  configured_threads += static_cast<int>(now) - static_cast<int>(configured);
  configured = now;
}

static Tile& named(const char* instruction, int tile) {
  if (!configured) fail(instruction, "no tile is configured", tile);
  if (tile < 0 || tile >= kTiles) fail(instruction, "no such tile", tile);
  if (tiles[tile].rows == 0) fail(instruction, "this tile is not configured", tile);
  return tiles[tile];
}

EXPORT void software_ldtilecfg(const void* from) {
  Configuration wanted;
  memcpy(&wanted, from, sizeof(wanted));
  if (wanted.palette > 1) fail("ldtilecfg", "no such palette", wanted.palette);
  for (const uint8_t byte : wanted.reserved) {
    if (byte != 0) fail("ldtilecfg", "a reserved byte is not zero", byte);
  }
  for (int i = 0; i < 16; ++i) {
    const int rows = wanted.rows[i], bytes = wanted.row_bytes[i];
    if (i >= kTiles && (rows != 0 || bytes != 0)) fail("ldtilecfg", "palette 1 has no such tile", i);
    if (rows > kMostRows) fail("ldtilecfg", "too many rows", rows);
    if (bytes > kMostBytes) fail("ldtilecfg", "too many bytes in a row", bytes);
    if ((rows == 0) != (bytes == 0)) fail("ldtilecfg", "rows without bytes, or bytes without rows", i);
    if (i < kTiles) tiles[i] = {rows, bytes, {}};
  }
  set_configured(wanted.palette == 1);
}

EXPORT void software_tilerelease() { set_configured(false); }

EXPORT void software_tilezero(int tile) { memset(named("tilezero", tile).data, 0, sizeof(Tile::data)); }

EXPORT void software_tileloadd(int tile, const void* base, long stride) {
  Tile& to = named("tileloadd", tile);
  memset(to.data, 0, sizeof(to.data));
  for (int row = 0; row < to.rows; ++row) {
    memcpy(to.data[row], static_cast<const char*>(base) + row * stride, static_cast<size_t>(to.row_bytes));
  }
}

EXPORT void software_tilestored(int tile, void* base, long stride) {
  const Tile& from = named("tilestored", tile);
  for (int row = 0; row < from.rows; ++row) {
    memcpy(static_cast<char*>(base) + row * stride, from.data[row], static_cast<size_t>(from.row_bytes));
  }
}

static float widened(uint32_t half) {
  const uint32_t word = half << 16;
  float value;
  memcpy(&value, &word, sizeof(value));
  return value;
}

// The caller has made subnormal numbers zero, in and out, and rounding to nearest even. What is beyond a tile's rows and
// bytes is zero, and stays so.
[[gnu::noinline]] static void add_products(Tile& sums, const Tile& left, const Tile& right) {
  for (int row = 0; row < sums.rows; ++row) {
    alignas(64) float even[16] = {}, odd[16] = {}, total[16];
    for (int pair = 0; pair < left.row_bytes / 4; ++pair) {
      uint32_t word, line[16];
      memcpy(&word, left.data[row] + 4 * pair, sizeof(word));
      memcpy(line, right.data[pair], sizeof(line));
      const float first = widened(word & 0xffffu), second = widened(word >> 16);
      for (int i = 0; i < 16; ++i) even[i] = __builtin_fmaf(first, widened(line[i] & 0xffffu), even[i]);
      for (int i = 0; i < 16; ++i) odd[i] = __builtin_fmaf(second, widened(line[i] >> 16), odd[i]);
    }
    memcpy(total, sums.data[row], sizeof(total));
    for (int i = 0; i < sums.row_bytes / 4; ++i) total[i] += even[i] + odd[i];
    memcpy(sums.data[row], total, sizeof(total));
  }
}

EXPORT void software_tdpbf16ps(int c, int a, int b) {
  Tile& sums = named("tdpbf16ps", c);
  const Tile &left = named("tdpbf16ps", a), &right = named("tdpbf16ps", b);
  if (c == a || c == b || a == b) fail("tdpbf16ps", "needs three different tiles", c);
  const int bytes = sums.row_bytes | left.row_bytes | right.row_bytes;
  if (bytes % 4 != 0) fail("tdpbf16ps", "rows of a tile are not whole words", bytes);
  if (left.rows != sums.rows) fail("tdpbf16ps", "left and sums differ in rows", left.rows);
  if (right.row_bytes != sums.row_bytes) fail("tdpbf16ps", "right and sums differ in bytes of a row", right.row_bytes);
  if (left.row_bytes != 4 * right.rows) fail("tdpbf16ps", "left has not a word for each row of right", left.row_bytes);
  const unsigned before = _mm_getcsr();
  constexpr unsigned kMaskExceptions = 0x1f80, kSubnormalsAreZero = 0x8040;
  _mm_setcsr(kMaskExceptions | kSubnormalsAreZero);
  add_products(sums, left, right);
  _mm_setcsr(before);
  ++products;
}

// For tests: products so far, and threads that have not given their tiles back.
EXPORT long software_tile_products() { return products; }
EXPORT long software_tile_threads() { return configured_threads; }

namespace mdmcorrect {

__attribute__((visibility("default"))) bool request_tiles() { return true; }

}  // namespace mdmcorrect
