// Which instruction set each group of kernels takes: the one that MDMCORRECT_ISA names for all, else what a user had
// measured (`mdmcorrect tune`), else by the table in measured_processors.h. Nothing is timed here: a choice must not
// depend on what else a machine does, for bits depend on it.
#pragma once

#include <string>

#include "cpu/kernels.h"

namespace mdmcorrect {

// What is taken from one set together, for one part reads what another made.
enum class KernelGroup {
  rows,       // statistics, positions, random numbers: no products of matrices
  hidden,     // score_hidden
  attention,  // forward and backward
  loss,       // linear_cross_entropy
};

struct Processor {
  std::string vendor;
  int family;
  int model;
};

struct IsaChoice {
  std::string isa;
  bool measured;
  std::string why;
};

Processor this_processor();

// isas: names of sets that the machine runs, the widest first, space separated.
IsaChoice choose_isa(const Processor& processor, const std::string& isas, KernelGroup group);

// A set that the machine runs, for one group in place of the table's; "why" is for doctor. Says whether it was in time:
// a group that was asked for keeps its set.
bool prefer_isa(KernelGroup group, const std::string& isa, const std::string& why);

// This process' choice, MDMCORRECT_ISA included.
const IsaChoice& isa_choice(KernelGroup group);

// Null where MDMCORRECT_ISA names a set this build or machine lacks; isa_error() then says so in a sentence.
const CpuKernels* cpu_kernels_of(KernelGroup group);

KernelGroup group_of(const std::string& op);

}  // namespace mdmcorrect
