// The tile instructions of AMX as calls of functions, for a compiler that includes this first: kernels written for the
// instructions then run, and are checked, on a machine without them. software_tiles.cpp says what the functions do.
#pragma once

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

extern "C" {
void software_ldtilecfg(const void* configuration);
void software_tilerelease();
void software_tilezero(int tile);
void software_tileloadd(int tile, const void* base, long stride);
void software_tilestored(int tile, void* base, long stride);
void software_tdpbf16ps(int sums, int left, int right);
}

#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#define _tile_loadconfig(configuration) software_ldtilecfg(configuration)
#define _tile_release() software_tilerelease()
#define _tile_zero(tile) software_tilezero(tile)
#define _tile_loadd(tile, base, stride) software_tileloadd(tile, base, stride)
#define _tile_stored(tile, base, stride) software_tilestored(tile, base, stride)
#define _tile_dpbf16ps(sums, left, right) software_tdpbf16ps(sums, left, right)

#define __AMX_TILE__ 1
#define __AMX_BF16__ 1
