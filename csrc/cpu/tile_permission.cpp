// Whether this process may use the tile registers of AMX. Compiled without any instruction-set flag.
#include "cpu/kernels.h"

#if defined(__linux__) && defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace mdmcorrect {

#if defined(__linux__) && defined(__x86_64__)

namespace {

bool processor_has_tiles() {
  constexpr uint32_t kBfloat16 = 1u << 22, kTiles = 1u << 24, kOsSavesStates = 1u << 27;
  uint32_t eax, ebx, ecx, edx;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & kOsSavesStates) == 0) return false;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx & kBfloat16) != 0 && (edx & kTiles) != 0;
}

bool system_saves_tiles() {
  constexpr uint32_t kConfiguration = 1u << 17, kData = 1u << 18;
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & kConfiguration) != 0 && (low & kData) != 0;
}

// Linux gives a process the registers on request (5.16 and later), to all of its threads.
bool system_permits_tiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace

bool request_tiles() { return processor_has_tiles() && system_saves_tiles() && system_permits_tiles(); }

#else

bool request_tiles() { return false; }

#endif

}  // namespace mdmcorrect
