// Compiles if cuda/driver_api.h says what cuda.h says: the same numbers, functions of the same shape.
#include <cuda.h>

#include <type_traits>

#include "cuda/driver_api.h"

using namespace mdmcorrect::cuda;

static_assert(api::kSuccess == CUDA_SUCCESS);
static_assert(api::kNoBinaryForGpu == CUDA_ERROR_NO_BINARY_FOR_GPU);
static_assert(api::kUnsupportedPtx == CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
static_assert(api::kCaptureUnsupported == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
static_assert(api::kRelaxedCapture == CU_STREAM_CAPTURE_MODE_RELAXED);
static_assert(api::kMaxDynamicSharedBytes == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
static_assert(api::kMultiprocessorCount == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);

// Passed alike: both pointers, or both integers (enums among them) of the same size.
template <class A, class B>
constexpr bool alike = sizeof(A) == sizeof(B) && std::is_pointer_v<A> == std::is_pointer_v<B>;

template <class Ours, class Theirs>
struct Same : std::false_type {};
template <class R, class... A, class S, class... B>
struct Same<R(A...), S(B...)> {
  static constexpr bool value = [] {
    if constexpr (sizeof...(A) == sizeof...(B)) return alike<R, S> && (alike<A, B> && ...);
    return false;
  }();
};

static_assert(Same<api::LibraryLoadData, decltype(cuLibraryLoadData)>::value);
static_assert(Same<api::LibraryGetKernel, decltype(cuLibraryGetKernel)>::value);
static_assert(Same<api::KernelSetAttribute, decltype(cuKernelSetAttribute)>::value);
static_assert(Same<api::LaunchKernel, decltype(cuLaunchKernel)>::value);
static_assert(Same<api::CtxGetCurrent, decltype(cuCtxGetCurrent)>::value);
static_assert(Same<api::CtxSetCurrent, decltype(cuCtxSetCurrent)>::value);
static_assert(Same<api::DevicePrimaryCtxRetain, decltype(cuDevicePrimaryCtxRetain)>::value);
static_assert(Same<api::DeviceGetAttribute, decltype(cuDeviceGetAttribute)>::value);
static_assert(Same<api::GetErrorString, decltype(cuGetErrorString)>::value);
static_assert(Same<api::ThreadExchangeStreamCaptureMode, decltype(cuThreadExchangeStreamCaptureMode)>::value);
static_assert(Same<api::KernelGetFunction, decltype(cuKernelGetFunction)>::value);
#if CUDA_VERSION >= 12040
static_assert(Same<api::LibraryGetKernelCount, decltype(cuLibraryGetKernelCount)>::value);
static_assert(Same<api::LibraryEnumerateKernels, decltype(cuLibraryEnumerateKernels)>::value);
static_assert(Same<api::FuncLoad, decltype(cuFuncLoad)>::value);
#endif
static_assert(!Same<api::CtxSetCurrent, decltype(cuDevicePrimaryCtxRetain)>::value);
