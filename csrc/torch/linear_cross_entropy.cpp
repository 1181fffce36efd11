// Binding of linear_cross_entropy and its backward on the CPU: tensors in, params and workspace out, the kernel's phases called.
#include <torch/csrc/stable/library.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <tuple>
#include <utility>
#include <vector>

#include "torch/linear_cross_entropy.h"
#include "torch/parallel.h"

namespace mdmcorrect {
namespace {

constexpr const char* kOp = "linear_cross_entropy";

using Phase = LinearCrossEntropyPhase;

// The backward goes through the vocabulary in stretches of this many slices, and holds the gradient of the logits of
// three stretches: while one is consumed the next is made, and threads in between never wait for each other.
constexpr int64_t kSlicesPerStretch = 2;
constexpr int64_t kStretchesHeld = 3;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

// Fresh memory of this size comes as pages that are zeroed at their first touch. In pages of 4 KiB that would be a tenth
// of a backward's time; where the system has larger ones on request, this is the request.
void advise_large_pages(void* data, int64_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t{1} << 21;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data), end = begin + static_cast<uintptr_t>(bytes);
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage, last = end / kPage * kPage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

// Everything a call needs but its outputs.
class Call {
 public:
  Call(const Tensor& hidden, const Tensor& weight, const Tensor& targets, const OptionalTensor& bias,
       const OptionalTensor& suppress, const OptionalTensor& row_index, int64_t ignore_index, double label_smoothing,
       double softcap);

  LinearCrossEntropyParams params{};
  const CpuKernels& kernels;
  ScalarType value_type;  // of losses, bias and gradients of rows
  int64_t value_size;
  int64_t values_per_word;
  int64_t padded_rows;

  int64_t words_of(int64_t count) const { return divide_up(count, values_per_word); }

  // Where the largest logits and the logs of sums are, `count` of each.
  void set_normaliser(void* data, int64_t count) {
    params.maximum = data;
    params.log_sum = static_cast<char*>(data) + count * value_size;
  }

  // A piece of memory that lives as long as the call; `count` elements of `size` bytes.
  void* take(int64_t count, int64_t size) {
    pieces_.push_back(allocate(kOp, {count * size + 64}, ScalarType::Byte, targets_.device()));
    const auto address = reinterpret_cast<uintptr_t>(pieces_.back().mutable_data_ptr());
    advise_large_pages(pieces_.back().mutable_data_ptr(), count * size);
    return reinterpret_cast<void*>((address + 63) / 64 * 64);
  }

  // Phases whose units may run side by side, each with its number of units.
  struct Group {
    LinearCrossEntropyParams params;
    std::vector<std::pair<Phase, int64_t>> phases;
  };

  // Group g starts when those up to g - 2 are done.
  void run(const std::vector<Group>& groups) {
    std::vector<int64_t> units;
    for (const Group& group : groups) {
      units.push_back(0);
      for (const auto& phase : group.phases) units.back() += phase.second;
    }
    parallel_groups(units, [&](int64_t group, int64_t unit, int64_t task) {
      for (const auto& phase : groups[group].phases) {
        if (unit < phase.second) {
          return kernels.linear_cross_entropy(groups[group].params, phase.first, unit, unit + 1,
                                              scratch_ + task * scratch_words_);
        }
        unit -= phase.second;
      }
    });
  }
  void run(Phase phase, int64_t units) { run({{params, {{phase, units}}}}); }

