// A libcuda.so.1 that runs nothing: it writes what it is asked to standard output, one line each, for
// tests/test_cuda_driver.py. FAKE_RESULT is what cuLaunchKernel answers; images are taken to have 5 bytes
// and parameters 8.
#include <cstdio>
#include <cstdlib>

#include "cuda/driver_api.h"

using namespace mdmcorrect::cuda::api;

static int handle;
static void* current = nullptr;

extern "C" {

Result cuLibraryLoadData(Library* library, const void* image, int*, void**, unsigned, int*, void**, unsigned) {
  std::printf("load %.5s\n", static_cast<const char*>(image));
  *library = &handle;
  return kSuccess;
}

Result cuLibraryGetKernel(Kernel* kernel, Library, const char* name) {
  std::printf("kernel %s\n", name);
  *kernel = &handle;
  return kSuccess;
}

Result cuKernelSetAttribute(int attribute, int value, Kernel, Device device) {
  std::printf("attribute %d = %d on device %d\n", attribute, value, device);
  return kSuccess;
}

Result cuLaunchKernel(Kernel, unsigned x, unsigned y, unsigned z, unsigned threads_x, unsigned threads_y,
                      unsigned threads_z, unsigned shared_bytes, Stream stream, void** arguments, void** extra) {
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

Result cuGetErrorString(Result, const char** text) {
  *text = "the fake's error";
  return kSuccess;
}

}  // extern "C"
