// score_quality: one read of the hidden states.
//
// With n = (x - mean) r the normalised row, g and h the norm's weight and bias, s and t scale and shift, the logit is
//   sum_d w (1 + s) g n  +  sum_d w ((1 + s) h + t)  +  bias  =  r sum_d a (x - mean)  +  c
// where a = w (1 + s) g and c belong to the sequence. A row is read twice, the second time from the first-level cache:
// for its mean, then for the squares and the product with a together. The next row is fetched meanwhile.
#include <math.h>

#include "cpu/kernels.h"
#include "cpu/rows.h"

namespace MDM_NAMESPACE {

constexpr int64_t kStep = 4 * kLanes;  // four sums at a time, so that an addition need not wait for the one before

MDM_INLINE int64_t whole_vectors(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

template <FloatType type>
struct Raw;
template <>
struct Raw<FloatType::float32> {
  using Value = float;
  MDM_INLINE Floats lanes(const float* p) { return load(p); }
};
template <>
struct Raw<FloatType::bfloat16> {
  using Value = uint16_t;
  MDM_INLINE Floats lanes(const uint16_t* p) { return load_bfloat16(p); }
};
template <>
struct Raw<FloatType::float16> {
  using Value = uint16_t;
  MDM_INLINE Floats lanes(const uint16_t* p) { return load_float16(p); }
};

// The last values of a row, fewer than a vector, and zeros.
template <FloatType type>
MDM_INLINE Floats last_lanes(const typename Raw<type>::Value* source, int64_t count) {
  typename Raw<type>::Value buffer[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) buffer[i] = source[i];
  return Raw<type>::lanes(buffer);
}

template <FloatType type>
static float row_sum(const void* row, int64_t count) {
  const auto* x = static_cast<const typename Raw<type>::Value*>(row);
  Floats sums[4] = {broadcast(0.0f), broadcast(0.0f), broadcast(0.0f), broadcast(0.0f)};
  int64_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    for (int part = 0; part < 4; ++part) sums[part] = add(sums[part], Raw<type>::lanes(x + i + part * kLanes));
  }
  for (; i + kLanes <= count; i += kLanes) sums[0] = add(sums[0], Raw<type>::lanes(x + i));
  if (i < count) sums[1] = add(sums[1], last_lanes<type>(x + i, count - i));
  return reduce_add(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
}

struct CentredSums {
  float squares;  // of (x - mean)^2
  float product;  // of a (x - mean)
};

// a ends in zeros. `next` is fetched along the way.
template <FloatType type>
static CentredSums centred_sums(const void* row, const void* next, const float* a, int64_t count, float mean) {
  const auto* x = static_cast<const typename Raw<type>::Value*>(row);
  const auto* ahead = static_cast<const typename Raw<type>::Value*>(next);
  const Floats centre = broadcast(mean);
  Floats squares[4] = {broadcast(0.0f), broadcast(0.0f), broadcast(0.0f), broadcast(0.0f)};
  Floats products[4] = {squares[0], squares[0], squares[0], squares[0]};
  const auto take = [&](int part, Floats value, const float* weights) {
    const Floats d = sub(value, centre);
    squares[part] = multiply_add(d, d, squares[part]);
    products[part] = multiply_add(d, load(weights), products[part]);
  };
  int64_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    for (size_t line = 0; line < kStep * sizeof(*x); line += 64) {
      __builtin_prefetch(reinterpret_cast<const uint8_t*>(ahead + i) + line);
    }
    for (int part = 0; part < 4; ++part) take(part, Raw<type>::lanes(x + i + part * kLanes), a + i + part * kLanes);
  }
  for (; i + kLanes <= count; i += kLanes) take(0, Raw<type>::lanes(x + i), a + i);
  if (i < count) {
    float last[kLanes];
    store(last, last_lanes<type>(x + i, count - i));
    for (int64_t lane = count - i; lane < kLanes; ++lane) last[lane] = mean;
    take(1, load(last), a + i);
  }
  return {reduce_add(add(add(squares[0], squares[1]), add(squares[2], squares[3]))),
          reduce_add(add(add(products[0], products[1]), add(products[2], products[3])))};
}

// The loops above for one type.
struct RowFunctions {
  int64_t value_bytes;
  float (*sum)(const void*, int64_t);
  CentredSums (*centred)(const void*, const void*, const float*, int64_t, float);
};

static RowFunctions row_functions(FloatType type) {
  switch (type) {
    case FloatType::bfloat16:
      return {2, row_sum<FloatType::bfloat16>, centred_sums<FloatType::bfloat16>};
    case FloatType::float16:
      return {2, row_sum<FloatType::float16>, centred_sums<FloatType::float16>};
    default:
      return {4, row_sum<FloatType::float32>, centred_sums<FloatType::float32>};
  }
}

// Row of shift or scale as float32, followed by zeros up to a whole vector.
static void widen_row(const FloatRows& rows, int64_t b, int64_t l, int64_t count, float* out) {
  const FloatGrid grid{rows.data, 0, 1, rows.type};
  const int64_t offset = b * rows.batch_stride + l * rows.position_stride;
  for (int64_t i = 0; i < count; ++i) out[i] = at(grid, 0, offset + i);
  for (int64_t i = count; i < whole_vectors(count); ++i) out[i] = 0.0f;
}

// a and c of the lines at the top. scale and shift are scratch.
static float coefficients(const ScoreQualityParams& params, int64_t b, int64_t l, float* a, float* scale,
                          float* shift) {
  const int64_t size = params.size, padded = whole_vectors(size);
  const bool scaled = params.scale.data != nullptr, shifted = params.shift.data != nullptr;
  if (scaled) widen_row(params.scale, b, l, size, scale);
  if (shifted) widen_row(params.shift, b, l, size, shift);
  Floats sum = broadcast(0.0f);
  for (int64_t i = 0; i < padded; i += kLanes) {
    const Floats w = load(params.weight + i);
    const Floats gain = scaled ? add(load(scale + i), broadcast(1.0f)) : broadcast(1.0f);
    store(a + i, mul(w, mul(gain, load(params.norm_weight + i))));
    Floats constant = mul(gain, load(params.norm_bias + i));
    if (shifted) constant = add(constant, load(shift + i));
    sum = multiply_add(w, constant, sum);
  }
  return reduce_add(sum) + (params.bias != nullptr ? *params.bias : 0.0f);
}

void score_quality(const ScoreQualityParams& params, int64_t begin, int64_t end, uint64_t* scratch) {
  const int64_t size = params.size, padded = whole_vectors(size);
  Scratch pieces{scratch};
  float* a = pieces.take<float>(padded);
  float* scale = pieces.take<float>(padded);
  float* shift = pieces.take<float>(padded);
  const bool each_row = params.scale.position_stride != 0 || params.shift.position_stride != 0;
  const bool each_sequence = params.scale.data != nullptr || params.shift.data != nullptr;
  const RowFunctions functions = row_functions(params.hidden.type);
  const auto row_at = [&](int64_t place) {
    const int64_t b = place / params.length, l = place % params.length;
    const int64_t offset = b * params.hidden.batch_stride + l * params.hidden.position_stride;
    return static_cast<const uint8_t*>(params.hidden.data) + offset * functions.value_bytes;
  };
  float constant = 0.0f;
  int64_t sequence = -1;  // whose coefficients a and constant are
  for (int64_t i = begin; i < end; ++i) {
    const int64_t place = params.row_index[i], b = place / params.length;
    if (i == begin || each_row || (each_sequence && b != sequence)) {
      constant = coefficients(params, b, place % params.length, a, scale, shift);
      sequence = b;
    }
    const uint8_t* row = row_at(place);
    const uint8_t* next = row_at(params.row_index[i + 1 < end ? i + 1 : i]);
    const bool layer = params.norm == QualityNorm::layer;
    const float mean = layer ? functions.sum(row, size) / static_cast<float>(size) : 0.0f;
    const CentredSums sums = functions.centred(row, next, a, size, mean);
    const double variance = static_cast<double>(sums.squares) / static_cast<double>(size);
    const double factor = params.norm == QualityNorm::none ? 1.0 : 1.0 / sqrt(variance + params.eps);
    const double logit = factor * static_cast<double>(sums.product) + static_cast<double>(constant);
    params.quality[place] = static_cast<float>(params.logit ? logit : 1.0 / (1.0 + exp(-logit)));
  }
}

}  // namespace MDM_NAMESPACE
