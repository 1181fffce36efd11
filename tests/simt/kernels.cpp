// The operators that tests reach, one line each. harness.py finds simt_<op> by name and reads the parameters' layout from
// csrc/core/<op>_params.h, whose size it compares with simt_sizeof_<op>.
#include <string.h>

#include <string>
#include <type_traits>

#include "cuda/bidirectional_attention.h"
#include "cuda/bidirectional_attention_backward.h"
#include "cuda/correct_pass.h"
#include "cuda/count_positions.h"
#include "cuda/linear_cross_entropy.h"
#include "cuda/remask_step.h"
#include "cuda/sampler_step.h"
#include "cuda/score_hidden.h"
#include "cuda/score_quality.h"
#include "cuda/score_tokens.h"
#include "cuda/select_positions.h"
#include "cuda/uniform.h"
#include "simt/launch.h"

namespace {

// A kernel by the name its launcher uses; its argument comes as bytes, as the driver takes it.
struct Entry {
  const char* name;
  bool (*run)(const mdmcorrect::cuda::Launch& launch, const void* argument, size_t size);
};

template <class Argument, void (*kernel)(Argument)>
bool run_kernel(const mdmcorrect::cuda::Launch& launch, const void* argument, size_t size) {
  if (size != sizeof(Argument)) return false;
  Argument copy;
  memcpy(&copy, argument, size);
  return simt::launch(launch.kernel, kernel, dim3{launch.blocks_x, launch.blocks_y, 1}, dim3{launch.threads, 1, 1},
                      launch.dynamic_bytes, copy);
}

extern const Entry entries[];

// Of the device that is made up, for launchers that cut their work by it.
int multiprocessors = mdmcorrect::cuda::kUsualMultiprocessors;

template <class Workspace, class Params>
int64_t workspace_bytes(Workspace workspace, const Params& params) {
  if constexpr (std::is_invocable_v<Workspace, const Params&, int>) {
    return workspace(params, multiprocessors);
  } else {
    return workspace(params);
  }
}

// Of the last operator: kernel, blocks, threads and dynamic shared memory of each launch, a line each.
std::string launches;

class SimtLauncher final : public mdmcorrect::cuda::Launcher {
 public:
  SimtLauncher() { launches.clear(); }
  void launch(const mdmcorrect::cuda::Launch& launch, const void* argument, size_t size) override {
    const uint64_t blocks = uint64_t{launch.blocks_x} * launch.blocks_y;
    launches += std::string(launch.kernel) + ' ' + std::to_string(blocks) + ' ' + std::to_string(launch.threads) + ' ' +
                std::to_string(launch.dynamic_bytes) + '\n';
    const Entry* entry = entries;
    while (entry->name != nullptr && strcmp(entry->name, launch.kernel) != 0) ++entry;
    failed = failed || entry->name == nullptr || !entry->run(launch, argument, size);
  }
  int multiprocessors() const override { return ::multiprocessors; }
  bool failed = false;
};

}  // namespace

#define SIMT_VISIBLE extern "C" __attribute__((visibility("default")))
#define SIMT_SIZES(op, Params)                                                                                 \
  SIMT_VISIBLE int64_t simt_workspace_##op(const void* params) {                                               \
    return workspace_bytes(mdmcorrect::cuda::op##_workspace, *static_cast<const mdmcorrect::Params*>(params)); \
  }                                                                                                            \
  SIMT_VISIBLE size_t simt_sizeof_##op() { return sizeof(mdmcorrect::Params); }
#define SIMT_OP(op, Params)                                                                     \
  SIMT_VISIBLE int simt_##op(const void* params, void* workspace) {                             \
    SimtLauncher launcher;                                                                      \
    mdmcorrect::cuda::op(*static_cast<const mdmcorrect::Params*>(params), workspace, launcher); \
    return launcher.failed;                                                                     \
  }                                                                                             \
  SIMT_SIZES(op, Params)

SIMT_VISIBLE void simt_set_multiprocessors(int count) { multiprocessors = count; }
SIMT_VISIBLE const char* simt_launches() { return launches.c_str(); }

SIMT_OP(bidirectional_attention, BidirectionalAttentionParams)
SIMT_OP(bidirectional_attention_backward, BidirectionalAttentionBackwardParams)
SIMT_OP(correct_pass, CorrectPassParams)
SIMT_OP(count_positions, CountPositionsParams)
SIMT_OP(gather_rows, GatherRowsParams)
SIMT_OP(remask_step, RemaskStepParams)
SIMT_OP(sampler_step, SamplerStepParams)
SIMT_OP(score_quality, ScoreQualityParams)
SIMT_OP(score_tokens, ScoreTokensParams)
SIMT_OP(select_positions, SelectPositionsParams)
SIMT_OP(uniform, UniformParams)

