// The CPU kernels, one function per op, and the table that holds those of one instruction set.
//
// A kernel works on rows [begin, end) of what its params describe, in one thread. It never throws, allocates nothing
// (what it needs as scratch is handed in), and instantiates no std template: see core/config.h.
#pragma once

#include "core/bidirectional_attention_params.h"
#include "core/config.h"
#include "core/correct_pass_params.h"
#include "core/count_positions_params.h"
#include "core/linear_cross_entropy_params.h"
#include "core/remask_step_params.h"
#include "core/sampler_step_params.h"
#include "core/score_hidden_params.h"
#include "core/score_quality_params.h"
#include "core/score_tokens_params.h"
#include "core/select_positions_params.h"
#include "core/uniform_params.h"

namespace mdmcorrect {

struct CpuKernels {
  const char* isa;
  // scratch: 6 * length + 64 words.
  void (*select_positions)(const SelectPositionsParams&, int64_t begin, int64_t end, uint64_t* scratch);
  // scratch: length words.
  void (*uniform)(const UniformParams&, int64_t begin, int64_t end, uint64_t* scratch);
  // scratch: 6 * length + 64 words.
  void (*count_positions)(const CountPositionsParams&, int64_t begin, int64_t end, uint64_t* scratch);
  // scratch: 6 * length + 64 words.
  void (*remask_step)(const RemaskStepParams&, int64_t begin, int64_t end, uint64_t* scratch);
  // scratch: 2 * length + 64 words.
  void (*sampler_step)(const SamplerStepParams&, int64_t begin, int64_t end, uint64_t* scratch);
  void (*correct_pass)(const CorrectPassParams&, int64_t begin, int64_t end, uint64_t* scratch);
  // Rows are params.row_index[begin, end). scratch: 2 * vocab + vocab / 1024 + 64 words with top_k or top_p, else none.
  void (*score_tokens)(const ScoreTokensParams&, int64_t begin, int64_t end, uint64_t* scratch);
  // Rows as score_tokens, without filters.
  void (*score_hidden)(const ScoreHiddenParams&, int64_t begin, int64_t end);
  int64_t (*score_hidden_state_words)();  // what a row's state takes
  // Units of 48 ids [begin, end), with bfloat16_pairs only. scratch: 1152 + 3 * size words.
  void (*hidden_product)(const HiddenProductParams&, int64_t begin, int64_t end, uint64_t* scratch);
  // Rows are params.row_index[begin, end). scratch: 2 * size + 32 words.
  void (*score_quality)(const ScoreQualityParams&, int64_t begin, int64_t end, uint64_t* scratch);
  // Tiles params.tiles[begin, end). scratch: 192 * width + 4112 words.
  void (*bidirectional_attention)(const BidirectionalAttentionParams&, int64_t begin, int64_t end, uint64_t* scratch);
  // Heads params.heads[begin, end). scratch: keys * width + 256 * width + 7184 words.
  void (*bidirectional_attention_backward)(const BidirectionalAttentionBackwardParams&, int64_t begin, int64_t end,
                                           uint64_t* scratch);
  // scratch, where a phase takes it: a slice of 32 values, then one of D words, each of at most 8 bytes.
  void (*linear_cross_entropy)(const LinearCrossEntropyParams&, LinearCrossEntropyPhase, int64_t begin, int64_t end,
                               uint64_t* scratch);
  bool bfloat16_pairs;  // bfloat16 is multiplied in pairs
  // For tests: the vector functions on arrays, count a multiple of 16.
  void (*exp_nonpositive_array)(const float* x, float* y, int64_t count);
  void (*scaled_exp_array)(const float* x, float* y, int64_t count);  // of scale 1
  void (*log_array)(const float* x, float* y, int64_t count);
  void (*tanh_array)(const float* x, float* y, int64_t count);
  void (*exponential_array)(const float* u, float* y, int64_t count);
  // For benchmarks: products of words from the first-level cache; returns how many multiplications and additions that
  // were, 0 if there are no bfloat16 pairs.
  int64_t (*multiply_probe)(bool bfloat16_pairs, int64_t repeats);
};

// The table for this process: the best instruction set of the machine, or the one MDMCORRECT_ISA names. Null if that
// variable names one this build or machine lacks; isa_error() then says so in a sentence.
const CpuKernels* cpu_kernels();
const char* isa_error();

// Whether the machine has the tile registers of AMX and the system lets this process use them, which is asked of it here.
bool request_tiles();

// Names, space separated: what was compiled in, and what this machine can run of it.
const char* isas_built();
const char* isas_supported();
// The table of one instruction set, or null if it is not built or the machine cannot run it.
const CpuKernels* cpu_kernels_of(const char* isa);

}  // namespace mdmcorrect

namespace MDM_NAMESPACE {

extern const CpuKernels kernel_table;

void select_positions(const SelectPositionsParams& params, int64_t begin, int64_t end, uint64_t* scratch);
void uniform(const UniformParams& params, int64_t begin, int64_t end, uint64_t* scratch);
void count_positions(const CountPositionsParams& params, int64_t begin, int64_t end, uint64_t* scratch);
void remask_step(const RemaskStepParams& params, int64_t begin, int64_t end, uint64_t* scratch);
void sampler_step(const SamplerStepParams& params, int64_t begin, int64_t end, uint64_t* scratch);
void correct_pass(const CorrectPassParams& params, int64_t begin, int64_t end, uint64_t* scratch);
void score_tokens(const ScoreTokensParams& params, int64_t begin, int64_t end, uint64_t* scratch);
void score_hidden(const ScoreHiddenParams& params, int64_t begin, int64_t end);
int64_t score_hidden_state_words();
void hidden_product(const HiddenProductParams& params, int64_t begin, int64_t end, uint64_t* scratch);
void score_quality(const ScoreQualityParams& params, int64_t begin, int64_t end, uint64_t* scratch);
void bidirectional_attention(const BidirectionalAttentionParams& params, int64_t begin, int64_t end, uint64_t* scratch);
void linear_cross_entropy(const LinearCrossEntropyParams& params, LinearCrossEntropyPhase phase, int64_t begin,
                          int64_t end, uint64_t* scratch);
void bidirectional_attention_backward(const BidirectionalAttentionBackwardParams& params, int64_t begin, int64_t end,
                                      uint64_t* scratch);
void exp_nonpositive_array(const float* x, float* y, int64_t count);
void scaled_exp_array(const float* x, float* y, int64_t count);
void log_array(const float* x, float* y, int64_t count);
void tanh_array(const float* x, float* y, int64_t count);
void exponential_array(const float* u, float* y, int64_t count);
int64_t multiply_probe(bool bfloat16_pairs, int64_t repeats);

}  // namespace MDM_NAMESPACE
