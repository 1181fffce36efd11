// mdmcorrect::build_info() -> str: what this library is, as JSON, for mdmcorrect/_native.py and `mdmcorrect doctor`.
#include <torch/csrc/stable/library.h>

#include <sstream>
#include <string>

#include "torch/checks.h"

#ifndef MDM_CUDA_VERSION
#define MDM_CUDA_VERSION ""
#define MDM_CUDA_ARCHS ""
#define MDM_CUDA_OPS ""
#endif

namespace mdmcorrect {
namespace {

std::string json_string(const std::string& text) { return '"' + text + '"'; }

// "a b c" -> ["a", "b", "c"]
std::string list(const std::string& words) {
  std::istringstream in(words);
  std::string word, out;
  while (in >> word) out += (out.empty() ? "" : ", ") + json_string(word);
  return '[' + out + ']';
}

#if defined(__clang__)
constexpr const char* kCompiler = "clang " __clang_version__;
#elif defined(__GNUC__)
constexpr const char* kCompiler = "gcc " __VERSION__;
#else
constexpr const char* kCompiler = "unknown";
#endif

// For each op: the instruction set of its CPU kernels, whether a measurement decided, and why.
std::string choices() {
  std::istringstream in(MDM_OPS);
  std::string op, out;
  while (in >> op) {
    const IsaChoice& choice = isa_choice(group_of(op));
    out += (out.empty() ? "" : ", ") + json_string(op) + ": {\"isa\": " + json_string(choice.isa) +
           ", \"measured\": " + (choice.measured ? "true" : "false") + ", \"why\": " + json_string(choice.why) + "}";
  }
  return '{' + out + '}';
}

std::string build_info() {
  const Processor processor = this_processor();
  chosen_kernels(KernelGroup::rows);  // throws where MDMCORRECT_ISA names nothing that runs here
  std::ostringstream out;
  out << "{\"version\": " << json_string(MDM_VERSION) << ", \"compiler\": " << json_string(kCompiler)
      << ", \"torch_target\": " << json_string("2.10") << ", \"isas_built\": " << list(isas_built())
      << ", \"isas_supported\": " << list(isas_supported())
      << ", \"isa\": " << json_string(isa_choice(KernelGroup::rows).isa) << ", \"isa_choices\": " << choices()
      << ", \"processor\": {\"vendor\": " << json_string(processor.vendor) << ", \"family\": " << processor.family
      << ", \"model\": " << processor.model << "}"
      << ", \"ops\": " << list(MDM_OPS) << ", \"cuda_version\": " << json_string(MDM_CUDA_VERSION)
      << ", \"cuda_archs\": " << list(MDM_CUDA_ARCHS) << ", \"cuda_ops\": " << list(MDM_CUDA_OPS) << "}";
  return out.str();
}

// What scores and draws has its set from the table alone: their bits are not a matter of what a machine was doing.
bool prefer(std::string group, std::string isa) {
  const bool attention = group == "attention";
  check(attention || group == "loss", "prefer_isa", "group: expected attention or loss, got ", group);
  return prefer_isa(attention ? KernelGroup::attention : KernelGroup::loss, isa, "mdmcorrect tune");
}

}  // namespace
}  // namespace mdmcorrect

STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CompositeExplicitAutograd, m) {
  m.impl("build_info", TORCH_BOX(&mdmcorrect::build_info));
  m.impl("prefer_isa", TORCH_BOX(&mdmcorrect::prefer));
}