// score_hidden takes its logits block after block out of one matrix, which the test has made.
SIMT_SIZES(score_hidden, ScoreTokensParams)
SIMT_VISIBLE int simt_score_hidden(const void* params, void* workspace) {
  constexpr int64_t kBlockIds = 1024;
  SimtLauncher launcher;
  const auto& scores = *static_cast<const mdmcorrect::ScoreTokensParams*>(params);
  const int64_t size = scores.type == mdmcorrect::FloatType::float32 ? 4 : 2;
  mdmcorrect::cuda::score_hidden(scores, kBlockIds, workspace, launcher, [&](int64_t first, int64_t) -> const void* {
    return static_cast<const char*>(scores.logits) + first * size;
  });
  return launcher.failed;
}

// linear_cross_entropy's products are made by a function of the test's: which of them, the first id, how many.
using Product = void (*)(int which, int64_t first_id, int64_t ids);
static Product test_product = nullptr;
SIMT_VISIBLE void simt_set_product(Product product) { test_product = product; }

class TestProducts final : public mdmcorrect::cuda::LossProducts {
 public:
  void logits(int64_t first_id, int64_t ids) override { test_product(0, first_id, ids); }
  void grad_weight(int64_t first_id, int64_t ids) override { test_product(1, first_id, ids); }
  void grad_bias(int64_t first_id, int64_t ids) override { test_product(2, first_id, ids); }
  void hidden_product(int64_t first_id, int64_t ids) override { test_product(3, first_id, ids); }
};

SIMT_SIZES(linear_cross_entropy_blocks, LinearCrossEntropyBlocksParams)
SIMT_VISIBLE int simt_linear_cross_entropy_blocks(const void* params, void* workspace) {
  SimtLauncher launcher;
  TestProducts products;
  mdmcorrect::cuda::linear_cross_entropy_blocks(*static_cast<const mdmcorrect::LinearCrossEntropyBlocksParams*>(params),
                                                workspace, products, launcher);
  return launcher.failed;
}

#define ATTENTION_WIDTHS(of, prefix) of(prefix##_32) of(prefix##_64) of(prefix##_96) of(prefix##_128)
#define ATTENTION_KERNELS(of)    \
  ATTENTION_WIDTHS(of, bfloat16) \
  of(bfloat16_192) of(bfloat16_256) ATTENTION_WIDTHS(of, float16) of(float16_192) of(float16_256)
#define ATTENTION_BACKWARD_KERNELS(of)                                                                 \
  of(rows_32) of(rows_64) ATTENTION_WIDTHS(of, queries_bfloat16) ATTENTION_WIDTHS(of, queries_float16) \
      ATTENTION_WIDTHS(of, keys_bfloat16) ATTENTION_WIDTHS(of, keys_float16)
#define LOSS_KERNELS(of)                                                                                    \
  of(clear) of(name) of(kept) of(pack) of(statistics) of(losses) of(gradient_float32) of(gradient_bfloat16) \
      of(gradient_float16) of(add_hidden_float32) of(add_hidden_bfloat16) of(add_hidden_float16)
#define DECLARE_LOSS(kernel) void linear_cross_entropy_##kernel(LossKernel);
#define DECLARE_ATTENTION(kernel) void bidirectional_attention_##kernel(BidirectionalAttentionParams);
#define DECLARE_ATTENTION_BACKWARD(kernel) void attention_backward_##kernel(AttentionBackward);

using mdmcorrect::BidirectionalAttentionParams;
using mdmcorrect::CorrectPassParams;
using mdmcorrect::CountPositionsParams;
using mdmcorrect::GatherRowsParams;
using mdmcorrect::RemaskStepParams;
using mdmcorrect::SamplerStepParams;
using mdmcorrect::ScoreQualityParams;
using mdmcorrect::SelectPositionsParams;
using mdmcorrect::UniformParams;
using mdmcorrect::cuda::AttentionBackward;
using mdmcorrect::cuda::LossKernel;
using mdmcorrect::cuda::RowKernel;
using mdmcorrect::cuda::ScoreHiddenKernel;
using mdmcorrect::cuda::ScoreTokensKernel;

