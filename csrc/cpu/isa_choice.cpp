// Compiled without any instruction-set flag: it runs on every machine.
#include "cpu/isa_choice.h"

#include <stdlib.h>

#include <iterator>
#include <sstream>

#include "cpu/measured_processors.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace mdmcorrect {

namespace {

constexpr KernelGroup kGroups[] = {KernelGroup::rows, KernelGroup::hidden, KernelGroup::attention, KernelGroup::loss};

bool has_word(const std::string& words, const std::string& wanted) {
  std::istringstream in(words);
  for (std::string word; in >> word;) {
    if (word == wanted) return true;
  }
  return false;
}

bool fits(const ProcessorEntry& entry, const Processor& processor, const std::string& widest) {
  if (processor.vendor != entry.vendor || widest != entry.widest) return false;
  if (entry.family != 0 && processor.family != entry.family) return false;
  for (const ModelRange& range : entry.models) {
    const bool none = &range != entry.models && range.last == 0;
    if (!none && processor.model >= range.first && processor.model <= range.last) return true;
  }
  return false;
}

const char* set_of(const ProcessorEntry& entry, KernelGroup group) {
  switch (group) {
    case KernelGroup::hidden:
      return entry.hidden;
    case KernelGroup::attention:
      return entry.attention;
    case KernelGroup::loss:
      return entry.loss;
    default:
      return entry.rows;
  }
}

// By KernelGroup; empty: no preference. Written before anything is chosen.
IsaChoice preferred[std::size(kGroups)];
bool chosen = false;

IsaChoice choose_here(KernelGroup group) {
  chosen = true;
  const char* wanted = getenv("MDMCORRECT_ISA");
  if (wanted != nullptr && *wanted != '\0') return {wanted, false, "MDMCORRECT_ISA"};
  const IsaChoice& preference = preferred[static_cast<int>(group)];
  if (has_word(isas_supported(), preference.isa)) return preference;
  return choose_isa(this_processor(), isas_supported(), group);
}

}  // namespace

Processor this_processor() {
  Processor processor{"", 0, 0};
#if defined(__x86_64__)
  uint32_t eax = 0, words[3] = {};  // ebx, edx, ecx hold the name in this order
  if (__get_cpuid(0, &eax, &words[0], &words[2], &words[1]) != 0) {
    processor.vendor.assign(reinterpret_cast<const char*>(words), sizeof(words));
  }
  uint32_t ebx, ecx, edx;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0) {
    const int family = static_cast<int>(eax >> 8 & 15), model = static_cast<int>(eax >> 4 & 15);
    processor.family = family == 15 ? family + static_cast<int>(eax >> 20 & 255) : family;
    processor.model = family == 6 || family == 15 ? model + static_cast<int>(eax >> 12 & 0xf0) : model;
  }
#endif
  return processor;
}

IsaChoice choose_isa(const Processor& processor, const std::string& isas, KernelGroup group) {
  const std::string widest = isas.substr(0, isas.find(' '));
  for (const ProcessorEntry& entry : kProcessors) {
    if (!fits(entry, processor, widest)) continue;
    const char* isa = set_of(entry, group);
    if (isa == nullptr || !has_word(isas, isa)) continue;
    return {isa, entry.measured, std::string(entry.name) + ": " + entry.source};
  }
  return {widest, false, "the widest this machine runs"};
}

bool prefer_isa(KernelGroup group, const std::string& isa, const std::string& why) {
  if (!chosen) preferred[static_cast<int>(group)] = {isa, true, why};
  return !chosen;
}

const IsaChoice& isa_choice(KernelGroup group) {
  static const IsaChoice choices[] = {choose_here(kGroups[0]), choose_here(kGroups[1]), choose_here(kGroups[2]),
                                      choose_here(kGroups[3])};
  return choices[static_cast<int>(group)];
}

const CpuKernels* cpu_kernels_of(KernelGroup group) {
  static const CpuKernels* const kernels[] = {
      cpu_kernels_of(isa_choice(kGroups[0]).isa.c_str()), cpu_kernels_of(isa_choice(kGroups[1]).isa.c_str()),
      cpu_kernels_of(isa_choice(kGroups[2]).isa.c_str()), cpu_kernels_of(isa_choice(kGroups[3]).isa.c_str())};
  return kernels[static_cast<int>(group)];
}

KernelGroup group_of(const std::string& op) {
  if (op == "score_hidden") return KernelGroup::hidden;
  if (op == "linear_cross_entropy") return KernelGroup::loss;
  if (op.rfind("bidirectional_attention", 0) == 0) return KernelGroup::attention;
  return KernelGroup::rows;
}

}  // namespace mdmcorrect
