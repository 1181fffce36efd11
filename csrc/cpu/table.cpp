// Compiled once per instruction set: the table of that set's kernels, in the order of CpuKernels.
#include "cpu/kernels.h"

namespace MDM_NAMESPACE {

#if defined(__AVX512BF16__)
constexpr bool kBfloat16Pairs = true;
#else
constexpr bool kBfloat16Pairs = false;
#endif

// clang-format off: one a line
const CpuKernels kernel_table = {
    MDM_ISA_NAME,
    select_positions,
    uniform,
    count_positions,
    remask_step,
    sampler_step,
    correct_pass,
    score_tokens,
    score_hidden,
    score_hidden_state_words,
    hidden_product,
    score_quality,
    bidirectional_attention,
    bidirectional_attention_backward,
    linear_cross_entropy,
    kBfloat16Pairs,
    exp_nonpositive_array, scaled_exp_array,
    log_array,
    tanh_array,
    exponential_array,
    multiply_probe,
};
// clang-format on

}  // namespace MDM_NAMESPACE