 private:
  std::vector<Tensor> pieces_;
  std::vector<int64_t> suppressed_, rows_;
  Tensor targets_;
  int64_t scratch_words_;
  uint64_t* scratch_;
};

FloatType element_type(ScalarType type) {
  switch (type) {
    case ScalarType::BFloat16:
      return FloatType::bfloat16;
    case ScalarType::Half:
      return FloatType::float16;
    case ScalarType::Double:
      return FloatType::float64;
    default:
      check(type == ScalarType::Float, kOp, "hidden: expected float32, bfloat16, float16 or float64");
      return FloatType::float32;
  }
}

// Rows that count, ascending and each once: their target is not ignore_index and, if there is one, row_index names them.
std::vector<int64_t> counted_rows(const Tensor& targets, const OptionalTensor& row_index, int64_t ignore_index) {
  const int64_t count = targets.size(0);
  const int64_t* target = static_cast<const int64_t*>(targets.const_data_ptr());
  std::vector<char> named(static_cast<size_t>(count), row_index ? 0 : 1);
  if (row_index) {
    const int64_t* index = static_cast<const int64_t*>(row_index->const_data_ptr());
    for (int64_t i = 0; i < row_index->size(0); ++i) {
      const int64_t row = index[i * row_index->stride(0)];
      if (row >= 0 && row < count) named[static_cast<size_t>(row)] = 1;
    }
  }
  std::vector<int64_t> rows;
  for (int64_t row = 0; row < count; ++row) {
    if (named[static_cast<size_t>(row)] != 0 && target[row] != ignore_index) rows.push_back(row);
  }
  return rows;
}

Call::Call(const Tensor& hidden, const Tensor& weight, const Tensor& targets, const OptionalTensor& bias,
           const OptionalTensor& suppress, const OptionalTensor& row_index, int64_t ignore_index,
           double label_smoothing, double softcap)
    : kernels(chosen_kernels(KernelGroup::loss)), targets_(torch::stable::contiguous(targets)) {
  params.type = element_type(hidden.scalar_type());
  const bool wide = params.type == FloatType::float64;
  value_type = wide ? ScalarType::Double : ScalarType::Float;
  value_size = wide ? 8 : 4;
  values_per_word = params.type == FloatType::bfloat16 && kernels.bfloat16_pairs ? 2 : 1;
  check_loss_arguments(kOp, hidden, weight, targets, bias, row_index, value_type);
  if (bias) params.bias = bias->const_data_ptr();
  rows_ = counted_rows(targets_, row_index, ignore_index);
  suppressed_ = sorted_ids(kOp, "suppress", suppress, weight.size(0), hidden);
  suppressed_.erase(std::unique(suppressed_.begin(), suppressed_.end()), suppressed_.end());
  params.rows = static_cast<int64_t>(rows_.size());
  params.vocab = weight.size(0);
  params.width = weight.size(1);
  params.hidden = hidden.const_data_ptr();
  params.hidden_stride = hidden.stride(0);
  params.weight = weight.const_data_ptr();
  params.weight_stride = weight.stride(0);
  params.suppress = suppressed_.data();
  params.suppress_count = static_cast<int64_t>(suppressed_.size());
  check_loss_options(kOp, label_smoothing, softcap);
  params.kept = params.vocab - params.suppress_count;
  params.label_smoothing = label_smoothing;
  params.softcap = softcap;
  params.row_index = rows_.data();
  params.targets = static_cast<const int64_t*>(targets_.const_data_ptr());
  padded_rows = round_up(params.rows, kPanelPadding);
  const int64_t columns = padded_rows * words_of(params.width);
  params.hidden_columns = take(columns, value_size);
  scratch_words_ = kVocabSlice * (kPanelPadding + divide_up(words_of(params.width) * value_size, 8));
  scratch_ = static_cast<uint64_t*>(take(scratch_words_ * torch::stable::get_num_threads(), 8));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> linear_cross_entropy(const Tensor& hidden, const Tensor& weight,
                                                                const Tensor& targets, const OptionalTensor& bias,
                                                                const OptionalTensor& suppress,
                                                                const OptionalTensor& row_index, int64_t ignore_index,
                                                                double label_smoothing, double softcap) {
  Call call(hidden, weight, targets, bias, suppress, row_index, ignore_index, label_smoothing, softcap);
  LinearCrossEntropyParams& params = call.params;
  const int64_t all_rows = hidden.size(0);
  Tensor losses = allocate(kOp, {all_rows}, call.value_type, hidden.device());
  Tensor normaliser = allocate(kOp, {2, all_rows}, call.value_type, hidden.device());
  Tensor correct = allocate(kOp, {all_rows}, ScalarType::Bool, hidden.device());
  Tensor counted = allocate(kOp, {all_rows}, ScalarType::Bool, hidden.device());
  torch::stable::zero_(losses);
  torch::stable::zero_(normaliser);
  torch::stable::zero_(correct);
  torch::stable::zero_(counted);
  if (params.rows == 0) return {losses, normaliser, correct, counted};
  bool* flags = static_cast<bool*>(counted.mutable_data_ptr());
  for (int64_t r = 0; r < params.rows; ++r) flags[params.row_index[r]] = true;

  const int64_t blocks = divide_up(params.vocab, kVocabSlice * kSlicesPerBlock);
  params.losses = losses.mutable_data_ptr();
  call.set_normaliser(normaliser.mutable_data_ptr(), all_rows);
  params.correct = static_cast<uint8_t*>(correct.mutable_data_ptr());
  params.partial = call.take(blocks * statistics_kept(params) * call.padded_rows, call.value_size);
  params.target_logit = call.take(call.padded_rows, call.value_size);
  call.run(Phase::pack_hidden, call.padded_rows / kPanelPadding);
  call.run(Phase::statistics, blocks);
  call.run(Phase::losses, params.rows);
  return {losses, normaliser, correct, counted};
}

Tensor gradient_of(const Tensor& input, bool needed) {
  Tensor gradient = empty_gradient(kOp, input, needed);
  advise_large_pages(gradient.mutable_data_ptr(), gradient.numel() * static_cast<int64_t>(gradient.element_size()));
  return gradient;
}

std::tuple<Tensor, Tensor, Tensor> linear_cross_entropy_backward(
    const Tensor& grad_losses, const Tensor& hidden, const Tensor& weight, const Tensor& targets,
    const OptionalTensor& bias, const OptionalTensor& suppress, const OptionalTensor& row_index, int64_t ignore_index,
    const Tensor& normaliser, bool needs_hidden, bool needs_weight, bool needs_bias, double label_smoothing,
    double softcap) {
  Call call(hidden, weight, targets, bias, suppress, row_index, ignore_index, label_smoothing, softcap);
  LinearCrossEntropyParams& params = call.params;
  check_loss_gradient(kOp, grad_losses, normaliser, hidden, call.value_type);
  check(!needs_bias || bias.has_value(), kOp, "backward: there is no bias to differentiate");
  const Tensor upstream = torch::stable::contiguous(grad_losses), known = torch::stable::contiguous(normaliser);
  Tensor grad_hidden = gradient_of(hidden, needs_hidden), grad_weight = gradient_of(weight, needs_weight);
  Tensor grad_bias = gradient_of(bias ? *bias : hidden, needs_bias);
  if (needs_hidden) torch::stable::zero_(grad_hidden);
  if (params.rows == 0) {
    torch::stable::zero_(grad_weight);
    torch::stable::zero_(grad_bias);
    return {grad_hidden, grad_weight, grad_bias};
  }
  call.set_normaliser(known.mutable_data_ptr(), hidden.size(0));
  params.grad_losses = upstream.const_data_ptr();

  const int64_t ids = kSlicesPerStretch * kVocabSlice, stretches = divide_up(params.vocab, ids);
  const int64_t columns = round_up(params.width, kPanelPadding);
  const int64_t interleaved_rows = round_up(params.rows, kInterleavedRows);
  if (needs_bias) params.grad_bias = grad_bias.mutable_data_ptr();
  if (needs_weight) {
    params.grad_weight = grad_weight.mutable_data_ptr();
    params.hidden_rows = call.take(columns * call.words_of(params.rows), call.value_size);
  }
  if (needs_hidden) {
    params.grad_hidden = grad_hidden.mutable_data_ptr();
    params.hidden_sums = call.take(columns * interleaved_rows, call.value_size);
  }
  LinearCrossEntropyParams held[kStretchesHeld];
  for (int64_t i = 0; i < std::min(kStretchesHeld, stretches); ++i) {
    held[i] = params;
    held[i].grad_logits = call.take(call.words_of(ids * call.padded_rows), call.value_size);
    if (!needs_hidden) continue;
    held[i].weight_rows = call.take(columns * call.words_of(ids), call.value_size);
    held[i].grad_interleaved =
        call.take(round_up(call.padded_rows, kInterleavedRows) * call.words_of(ids), call.value_size);
  }

  // In turn: made 0, made 1, consumed 0, made 2, consumed 1, ... so that whatever a group needs lies two groups back.
  std::vector<Call::Group> groups;
  for (int64_t i = 0; i <= stretches; ++i) {
    if (i < stretches) {
      LinearCrossEntropyParams& made = held[i % kStretchesHeld];
      made.first_id = i * ids;
      made.ids = std::min(ids, params.vocab - made.first_id);
      const int64_t here = divide_up(made.ids, kVocabSlice);
      groups.push_back({made,
                        {{Phase::pack_weight, needs_hidden ? here : 0},
                         {Phase::grad_logits, here * divide_up(params.rows, kRowsPerUnit)}}});
    } else {
      groups.push_back({params, {}});  // nothing left to make: the last is consumed two groups after what it needs
    }
    if (i == 0) continue;
    const LinearCrossEntropyParams& consumed = held[(i - 1) % kStretchesHeld];
    const int64_t here = divide_up(consumed.ids, kVocabSlice);
    groups.push_back(
        {consumed,
         {{Phase::grad_weight, needs_weight ? here * divide_up(params.width, kColumnsPerUnit) : 0},
          {Phase::grad_hidden, needs_hidden ? columns / kPanelPadding * (interleaved_rows / kInterleavedRows) : 0},
          {Phase::grad_bias, needs_bias ? here : 0}}});
  }
  call.run(Phase::pack_hidden, call.padded_rows / kPanelPadding);
  call.run(groups);
  if (needs_hidden) call.run(Phase::write_grad_hidden, params.rows);
  return {grad_hidden, grad_weight, grad_bias};
}

}  // namespace
}  // namespace mdmcorrect

STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CPU, m) {
  m.impl("linear_cross_entropy", TORCH_BOX(&mdmcorrect::linear_cross_entropy));
  m.impl("linear_cross_entropy_backward", TORCH_BOX(&mdmcorrect::linear_cross_entropy_backward));
}
