#include "torch/cuda_driver.h"

#include <dlfcn.h>
#include <torch/csrc/stable/library.h>

#include <map>
#include <mutex>
#include <stdexcept>
#include <vector>

namespace mdmcorrect {

namespace {

// ---- the driver's functions and numbers, as cuda.h of CUDA 12 and later declares them ----

using CUresult = int;
using CUdevice = int;
using CUcontext = void*;
using CUlibrary = void*;
using CUkernel = void*;

constexpr CUresult kSuccess = 0, kNoBinaryForGpu = 209, kUnsupportedPtx = 222;
constexpr int kMaxDynamicSharedBytes = 8;  // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
constexpr unsigned kSharedBytesOfEveryLaunch = 48 * 1024;

struct Driver {
  CUresult (*library_load)(CUlibrary*, const void* image, int* options, void** values, unsigned count,
                           int* library_options, void** library_values, unsigned library_count);
  CUresult (*library_kernel)(CUkernel*, CUlibrary, const char* name);
  CUresult (*kernel_set)(int attribute, int value, CUkernel, CUdevice);
  CUresult (*launch)(CUkernel, unsigned x, unsigned y, unsigned z, unsigned threads_x, unsigned threads_y,
                     unsigned threads_z, unsigned shared, void* stream, void** arguments, void** extra);
  CUresult (*current_context)(CUcontext*);
  CUresult (*set_context)(CUcontext);
  CUresult (*retain_primary)(CUcontext*, CUdevice);
  CUresult (*error_text)(CUresult, const char**);
};

template <class Function>
bool find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

// Null where there is no driver, or one older than CUDA 12.
const Driver* driver() {
  static const Driver* found = []() -> const Driver* {
    void* library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    static Driver functions;
    const bool complete = library != nullptr && find(library, "cuLibraryLoadData", &functions.library_load) &&
                          find(library, "cuLibraryGetKernel", &functions.library_kernel) &&
                          find(library, "cuKernelSetAttribute", &functions.kernel_set) &&
                          find(library, "cuLaunchKernel", &functions.launch) &&
                          find(library, "cuCtxGetCurrent", &functions.current_context) &&
                          find(library, "cuCtxSetCurrent", &functions.set_context) &&
                          find(library, "cuDevicePrimaryCtxRetain", &functions.retain_primary) &&
                          find(library, "cuGetErrorString", &functions.error_text);
    return complete ? &functions : nullptr;
  }();
  return found;
}

[[noreturn]] void fail(const std::string& op, const std::string& what) {
  throw std::runtime_error("mdmcorrect::" + op + ": " + what);
}

void require(CUresult result, const char* op, const char* function) {
  if (result == kSuccess) return;
  const char* text = nullptr;
  if (driver()->error_text(result, &text) != kSuccess || text == nullptr) text = "unknown error";
  std::string sentence = std::string(function) + " says: " + text;
  if (result == kNoBinaryForGpu) {
    sentence += " (rebuild with MDMCORRECT_CUDA_ARCHS naming this device's architecture; `mdmcorrect doctor` names it)";
  }
  if (result == kUnsupportedPtx) sentence += " (a build with nvcc 13 needs driver 580 or newer)";
  fail(op, sentence + ".");
}

// ---- torch's stream ----

using GetCurrentStream = int32_t (*)(int32_t device, void** stream);

// A CPU torch lacks this function and the stable ABI at 2.10 gives no native handle. A CUDA tensor can only come from a
// CUDA torch, and then its library is in the process.
void* current_stream(const char* op, int32_t device) {
  static const GetCurrentStream get = []() -> GetCurrentStream {
    void* library = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY);
    if (library == nullptr) return nullptr;
    return reinterpret_cast<GetCurrentStream>(dlsym(library, "aoti_torch_get_current_cuda_stream"));
  }();
  void* stream = nullptr;
  if (get == nullptr || get(device, &stream) != 0) {
    fail(op, "torch did not give the current CUDA stream of device " + std::to_string(device) + ".");
  }
  return stream;
}

// ---- images and kernels ----

// What is loaded, for the life of the process: kernels of the driver's libraries belong to every context.
struct Kernels {
  std::mutex mutex;
  std::map<std::string, std::vector<unsigned char>> added;  // op -> image
  std::map<std::string, CUlibrary> libraries;               // op -> loaded image
  std::map<std::string, CUkernel> found;                    // kernel's name -> kernel
};

Kernels& kernels() {
  static Kernels* const all = new Kernels;  // never destroyed: a thread may outlive static destruction
  return *all;
}

const void* image_of(const Kernels& all, const std::string& op) {
  const auto added = all.added.find(op);
  if (added != all.added.end()) return added->second.data();
  for (const CudaImage* image = embedded_images(); image->op != nullptr; ++image) {
    if (op == image->op) return image->data;
  }
  return nullptr;
}

CUkernel find_kernel(const char* op, const char* name) {
  Kernels& all = kernels();
  const std::lock_guard<std::mutex> lock(all.mutex);
  CUkernel& kernel = all.found[name];
  if (kernel != nullptr) return kernel;
  CUlibrary& library = all.libraries[op];
  if (library == nullptr) {
    const void* image = image_of(all, op);
    if (image == nullptr) throw_no_cuda_kernel(op);
    require(driver()->library_load(&library, image, nullptr, nullptr, 0, nullptr, nullptr, 0), op, "cuLibraryLoadData");
  }
  require(driver()->library_kernel(&kernel, library, name), op, "cuLibraryGetKernel");
  return kernel;
}

void add_image(std::string op, const Tensor& image) {
  check(image.dim() == 1 && image.scalar_type() == ScalarType::Byte && image.is_cpu() && image.is_contiguous(),
        "add_cuda_image", "image: expected contiguous uint8 [n] on the CPU, got ", shape_of(image));
  add_cuda_image(op, image.const_data_ptr(), static_cast<size_t>(image.numel()));
}

}  // namespace

