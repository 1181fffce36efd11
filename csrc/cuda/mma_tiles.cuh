// Tiles of 16-bit numbers in shared memory, and their fragments for mma.m16n8k16.
//
// A row is cut into chunks of 16 bytes, the unit of cp.async and of ldmatrix. Chunk c of row r is kept at place
// c ^ f(r), where f makes the same chunk of eight successive rows fall on all 32 banks: ldmatrix reads such a column at
// once, and a row's chunks, which a copy writes at once, stay on different banks as well.
#pragma once

#include "cuda/memory.cuh"
#include "cuda/ptx.cuh"

namespace MDM_NAMESPACE {

constexpr int kLanes = 32;

struct alignas(16) Chunk {
  uint32_t words[4];
};

// How numbers of a type enter products.
struct Bfloat16 {
  static __device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    ptx::mma_bf16(d, a, b0, b1);
  }
  static __device__ __forceinline__ uint32_t pack(float low, float high) { return ptx::pack_bf16(low, high); }
};
struct Float16 {
  static __device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    ptx::mma_fp16(d, a, b0, b1);
  }
  static __device__ __forceinline__ uint32_t pack(float low, float high) { return ptx::pack_fp16(low, high); }
};

// A tile with rows of kWidth numbers. Rows of an odd multiple of 64 bytes alternate between the halves of the banks.
template <int kWidth>
struct TileLayout {
  static_assert(kWidth % 32 == 0, "a row is a multiple of 64 bytes");
  static constexpr int kChunks = kWidth / 8;
  static constexpr int kRowBytes = 2 * kWidth;
  static constexpr int kShift = kChunks % 8 == 0 ? 0 : 1;
  static constexpr int kMask = kChunks % 8 == 0 ? 7 : 3;

  static __device__ __forceinline__ uint32_t swizzle(int row) { return (row >> kShift & kMask) << 4; }
  static __device__ __forceinline__ uint32_t offset(int row, int chunk) {
    return row * kRowBytes + ((chunk << 4) ^ swizzle(row));
  }
};

// Where this lane's row of a 16 x 16 piece lies in a tile, for ldmatrix_x4. Pieces begin at multiples of 16 rows, so the
// swizzle depends on the lane alone.
template <int kWidth>
struct FragmentLane {
  uint32_t row_bytes;
  uint32_t chunk_bits;

  // Matrices in the order: upper left, lower left, upper right, lower right. Fragment a of the piece; or, transposed,
  // fragments b of its left and right halves when its rows are what the product sums over.
  static __device__ __forceinline__ FragmentLane rows_first() {
    const int lane = threadIdx.x % kLanes;
    return of(lane & 15, lane >> 4);
  }
  // Upper left, upper right, lower left, lower right: fragments b of the upper and of the lower half when its columns
  // are what the product sums over.
  static __device__ __forceinline__ FragmentLane columns_first() {
    const int lane = threadIdx.x % kLanes;
    return of((lane & 7) | (lane >> 1 & 8), lane >> 3 & 1);
  }
  static __device__ __forceinline__ FragmentLane of(int row, int chunk) {
    using Layout = TileLayout<kWidth>;
    return {static_cast<uint32_t>(row * Layout::kRowBytes), Layout::swizzle(row) ^ (chunk << 4)};
  }
  // Piece (i, j) of the tile at `tile`. The swizzle reaches the low bits of the column only: pieces that share those
  // share a register, and the rest of the offset is part of the instruction.
  __device__ __forceinline__ uint32_t address(uint32_t tile, int i, int j) const {
    constexpr int kSwizzled = TileLayout<kWidth>::kMask << 4;
    const int column = 32 * j;
    return tile + row_bytes + (chunk_bits ^ (column & kSwizzled)) + (column & ~kSwizzled) +
           16 * i * TileLayout<kWidth>::kRowBytes;
  }
};

// Copies successive tiles of kRows rows from a matrix whose rows are on 16 bytes. Eight threads (four where a row is an
// odd multiple of 64 bytes) copy neighbouring chunks; a thread's rows are a multiple of eight apart, so that it computes
// its swizzle once.
template <int kWidth, int kRows, int kThreads>
struct TileCopy {
  using Layout = TileLayout<kWidth>;
  static constexpr int kGroup = Layout::kMask + 1, kStep = kThreads / kGroup;
  static_assert(kRows % kStep == 0 && kStep % 8 == 0, "every thread copies as much, with one swizzle");

  const uint16_t* source;  // this thread's first chunk of the next tile

  __device__ __forceinline__ TileCopy(const uint16_t* matrix, int64_t row_stride)
      : source(matrix + threadIdx.x / kGroup * row_stride + threadIdx.x % kGroup * 8) {}

