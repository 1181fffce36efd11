// The functions of NVIDIA's driver that we call, as cuda.h of CUDA 12 and later declares them, and a few of its numbers.
// Written out so that nothing of CUDA is needed to build; tests/test_cuda_driver.py holds them against cuda.h.
#pragma once

namespace mdmcorrect::cuda::api {

using Result = int;  // CUresult
using Device = int;  // CUdevice
using Context = void*;
using Library = void*;
using Kernel = void*;
using Function = void*;  // a kernel in one context
using Stream = void*;

constexpr Result kSuccess = 0;               // CUDA_SUCCESS
constexpr Result kNoBinaryForGpu = 209;      // CUDA_ERROR_NO_BINARY_FOR_GPU
constexpr Result kUnsupportedPtx = 222;      // CUDA_ERROR_UNSUPPORTED_PTX_VERSION
constexpr Result kCaptureUnsupported = 900;  // CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
constexpr int kRelaxedCapture = 2;           // CU_STREAM_CAPTURE_MODE_RELAXED
constexpr int kMaxDynamicSharedBytes = 8;    // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
constexpr int kMultiprocessorCount = 16;     // CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT

using LibraryLoadData = Result(Library*, const void* image, int* options, void** values, unsigned count,
                               int* library_options, void** library_values, unsigned library_count);
using LibraryGetKernel = Result(Kernel*, Library, const char* name);
using KernelSetAttribute = Result(int attribute, int value, Kernel, Device);
using LaunchKernel = Result(Kernel, unsigned blocks_x, unsigned blocks_y, unsigned blocks_z, unsigned threads_x,
                            unsigned threads_y, unsigned threads_z, unsigned shared_bytes, Stream, void** arguments,
                            void** extra);
using CtxGetCurrent = Result(Context*);
using CtxSetCurrent = Result(Context);
using DevicePrimaryCtxRetain = Result(Context*, Device);
using DeviceGetAttribute = Result(int* value, int attribute, Device);
using GetErrorString = Result(Result, const char**);
using ThreadExchangeStreamCaptureMode = Result(int* mode);
using KernelGetFunction = Result(Function*, Kernel);
// Since CUDA 12.4.
using LibraryGetKernelCount = Result(unsigned* count, Library);
using LibraryEnumerateKernels = Result(Kernel*, unsigned count, Library);
using FuncLoad = Result(Function);

}  // namespace mdmcorrect::cuda::api
