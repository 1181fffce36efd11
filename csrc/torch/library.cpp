// Every operator's schema, in one place. Implementations are registered by csrc/torch/<op>.cpp for CPU and CUDA, fake
// kernels by mdmcorrect/ops/<op>.py.
//
// Counts, seeds, steps and calls are int64 tensors: an int would be a constant of torch.compile's graph and recompile
// it at every step. seed is [B], or [] for the one that the sequences' seeds come from (core/sequence_seed.h); k, step and
// the counts are [B] or []; call is [].
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(mdmcorrect, m) {
  // ids holds token and argmax, stats the other scores, each [wanted, B, L] in the order of TokenScore; want: a bit
  // each. temperature, top_k, top_p and guidance are [B, L] or [].
  m.def(
      "score_tokens(Tensor logits, Tensor? uncond_logits, Tensor? guidance, int shift, int want, Tensor temperature, "
      "Tensor? tokens, Tensor? rows, Tensor? positions, Tensor? top_k, Tensor? top_p, bool top_p_inclusive, "
      "bool top_p_first, Tensor? suppress, Tensor? forbid, bool proposal_law, bool probabilities, bool dense_noise, "
      "ScalarType confidence_dtype, Tensor seed, Tensor step, Tensor call) -> (Tensor ids, Tensor stats)");

  // Likewise for logits = hidden weight^T + bias; hidden is [B, L, D], row_index a list of b * L + l.
  m.def(
      "score_hidden(Tensor hidden, Tensor weight, Tensor? bias, Tensor? row_index, int want, Tensor temperature, "
      "Tensor? tokens, Tensor? positions, Tensor? top_k, Tensor? top_p, bool top_p_inclusive, bool top_p_first, "
      "Tensor? suppress, Tensor? forbid, bool proposal_law, ScalarType confidence_dtype, Tensor seed, Tensor step, "
      "Tensor call) -> (Tensor ids, Tensor stats)");

  // hidden, shift and scale are [B, L, D], the rest float32; norm: 0 none, 1 layer, 2 rms. Returns [B, L].
  m.def(
      "score_quality(Tensor hidden, Tensor weight, Tensor? bias, int norm, Tensor? norm_weight, Tensor? norm_bias, "
      "Tensor? shift, Tensor? scale, float eps, bool logit, Tensor? row_index) -> Tensor");

  m.def(
      "select_positions(Tensor scores, Tensor k, Tensor? eligible, float temperature, Tensor? positions, bool largest, "
      "Tensor seed, Tensor step, Tensor call) -> Tensor");

  // seed is [B], each sequence's own; float32 or float64 [B, L].
  m.def("uniform(Tensor seed, Tensor positions, Tensor step, int purpose, Tensor call, ScalarType dtype) -> Tensor");

  m.def("count_positions(Tensor scores, int rule, Tensor bound, Tensor? eligible, int at_least) -> Tensor");

  m.def(
      "remask_step(Tensor tokens, Tensor proposals, Tensor? unmask_score, Tensor? keep_score, Tensor? unmask_count, "
      "Tensor? remask_count, int mask_id, Tensor? fixed, Tensor? eligible, bool refill_if_short, Tensor? keep_count, "
      "Tensor? commit, Tensor? remask) -> (Tensor tokens, Tensor committed, Tensor remasked)");

  // The fields of rows, marks and plan are those of core/sampler_step_params.h, in its order; plan: the bytes of StepInts
  // and StepReals in hexadecimal digits, which take a tenth of the time of two lists to hand over; drawn: the marks of the
  // step's opening; close and open: a StepMode each.
  m.def(
      "sampler_step(Tensor rows, Tensor tokens, Tensor fixed, Tensor? block, Tensor positions, Tensor? real, "
      "Tensor commit_score, Tensor commits, Tensor? drawn, str plan, int close, int open, "
      "Tensor? token, Tensor? argmax, Tensor? confidence, Tensor? rank, Tensor? keep, Tensor? revised, "
      "Tensor? revised_logprob, Tensor? nfe, int forwards, Tensor? kept_share, Tensor? noise_scales) -> "
      "(Tensor rows, Tensor tokens, Tensor commit_score, Tensor commits, Tensor marks, Tensor time)");

  // Values are float32, bfloat16 or float16 [B, L] and come back in their type; reach is written by the first pass only,
  // the scores by the others.
  m.def(
      "correct_pass(Tensor rows, Tensor draft, Tensor fixed, Tensor? block, int mask_id, bool first, bool carry_over, "
      "Tensor proposal, Tensor? token, Tensor? earlier_token, Tensor? value_0, Tensor? earlier_0, Tensor? value_1, "
      "Tensor? earlier_1, Tensor? value_2, Tensor? earlier_2) -> (Tensor draft, Tensor reach, Tensor moved, "
      "Tensor token, Tensor value_0, Tensor value_1, Tensor value_2)");

  // q [B, Hq, Sq, D], k and v [B, Hkv, Sk, D]; mask: 0 full, 1 block_causal, 2 shadow; lse [B, Hq, Sq] float32;
  // normaliser [2, B, Hq, Sq]: its two parts as the backward needs them (core/bidirectional_attention_params.h).
  m.def(
      "bidirectional_attention(Tensor q, Tensor k, Tensor v, Tensor? starts, Tensor? lengths, Tensor? q_positions, "
      "int mask, bool hide_self, int block_size, Tensor? shadow_of, float scale) -> (Tensor out, Tensor lse, "
      "Tensor normaliser)");

  // Per row of hidden: loss (0 where the row does not count), whether no logit exceeds the target's, whether the row
  // counts; normaliser [2, N]: the largest logit, and the log of the sum of exponentials relative to it.
  m.def(
      "linear_cross_entropy(Tensor hidden, Tensor weight, Tensor targets, Tensor? bias, Tensor? suppress, "
      "Tensor? row_index, int ignore_index, float label_smoothing=0.0, float softcap=0.0) -> "
      "(Tensor losses, Tensor normaliser, Tensor correct, Tensor counted)");
  // Gradients that are not needed come back as [0].
  m.def(
      "linear_cross_entropy_backward(Tensor grad_losses, Tensor hidden, Tensor weight, Tensor targets, Tensor? bias, "
      "Tensor? suppress, Tensor? row_index, int ignore_index, Tensor normaliser, bool needs_hidden, bool needs_weight, "
      "bool needs_bias, float label_smoothing=0.0, float softcap=0.0) -> (Tensor grad_hidden, Tensor grad_weight, "
      "Tensor grad_bias)");

  m.def(
      "bidirectional_attention_backward(Tensor grad_out, Tensor? grad_lse, Tensor q, Tensor k, Tensor v, Tensor out, "
      "Tensor normaliser, Tensor? starts, Tensor? lengths, Tensor? q_positions, int mask, bool hide_self, int "
      "block_size, "
      "Tensor? shadow_of, float scale) -> (Tensor grad_q, Tensor grad_k, Tensor grad_v)");

  m.def("build_info() -> str");

  // Before anything else is called: the instruction set of attention, or of the loss. Whether it was in time.
  m.def("prefer_isa(str group, str isa) -> bool");

  // An image (cubin or fatbin) of an op's CUDA kernels, uint8 [n], for a library that was built without nvcc.
  m.def("add_cuda_image(str op, Tensor image) -> ()");

  // Loads an op's CUDA kernels on a device, for those who cannot wait at the first launch.
  m.def("load_cuda_kernels(str op, int device) -> ()");
}
