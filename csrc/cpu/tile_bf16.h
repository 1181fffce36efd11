// Products of bfloat16 pairs in the tile registers of AMX. Everything above has one function of this, multiply_tiles,
// where it has vdpbf16ps elsewhere; operands are the same.
//
// A tile is sixteen rows of 64 bytes: of A sixteen rows of sixteen words, of B sixteen lines of sixteen lanes, of C
// sixteen by sixteen float32. C is made in blocks of 2 x 2 tiles, so that sixteen steps are four loads and four products.
// Operands need not be whole tiles: what is beyond them is never read, and counts as zero.
//
// A product adds up its sixteen even and its sixteen odd halves each in turn, then both sums, then that to C, rounded to
// nearest whatever the mode, and takes subnormal numbers, in and out, as zero. Only the step decides the order, so an
// element of C is the same in every block.
#pragma once

#include "cpu/product_operands.h"

namespace MDM_NAMESPACE {

#if defined(__AMX_BF16__)

constexpr int64_t kTileSteps = 16;   // words in a row of A, lines of B
constexpr int64_t kTileHeight = 16;  // rows of A and C
constexpr int64_t kTileBytes = 64;   // in a row of any tile

struct alignas(64) TileConfiguration {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

static constexpr TileConfiguration kWholeTiles = {
    1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

// The thread's tile registers, for one call of a kernel: given back before it returns, since a thread that leaves them
// in use pays for them at every switch. Registers 0 to 3 are C, 4 and 5 A, 6 and 7 B.
struct TileRegisters {
  TileRegisters() { _tile_loadconfig(&kWholeTiles); }
  ~TileRegisters() { _tile_release(); }
};

// GCC's _tile_loadd does not say that it reads memory, so the order of stores and loads is held here.
MDM_INLINE void keep_memory_in_order() { asm volatile("" ::: "memory"); }

struct TileAddress {
  char* bytes;
  int64_t stride;
};

[[gnu::noinline]] static void copy_rows(const char* from, int64_t from_stride, int64_t rows, int64_t bytes, char* to,
                                        int64_t to_stride) {
  for (int64_t row = 0; row < rows; ++row) {
    __builtin_memcpy(to + row * to_stride, from + row * from_stride, static_cast<size_t>(bytes));
  }
}

// Where a tile can be loaded from: where it is, or, if that is not a whole one, a copy among zeros.
MDM_INLINE TileAddress whole_tile(const char* from, int64_t stride, int64_t rows, int64_t bytes, char* room) {
  if (rows >= kTileHeight && bytes >= kTileBytes) return {const_cast<char*>(from), stride};
  __builtin_memset(room, 0, kTileHeight * kTileBytes);
  copy_rows(from, stride, rows, bytes, room, kTileBytes);
  return {room, kTileBytes};
}

// M by N tiles of C, M and N being 1 or 2, of which the last have `rows` rows, at most 16.
template <int M, int N>
[[gnu::noinline]] static void multiply_block(Operand a, Panels b, int64_t steps, bool accumulate, Lines c,
                                             int64_t rows) {
  alignas(64) char room[4][kTileHeight * kTileBytes];
  const auto rows_of = [=](int m) { return m == M - 1 ? rows : kTileHeight; };
  TileAddress sum[M][N];
  for (int m = 0; m < M; ++m) {
    for (int n = 0; n < N; ++n) {
      const float* words = c.words + m * kTileHeight * c.stride + n * kLanes;
      sum[m][n] = whole_tile(reinterpret_cast<const char*>(words), c.stride * 4, rows_of(m), kTileBytes, room[n]);
    }
  }
  keep_memory_in_order();
  if (accumulate) {
    _tile_loadd(0, sum[0][0].bytes, sum[0][0].stride);
    if constexpr (N == 2) _tile_loadd(1, sum[0][1].bytes, sum[0][1].stride);
    if constexpr (M == 2) _tile_loadd(2, sum[1][0].bytes, sum[1][0].stride);
    if constexpr (M == 2 && N == 2) _tile_loadd(3, sum[1][1].bytes, sum[1][1].stride);
  } else {
    _tile_zero(0);
    if constexpr (N == 2) _tile_zero(1);
    if constexpr (M == 2) _tile_zero(2);
    if constexpr (M == 2 && N == 2) _tile_zero(3);
  }
  for (int64_t step = 0; step < steps; step += kTileSteps) {
    const int64_t now = steps - step < kTileSteps ? steps - step : kTileSteps;
    TileAddress left[M], right[N];
    for (int m = 0; m < M; ++m) {
      const char* words = a.words + m * kTileHeight * a.row_bytes + step * 4;
      left[m] = whole_tile(words, a.row_bytes, rows_of(m), now * 4, room[m]);
    }
    for (int n = 0; n < N; ++n) {
      const float* lines = b.words + step * b.line_stride + n * b.group_stride;
      right[n] = whole_tile(reinterpret_cast<const char*>(lines), b.line_stride * 4, now, kTileBytes, room[2 + n]);
    }
    keep_memory_in_order();
    _tile_loadd(6, right[0].bytes, right[0].stride);
    if constexpr (N == 2) _tile_loadd(7, right[1].bytes, right[1].stride);
    _tile_loadd(4, left[0].bytes, left[0].stride);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (N == 2) _tile_dpbf16ps(1, 4, 7);
    if constexpr (M == 2) {
      _tile_loadd(5, left[1].bytes, left[1].stride);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (N == 2) _tile_dpbf16ps(3, 5, 7);
    }
    keep_memory_in_order();
  }
  _tile_stored(0, sum[0][0].bytes, sum[0][0].stride);
  if constexpr (N == 2) _tile_stored(1, sum[0][1].bytes, sum[0][1].stride);
  if constexpr (M == 2) _tile_stored(2, sum[1][0].bytes, sum[1][0].stride);
  if constexpr (M == 2 && N == 2) _tile_stored(3, sum[1][1].bytes, sum[1][1].stride);
  for (int n = 0; n < N && rows < kTileHeight; ++n) {
    float* words = c.words + (M - 1) * kTileHeight * c.stride + n * kLanes;
    copy_rows(room[n], kTileBytes, rows, kTileBytes, reinterpret_cast<char*>(words), c.stride * 4);
  }
}

// Rows [0, rows) of 16 N lanes of C.
template <int N>
static inline void multiply_tile_column(Operand a, int64_t rows, Panels b, int64_t steps, bool accumulate, Lines c) {
  constexpr int64_t kTwo = 2 * kTileHeight;
  for (; rows > 0; rows -= kTwo, a.words += kTwo * a.row_bytes, c.words += kTwo * c.stride) {
    if (rows > kTileHeight) {
      const int64_t last = rows - kTileHeight;
      multiply_block<2, N>(a, b, steps, accumulate, c, last < kTileHeight ? last : kTileHeight);
    } else {
      multiply_block<1, N>(a, b, steps, accumulate, c, rows);
    }
  }
}

// C [rows][16 * vectors] from A, whose words lie side by side, and B [steps][16 * vectors]; added to what C is, if asked.
static inline void multiply_tiles(const Operand& a, int64_t rows, Panels b, int64_t steps, int64_t vectors,
                                  bool accumulate, Lines c) {
  for (; vectors >= 2; vectors -= 2, b.words += 2 * b.group_stride, c.words += 2 * kLanes) {
    multiply_tile_column<2>(a, rows, b, steps, accumulate, c);
  }
  if (vectors > 0) multiply_tile_column<1>(a, rows, b, steps, accumulate, c);
}

#else

struct TileRegisters {
  TileRegisters() {}  // nothing to have, but a variable of this type is used
};

#endif

}  // namespace MDM_NAMESPACE