  // Starts the copy of the next tile to the address `tile`. A row for which keep(row) is false, and columns from `width`
  // on, become 0 without being read.
  template <class Keep>
  __device__ __forceinline__ void start_where(uint32_t tile, int64_t row_stride, int width, const Keep& keep) {
    const int first_row = threadIdx.x / kGroup, first_chunk = threadIdx.x % kGroup;
    const uint32_t place = tile + Layout::offset(first_row, first_chunk);
#pragma unroll
    for (int row = 0; row < kRows; row += kStep) {
#pragma unroll
      for (int chunk = 0; chunk < Layout::kChunks; chunk += kGroup) {
        const bool inside = keep(first_row + row) && (first_chunk + chunk) * 8 < width;
        ptx::cp_async_16(place + row * Layout::kRowBytes + chunk * 16, source + chunk * 8, inside ? 16 : 0);
      }
      source += kStep * row_stride;
    }
  }

  // The same with rows [0, rows).
  __device__ __forceinline__ void start(uint32_t tile, int64_t row_stride, int rows, int width) {
    start_where(tile, row_stride, width, [=](int row) { return row < rows; });
  }
};

// sums[i][n] += a b^T: rows of `a` are 16-row pieces first_row + i, rows of `b` its 8-row slices n, both summed over
// their kWidth columns.
template <class Type, int kWidth, int kRowTiles, int kSlices>
__device__ __forceinline__ void multiply_transposed(float (&sums)[kRowTiles][kSlices][4], uint32_t a, int first_row,
                                                    uint32_t b) {
  const auto a_lane = FragmentLane<kWidth>::rows_first();
  const auto b_lane = FragmentLane<kWidth>::columns_first();
#pragma unroll
  for (int k = 0; k < kWidth / 16; ++k) {
    uint32_t a_part[kRowTiles][4];
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) ptx::ldmatrix_x4(a_part[i], a_lane.address(a, first_row + i, k));
#pragma unroll
    for (int n = 0; n < kSlices / 2; ++n) {
      uint32_t b_part[4];
      ptx::ldmatrix_x4(b_part, b_lane.address(b, n, k));
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        Type::mma(sums[i][2 * n], a_part[i], b_part[0], b_part[1]);
        Type::mma(sums[i][2 * n + 1], a_part[i], b_part[2], b_part[3]);
      }
    }
  }
}

// sums[i][n] += a b: `a` in the registers of a product before, rounded; its columns are the rows of `b`, whose 8-column
// slices are n.
template <class Type, int kWidth, int kRowTiles, int kSlices>
__device__ __forceinline__ void multiply(float (&sums)[kRowTiles][kWidth / 8][4],
                                         const float (&a)[kRowTiles][kSlices][4], uint32_t b) {
  const auto b_lane = FragmentLane<kWidth>::rows_first();
#pragma unroll
  for (int k = 0; k < kSlices / 2; ++k) {
    uint32_t a_part[kRowTiles][4];
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
      const float (&left)[4] = a[i][2 * k];
      const float (&right)[4] = a[i][2 * k + 1];
      a_part[i][0] = Type::pack(left[0], left[1]);
      a_part[i][1] = Type::pack(left[2], left[3]);
      a_part[i][2] = Type::pack(right[0], right[1]);
      a_part[i][3] = Type::pack(right[2], right[3]);
    }
#pragma unroll
    for (int n = 0; n < kWidth / 16; ++n) {
      uint32_t b_part[4];
      ptx::ldmatrix_x4_trans(b_part, b_lane.address(b, k, n));
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        Type::mma(sums[i][2 * n], a_part[i], b_part[0], b_part[1]);
        Type::mma(sums[i][2 * n + 1], a_part[i], b_part[2], b_part[3]);
      }
    }
  }
}

// Rounds a warp's 16-row pieces and writes rows [0, rows) of them to a matrix, through the warp's own rows of a tile,
// which turn fragments into whole rows. `matrix` and `tile` begin at the warp's first row. What those rows held is used
// up.
template <class Type, int kWidth, int kRowTiles>
__device__ __forceinline__ void store_rows(const float (&sums)[kRowTiles][kWidth / 8][4], unsigned char* tile,
                                           uint16_t* matrix, int64_t row_stride, int rows, int width) {
  using Layout = TileLayout<kWidth>;
  const int lane = threadIdx.x % kLanes;
  __syncwarp();  // no lane still reads fragments there
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = 16 * i + 8 * half + lane / 4;
#pragma unroll
      for (int n = 0; n < kWidth / 8; ++n) {
        *reinterpret_cast<uint32_t*>(tile + Layout::offset(row, n) + 4 * (lane % 4)) =
            Type::pack(sums[i][n][2 * half], sums[i][n][2 * half + 1]);
      }
    }
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < 16 * kRowTiles * Layout::kChunks / kLanes; ++i) {
    const int index = lane + i * kLanes;
    const int row = index / Layout::kChunks, chunk = index % Layout::kChunks;
    const Chunk value = *reinterpret_cast<const Chunk*>(tile + Layout::offset(row, chunk));
    if (row < rows && chunk * 8 < width) *reinterpret_cast<Chunk*>(matrix + row * row_stride + chunk * 8) = value;
  }
}

}  // namespace MDM_NAMESPACE
