// Namespace and function attributes of every torch-free header, whoever compiles it: g++, nvcc or NVRTC.
//
// The kernels of csrc/cpu are compiled once per instruction set into one library. An inline function with the same
// mangled name in two of those objects would be merged by the linker, and the generic kernel could end up running
// AVX-512 code. So everything that has code lives in MDM_NAMESPACE, which differs per instruction set:
//   mdmcorrect::generic, ::avx2, ::avx512, ::avx512_bf16, ::avx512_amx    csrc/cpu, compiled with -DMDM_ISA=...
//   mdmcorrect::portable                                      everything else: csrc/torch, csrc/host, csrc/cuda
// Plain data without member functions (the *_params.h structs) lives in mdmcorrect itself and is shared.
#pragma once

#if defined(__CUDACC_RTC__)
using int32_t = int;
using uint8_t = unsigned char;
using uint16_t = unsigned short;
using uint32_t = unsigned int;
using int64_t = long long;
using uint64_t = unsigned long long;
// Builtins that NVRTC lacks.
#define __builtin_inff() __int_as_float(0x7f800000)
#define __builtin_inf() __longlong_as_double(0x7ff0000000000000)
#define __builtin_nanf(text) __int_as_float(0x7fc00000)
#define __builtin_nan(text) __longlong_as_double(0x7ff8000000000000)
#else
#include <stdint.h>
#endif

#ifndef MDM_ISA
#define MDM_ISA portable
#endif
#define MDM_NAMESPACE mdmcorrect::MDM_ISA

#define MDM_STRINGIZE_(x) #x
#define MDM_STRINGIZE(x) MDM_STRINGIZE_(x)
#define MDM_ISA_NAME MDM_STRINGIZE(MDM_ISA)

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define MDM_INLINE __host__ __device__ __forceinline__ static
#define MDM_METHOD __host__ __device__ __forceinline__
#else
#define MDM_INLINE __attribute__((always_inline)) static inline
#define MDM_METHOD __attribute__((always_inline)) inline
#endif
