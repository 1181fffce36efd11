// A libcuda.so.1 that runs nothing: it writes what it is asked to standard output, one line each, for
// tests/test_cuda_driver.py. Images are taken to have 5 bytes and two kernels, parameters 8 bytes. FAKE_RESULT is what
// cuLaunchKernel answers. With FAKE_CAPTURE a CUDA graph is being captured, so loading code is refused unless the thread
// has relaxed that. Compiled with -DOLD it lacks what CUDA 12.4 brought.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cuda/driver_api.h"

using namespace mdmcorrect::cuda::api;

static int handle;
static void* current = nullptr;
static int capture_mode = 0;  // CU_STREAM_CAPTURE_MODE_GLOBAL

struct FakeKernel {
  const char* name;
  bool loaded;
};
static FakeKernel kernels[] = {{"op_kernel", false}, {"op_other", false}};

static bool refused() { return std::getenv("FAKE_CAPTURE") != nullptr && capture_mode != kRelaxedCapture; }

extern "C" {

Result cuLibraryLoadData(Library* library, const void* image, int*, void**, unsigned, int*, void**, unsigned) {
  if (refused()) return kCaptureUnsupported;
  std::printf("load %.5s\n", static_cast<const char*>(image));
  *library = &handle;
  return kSuccess;
}

Result cuLibraryGetKernel(Kernel* kernel, Library, const char* name) {
  std::printf("kernel %s\n", name);
  for (FakeKernel& each : kernels) {
    if (std::strcmp(each.name, name) == 0) *kernel = &each;
  }
  return kSuccess;
}

#ifndef OLD
Result cuLibraryGetKernelCount(unsigned* count, Library) {
  *count = sizeof(kernels) / sizeof(kernels[0]);
  return kSuccess;
}

Result cuLibraryEnumerateKernels(Kernel* found, unsigned count, Library) {
  for (unsigned i = 0; i < count; ++i) found[i] = &kernels[i];
  return kSuccess;
}

Result cuKernelGetFunction(Function* function, Kernel kernel) {
  *function = kernel;
  return kSuccess;
}

Result cuFuncLoad(Function function) {
  if (refused()) return kCaptureUnsupported;
  auto* kernel = static_cast<FakeKernel*>(function);
  std::printf("function %s\n", kernel->name);
  kernel->loaded = true;
  return kSuccess;
}
#endif

Result cuThreadExchangeStreamCaptureMode(int* mode) {
  const int before = capture_mode;
  capture_mode = *mode;
  *mode = before;
  return kSuccess;
}

Result cuKernelSetAttribute(int attribute, int value, Kernel, Device device) {
  std::printf("attribute %d = %d on device %d\n", attribute, value, device);
  return kSuccess;
}

Result cuLaunchKernel(Kernel kernel, unsigned x, unsigned y, unsigned z, unsigned threads_x, unsigned threads_y,
                      unsigned threads_z, unsigned shared_bytes, Stream stream, void** arguments, void** extra) {
  if (!static_cast<FakeKernel*>(kernel)->loaded && refused()) return kCaptureUnsupported;
  if (capture_mode == kRelaxedCapture) std::printf("still relaxed\n");
  std::printf("launch %u %u %u, %u %u %u, %u bytes, stream %zu, %.8s, %s\n", x, y, z, threads_x, threads_y, threads_z,
              shared_bytes, reinterpret_cast<size_t>(stream), static_cast<const char*>(arguments[0]),
              extra == nullptr ? "no extra" : "extra");
  const char* result = std::getenv("FAKE_RESULT");
  return result == nullptr ? kSuccess : std::atoi(result);
}

Result cuCtxGetCurrent(Context* context) {
  *context = current;
  return kSuccess;
}

Result cuCtxSetCurrent(Context context) {
  std::printf("current\n");
  current = context;
  return kSuccess;
}

Result cuDevicePrimaryCtxRetain(Context* context, Device device) {
  std::printf("retain %d\n", device);
  *context = &handle;
  return kSuccess;
}

Result cuDeviceGetAttribute(int* value, int attribute, Device) {
  *value = attribute == kMultiprocessorCount ? 132 : 0;
  return kSuccess;
}

Result cuGetErrorString(Result, const char** text) {
  *text = "the fake's error";
  return kSuccess;
}

}  // extern "C"
