// Which instruction set each group of kernels takes on which processor, and the measurement behind it. The first entry
// that fits counts. Where none does, a group takes the widest set that the machine runs, and nobody has measured it.
//
// An entry is for machines whose widest set is `widest`: with AMX switched off, or by a compiler that lacks a set, a
// processor is another one. To add one: run the benchmarks of docs/performance.md ("Instruction sets") once per set.
#pragma once

#include "core/config.h"

namespace mdmcorrect {

struct ModelRange {
  int first;
  int last;
};

struct ProcessorEntry {
  const char* name;
  const char* vendor;    // as cpuid spells it
  int family;            // 0: every one
  ModelRange models[3];  // {0, 0} beside the first: none
  const char* widest;
  // By KernelGroup; null: what was not compared.
  const char* rows;
  const char* hidden;
  const char* attention;
  const char* loss;
  bool measured;
  const char* source;
};

// clang-format off: a table
constexpr ProcessorEntry kProcessors[] = {
    {"AMD Zen 5", "AuthenticAMD", 26, {{0x00, 0x2f}, {0x40, 0x4f}, {0x60, 0x7f}}, "avx512_bf16",
     "avx512_bf16", "avx512_bf16", "avx512_bf16", "avx512_bf16", true,
     "docs/performance.md and docs/attention.md: bfloat16 pairs at 460 GFLOP/s a core, floats at half of that"},
    {"AMD Zen 3", "AuthenticAMD", 25, {{0x00, 0x0f}, {0x20, 0x5f}}, "avx2",
     "avx2", "avx2", "avx2", "avx2", true,
     "docs/performance.md: attention 6, linear_cross_entropy 8, score_tokens 7 times as fast as generic, no op slower"},
    {"Intel Emerald Rapids", "GenuineIntel", 6, {{0xcf, 0xcf}}, "avx512_amx",
     nullptr, nullptr, "avx512_amx", "avx512_amx", true,
     "docs/performance.md: bfloat16 attention 3.4 ms against 13 by avx512 and 22 by avx512_bf16, the loss 6.8 against 19 and 34"},
    {"Intel Emerald Rapids without AMX", "GenuineIntel", 6, {{0xcf, 0xcf}}, "avx512_bf16",
     nullptr, nullptr, "avx512", "avx512", true,
     "docs/performance.md: bfloat16 attention 13 ms against 22 by avx512_bf16, linear_cross_entropy 19 against 34"},
    {"Intel Sapphire Rapids without AMX", "GenuineIntel", 6, {{0x8f, 0x8f}}, "avx512_bf16",
     nullptr, nullptr, "avx512", "avx512", true,
     "bfloat16 attention 138 ms against 220 by avx512_bf16, linear_cross_entropy 1.1 s against 1.9, two threads"},
    // vdpbf16ps is executed alike, at half the rate of a float32 multiplication and addition, so it gains nothing.
    {"Intel with AVX512_BF16", "GenuineIntel", 0, {{0x00, 0xff}}, "avx512_bf16",
     nullptr, nullptr, "avx512", "avx512", false,
     "as on Sapphire Rapids, whose cores multiply bfloat16 pairs at the same rate"},
};
// clang-format on

}  // namespace mdmcorrect
