// row_index: which rows b * L + l of a [B, L, ...] tensor an operator shall do.
#pragma once

#include <algorithm>
#include <vector>

#include "torch/checks.h"

namespace mdmcorrect {

// row_index: int64 [R], whose values are never looked at here.
inline void check_row_index(const char* op, const Tensor& row_index, const Tensor& like) {
  check(row_index.dim() == 1, op, "row_index: expected shape [R], got ", shape_of(row_index));
  check(row_index.scalar_type() == ScalarType::Long, op, "row_index: expected dtype int64");
  check(row_index.device() == like.device(), op, "row_index: expected the device of the other tensors");
}

// The rows asked for, ascending and once each; what is no row (-1 pads) is dropped. Not given: every row.
inline std::vector<int64_t> indexed_rows(const char* op, const std::optional<Tensor>& row_index, int64_t rows,
                                         const Tensor& like) {
  std::vector<int64_t> list;
  if (!row_index) {
    list.resize(static_cast<size_t>(rows));
    for (int64_t i = 0; i < rows; ++i) list[static_cast<size_t>(i)] = i;
    return list;
  }
  check_row_index(op, *row_index, like);
  const int64_t* data = static_cast<const int64_t*>(row_index->const_data_ptr());
  for (int64_t i = 0; i < row_index->size(0); ++i) {
    const int64_t row = data[i * row_index->stride(0)];
    if (row >= 0 && row < rows) list.push_back(row);
  }
  std::sort(list.begin(), list.end());
  list.erase(std::unique(list.begin(), list.end()), list.end());
  return list;
}

}  // namespace mdmcorrect
