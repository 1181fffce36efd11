// Compiled once per instruction set: the table of that set's kernels, in the order of CpuKernels.
#include "cpu/kernels.h"

namespace MDM_NAMESPACE {

const CpuKernels kernel_table = {
    MDM_ISA_NAME,          select_positions, count_positions,          remask_step,
    score_tokens,          score_hidden,     score_hidden_state_words, bidirectional_attention,
    exp_nonpositive_array, log_array,        exponential_array,        multiply_probe,
};

}  // namespace MDM_NAMESPACE
