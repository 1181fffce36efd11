// Chooses the instruction set once per process. Compiled without any instruction-set flag: it runs on every machine.
#include <stdlib.h>

#include <string>

#include "cpu/kernels.h"

namespace mdmcorrect {

#if MDM_HAS_AVX2
namespace avx2 {
extern const CpuKernels kernel_table;
}
#endif
#if MDM_HAS_AVX512
namespace avx512 {
extern const CpuKernels kernel_table;
}
#endif
#if MDM_HAS_AVX512_BF16
namespace avx512_bf16 {
extern const CpuKernels kernel_table;
}
#endif
#if MDM_HAS_AVX512_AMX
namespace avx512_amx {
extern const CpuKernels kernel_table;
}
#endif
namespace generic {
extern const CpuKernels kernel_table;
}

namespace {

struct Isa {
  const CpuKernels* table;
  bool supported;
};

// The builtin asks the processor and the operating system (XCR0) alike.
#if MDM_HAS_AVX2
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
}
#endif
#if MDM_HAS_AVX512
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd");
}
#endif

#if MDM_HAS_AVX512_BF16
bool has_avx512_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
#endif

// Best first.
const Isa kIsas[] = {
#if MDM_HAS_AVX512_AMX
    {&avx512_amx::kernel_table, has_avx512_bf16() && request_tiles()},
#endif
#if MDM_HAS_AVX512_BF16
    {&avx512_bf16::kernel_table, has_avx512_bf16()},
#endif
#if MDM_HAS_AVX512
    {&avx512::kernel_table, has_avx512()},
#endif
#if MDM_HAS_AVX2
    {&avx2::kernel_table, has_avx2()},
#endif
    {&generic::kernel_table, true},
};

std::string names(bool only_supported) {
  std::string joined;
  for (const Isa& isa : kIsas) {
    if (only_supported && !isa.supported) continue;
    joined += (joined.empty() ? "" : " ") + std::string(isa.table->isa);
  }
  return joined;
}

const CpuKernels* choose() {
  const char* wanted = getenv("MDMCORRECT_ISA");
  if (wanted != nullptr && *wanted != '\0') return cpu_kernels_of(wanted);
  for (const Isa& isa : kIsas) {
    if (isa.supported) return isa.table;
  }
  return nullptr;
}

}  // namespace

const CpuKernels* cpu_kernels_of(const char* isa) {
  for (const Isa& candidate : kIsas) {
    if (candidate.supported && std::string(isa) == candidate.table->isa) return candidate.table;
  }
  return nullptr;
}

const CpuKernels* cpu_kernels() {
  static const CpuKernels* const chosen = choose();
  return chosen;
}

const char* isa_error() {
  static const std::string sentence = [] {
    const char* wanted = getenv("MDMCORRECT_ISA");
    return "MDMCORRECT_ISA=" + std::string(wanted == nullptr ? "" : wanted) +
           " names no instruction set this machine can run; it can run: " + names(true) + " (built: " + names(false) +
           "). Unset the variable to let the library choose.";
  }();
  return sentence.c_str();
}

const char* isas_built() {
  static const std::string joined = names(false);
  return joined.c_str();
}

const char* isas_supported() {
  static const std::string joined = names(true);
  return joined.c_str();
}

}  // namespace mdmcorrect