void add_cuda_image(const std::string& op, const void* data, size_t size) {
  Kernels& all = kernels();
  const std::lock_guard<std::mutex> lock(all.mutex);
  if (all.libraries.count(op) != 0) fail(op, "its CUDA kernels are in use already and cannot be replaced.");
  const auto* bytes = static_cast<const unsigned char*>(data);
  all.added[op].assign(bytes, bytes + size);
}

CudaLauncher::CudaLauncher(const char* op, const Tensor& tensor)
    : op_(op), guard_(tensor.get_device_index()), device_(tensor.get_device_index()), stream_(nullptr) {
  if (driver() == nullptr) {
    fail(op, "no NVIDIA driver (libcuda.so.1) for CUDA 12 or newer was found; `mdmcorrect doctor` says more.");
  }
  stream_ = current_stream(op, device_);
  // The runtime that torch uses makes a thread's first context current lazily; the driver does not.
  CUcontext context = nullptr;
  require(driver()->current_context(&context), op, "cuCtxGetCurrent");
  if (context == nullptr) {
    require(driver()->retain_primary(&context, device_), op, "cuDevicePrimaryCtxRetain");
    require(driver()->set_context(context), op, "cuCtxSetCurrent");
  }
}

void CudaLauncher::launch(const cuda::Launch& launch, const void* params, size_t) {
  const CUkernel kernel = find_kernel(op_, launch.kernel);
  if (launch.dynamic_bytes > kSharedBytesOfEveryLaunch) {
    require(driver()->kernel_set(kMaxDynamicSharedBytes, static_cast<int>(launch.dynamic_bytes), kernel, device_), op_,
            "cuKernelSetAttribute");
  }
  void* arguments[] = {const_cast<void*>(params)};  // the driver reads it only
  require(driver()->launch(kernel, launch.blocks_x, launch.blocks_y, 1, launch.threads, 1, 1, launch.dynamic_bytes,
                           stream_, arguments, nullptr),
          op_, "cuLaunchKernel");
}

}  // namespace mdmcorrect

STABLE_TORCH_LIBRARY_IMPL(mdmcorrect, CompositeExplicitAutograd, m) {
  m.impl("add_cuda_image", TORCH_BOX(&mdmcorrect::add_image));
}