extern "C" {
ATTENTION_KERNELS(DECLARE_ATTENTION)
ATTENTION_BACKWARD_KERNELS(DECLARE_ATTENTION_BACKWARD)
LOSS_KERNELS(DECLARE_LOSS)
void correct_pass_rows(CorrectPassParams);
void count_positions_rows(RowKernel<CountPositionsParams>);
void remask_step_rows(RowKernel<RemaskStepParams>);
void sampler_step_rows(RowKernel<SamplerStepParams>);
void score_hidden_conclude(ScoreHiddenKernel);
void score_hidden_gather(GatherRowsParams);
void score_hidden_scan_float32(ScoreHiddenKernel);
void score_hidden_scan_bfloat16(ScoreHiddenKernel);
void score_hidden_scan_float16(ScoreHiddenKernel);
void score_quality_rows_float32(ScoreQualityParams);
void score_quality_rows_bfloat16(ScoreQualityParams);
void score_quality_rows_float16(ScoreQualityParams);
void score_tokens_rows_float32(ScoreTokensKernel);
void score_tokens_rows_bfloat16(ScoreTokensKernel);
void score_tokens_rows_float16(ScoreTokensKernel);
void score_tokens_rows_guided_float32(ScoreTokensKernel);
void score_tokens_rows_guided_bfloat16(ScoreTokensKernel);
void score_tokens_rows_guided_float16(ScoreTokensKernel);
void score_tokens_scan_float32(ScoreTokensKernel);
void score_tokens_scan_bfloat16(ScoreTokensKernel);
void score_tokens_scan_float16(ScoreTokensKernel);
void score_tokens_scan_guided_float32(ScoreTokensKernel);
void score_tokens_scan_guided_bfloat16(ScoreTokensKernel);
void score_tokens_scan_guided_float16(ScoreTokensKernel);
void score_tokens_conclude(ScoreTokensKernel);
void select_positions_rows(RowKernel<SelectPositionsParams>);
void uniform_numbers(UniformParams);
}

#define SIMT_KERNEL(kernel, ...) {#kernel, run_kernel<__VA_ARGS__, kernel>}

#define ATTENTION_ENTRY(kernel) SIMT_KERNEL(bidirectional_attention_##kernel, BidirectionalAttentionParams),
#define ATTENTION_BACKWARD_ENTRY(kernel) SIMT_KERNEL(attention_backward_##kernel, AttentionBackward),
#define LOSS_ENTRY(kernel) SIMT_KERNEL(linear_cross_entropy_##kernel, LossKernel),

namespace {

const Entry entries[] = {
    ATTENTION_KERNELS(ATTENTION_ENTRY) ATTENTION_BACKWARD_KERNELS(ATTENTION_BACKWARD_ENTRY) LOSS_KERNELS(LOSS_ENTRY)
        SIMT_KERNEL(correct_pass_rows, CorrectPassParams),
    SIMT_KERNEL(count_positions_rows, RowKernel<CountPositionsParams>),
    SIMT_KERNEL(remask_step_rows, RowKernel<RemaskStepParams>),
    SIMT_KERNEL(sampler_step_rows, RowKernel<SamplerStepParams>),
    SIMT_KERNEL(score_hidden_conclude, ScoreHiddenKernel),
    SIMT_KERNEL(score_hidden_gather, GatherRowsParams),
    SIMT_KERNEL(score_hidden_scan_float32, ScoreHiddenKernel),
    SIMT_KERNEL(score_hidden_scan_bfloat16, ScoreHiddenKernel),
    SIMT_KERNEL(score_hidden_scan_float16, ScoreHiddenKernel),
    SIMT_KERNEL(score_quality_rows_float32, ScoreQualityParams),
    SIMT_KERNEL(score_quality_rows_bfloat16, ScoreQualityParams),
    SIMT_KERNEL(score_quality_rows_float16, ScoreQualityParams),
    SIMT_KERNEL(score_tokens_rows_float32, ScoreTokensKernel),
    SIMT_KERNEL(score_tokens_rows_bfloat16, ScoreTokensKernel),
    SIMT_KERNEL(score_tokens_rows_float16, ScoreTokensKernel),
    SIMT_KERNEL(score_tokens_rows_guided_float32, ScoreTokensKernel),
    SIMT_KERNEL(score_tokens_rows_guided_bfloat16, ScoreTokensKernel),
    SIMT_KERNEL(score_tokens_rows_guided_float16, ScoreTokensKernel),
    SIMT_KERNEL(score_tokens_scan_float32, ScoreTokensKernel),
    SIMT_KERNEL(score_tokens_scan_bfloat16, ScoreTokensKernel),
    SIMT_KERNEL(score_tokens_scan_float16, ScoreTokensKernel),
    SIMT_KERNEL(score_tokens_scan_guided_float32, ScoreTokensKernel),
    SIMT_KERNEL(score_tokens_scan_guided_bfloat16, ScoreTokensKernel),
    SIMT_KERNEL(score_tokens_scan_guided_float16, ScoreTokensKernel),
    SIMT_KERNEL(score_tokens_conclude, ScoreTokensKernel),
    SIMT_KERNEL(select_positions_rows, RowKernel<SelectPositionsParams>),
    SIMT_KERNEL(uniform_numbers, UniformParams),
    {nullptr, nullptr},
};

}  // namespace
