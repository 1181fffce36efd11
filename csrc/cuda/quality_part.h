// What score_quality keeps in shared memory of 512 values of a row; for host and device.
#pragma once

#include "core/score_quality_params.h"

namespace mdmcorrect::cuda {

constexpr int kMostQualityWarps = 8;  // of a block
constexpr int kKeptSlices = 20;       // of the head; more would not fit 48 KiB

// The head's part of 512 values, in shared memory. a and c as in score_quality.cuh.
struct alignas(16) QualitySlice {
  float a[512];
  float weight;    // sum of a
  float constant;  // part of c
};

// What was found in them.
struct QualityPart {
  float mean;     // of the values; 0 unless the norm takes the mean off
  float squares;  // sum of (x - mean)^2
  float product;  // sum of a (x - mean)
  float weight;   // sum of a
  float constant;
};

}  // namespace mdmcorrect::cuda
