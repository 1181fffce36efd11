#include "cuda/driver.h"

#include <dlfcn.h>

#include <map>
#include <mutex>
#include <set>
#include <stdexcept>
#include <utility>
#include <vector>

#include "cuda/driver_api.h"

namespace mdmcorrect::cuda {

namespace {

constexpr unsigned kSharedBytesOfEveryLaunch = 48 * 1024;  // more must be asked for

struct Driver {
  api::LibraryLoadData* load_library;
  api::LibraryGetKernel* get_kernel;
  api::KernelSetAttribute* set_attribute;
  api::LaunchKernel* launch;
  api::CtxGetCurrent* get_context;
  api::CtxSetCurrent* set_context;
  api::DevicePrimaryCtxRetain* retain_context;
  api::DeviceGetAttribute* device_attribute;
  api::GetErrorString* error_string;
  api::ThreadExchangeStreamCaptureMode* exchange_capture_mode;
  // Null where the driver is older than CUDA 12.4.
  api::LibraryGetKernelCount* kernel_count;
  api::LibraryEnumerateKernels* enumerate_kernels;
  api::KernelGetFunction* get_function;
  api::FuncLoad* load_function;
};

template <class Function>
bool find(void* library, const char* name, Function** function) {
  *function = reinterpret_cast<Function*>(dlsym(library, name));
  return *function != nullptr;
}

// Null where there is no driver, or one older than CUDA 12.
const Driver* find_driver() {
  static Driver driver;
  void* library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  const bool complete =
      library != nullptr && find(library, "cuLibraryLoadData", &driver.load_library) &&
      find(library, "cuLibraryGetKernel", &driver.get_kernel) &&
      find(library, "cuKernelSetAttribute", &driver.set_attribute) && find(library, "cuLaunchKernel", &driver.launch) &&
      find(library, "cuCtxGetCurrent", &driver.get_context) && find(library, "cuCtxSetCurrent", &driver.set_context) &&
      find(library, "cuDevicePrimaryCtxRetain", &driver.retain_context) &&
      find(library, "cuDeviceGetAttribute", &driver.device_attribute) &&
      find(library, "cuGetErrorString", &driver.error_string) &&
      find(library, "cuThreadExchangeStreamCaptureMode", &driver.exchange_capture_mode);
  if (complete && find(library, "cuLibraryGetKernelCount", &driver.kernel_count) &&
      find(library, "cuLibraryEnumerateKernels", &driver.enumerate_kernels) &&
      find(library, "cuKernelGetFunction", &driver.get_function)) {
    find(library, "cuFuncLoad", &driver.load_function);
  }
  return complete ? &driver : nullptr;
}

[[noreturn]] void fail(const std::string& op, const std::string& what) {
  throw std::runtime_error("mdmcorrect::" + op + ": " + what);
}

const Driver& driver(const char* op) {
  static const Driver* const found = find_driver();
  if (found == nullptr) {
    fail(op, "no NVIDIA driver (libcuda.so.1) for CUDA 12 or newer was found; `mdmcorrect doctor` says more.");
  }
  return *found;
}

void require(api::Result result, const char* op, const char* function) {
  if (result == api::kSuccess) return;
  const char* text = nullptr;
  if (driver(op).error_string(result, &text) != api::kSuccess || text == nullptr) text = "unknown error";
  std::string sentence = std::string(function) + " says: " + text;
  if (result == api::kNoBinaryForGpu) {
    sentence += " (rebuild with MDMCORRECT_CUDA_ARCHS naming this device; `mdmcorrect doctor` names it)";
  }
  if (result == api::kUnsupportedPtx) sentence += " (a build with nvcc 13 needs driver 580 or newer)";
  if (result == api::kCaptureUnsupported) {
    sentence +=
        " (what a CUDA graph captures must have run once before; mdmcorrect.preload does with driver 550 or newer)";
  }
  fail(op, sentence + ".");
}

// While it lives, this thread may do what is refused while a CUDA graph is captured, on whichever thread: loading code.
class RelaxedCapture {
 public:
  explicit RelaxedCapture(const char* op) : exchange_(driver(op).exchange_capture_mode) {
    require(exchange_(&mode_), op, "cuThreadExchangeStreamCaptureMode");
  }
  ~RelaxedCapture() { exchange_(&mode_); }  // back to what it was
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  api::ThreadExchangeStreamCaptureMode* exchange_;
  int mode_ = api::kRelaxedCapture;
};

struct LoadedKernel {
  api::Kernel handle = nullptr;
  std::map<int32_t, unsigned> dynamic_bytes;  // device it was launched on -> the most that has been asked for
};

// What is loaded, for the life of the process: kernels of the driver's libraries belong to every context.
struct Loaded {
  std::mutex mutex;
  std::map<std::string, std::vector<unsigned char>> added;  // op -> image
  std::map<std::string, api::Library> libraries;            // op -> loaded image
  std::set<std::pair<std::string, int32_t>> on_device;      // ops whose kernels are
  std::map<std::string, LoadedKernel> kernels;              // by name
};

Loaded& loaded() {
  static Loaded* const all = new Loaded;  // never destroyed: a thread may outlive static destruction
  return *all;
}

const void* find_image(const Loaded& all, const std::string& op) {
  const auto added = all.added.find(op);
  if (added != all.added.end()) return added->second.data();
  for (const Image* image = embedded_images(); image->op != nullptr; ++image) {
    if (op == image->op) return image->data;
  }
  fail(op,
       "got a CUDA tensor, but there is no CUDA kernel for this op here; move its tensors to the CPU, or see "
       "`mdmcorrect doctor` for how to get CUDA kernels.");
}

// The driver loads a kernel in a context when it is first launched there, and may refuse to do so while a CUDA graph is
// captured: they are loaded at once, before. The device's context is current.
void load_kernels(Loaded& all, const char* op, int32_t device) {
  if (all.on_device.count({op, device}) != 0) return;
  const Driver& functions = driver(op);
  const RelaxedCapture relaxed(op);
  api::Library& library = all.libraries[op];
  if (library == nullptr) {
    require(functions.load_library(&library, find_image(all, op), nullptr, nullptr, 0, nullptr, nullptr, 0), op,
            "cuLibraryLoadData");
  }
  if (functions.load_function != nullptr) {
    unsigned count = 0;
    require(functions.kernel_count(&count, library), op, "cuLibraryGetKernelCount");
    std::vector<api::Kernel> kernels(count);
    require(functions.enumerate_kernels(kernels.data(), count, library), op, "cuLibraryEnumerateKernels");
    for (const api::Kernel kernel : kernels) {
      api::Function function = nullptr;
      require(functions.get_function(&function, kernel), op, "cuKernelGetFunction");
      require(functions.load_function(function), op, "cuFuncLoad");
    }
  }
  all.on_device.emplace(op, device);
}

// A kernel of op that may be launched on the device with so much dynamic shared memory.
api::Kernel find_kernel(const char* op, const Launch& launch, int32_t device) {
  Loaded& all = loaded();
  const std::lock_guard<std::mutex> lock(all.mutex);
  LoadedKernel& kernel = all.kernels[launch.kernel];
  auto granted = kernel.dynamic_bytes.find(device);
  if (granted == kernel.dynamic_bytes.end()) {
    load_kernels(all, op, device);
    if (kernel.handle == nullptr) {
      require(driver(op).get_kernel(&kernel.handle, all.libraries[op], launch.kernel), op, "cuLibraryGetKernel");
    }
    granted = kernel.dynamic_bytes.emplace(device, kSharedBytesOfEveryLaunch).first;
  }
  if (launch.dynamic_bytes > granted->second) {  // never lowered: another thread may be about to launch
    const RelaxedCapture relaxed(op);
    require(driver(op).set_attribute(api::kMaxDynamicSharedBytes, static_cast<int>(launch.dynamic_bytes), kernel.handle,
                                     device),
            op, "cuKernelSetAttribute");
    granted->second = launch.dynamic_bytes;
  }
  return kernel.handle;
}

}  // namespace

void add_image(const std::string& op, const void* data, size_t size) {
  Loaded& all = loaded();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto library = all.libraries.find(op);
  if (library != all.libraries.end() && library->second != nullptr) {
    fail(op, "its CUDA kernels are in use already and cannot be replaced.");
  }
  const auto* bytes = static_cast<const unsigned char*>(data);
  all.added[op].assign(bytes, bytes + size);
}

DriverLauncher::DriverLauncher(const char* op, int32_t device, void* stream)
    : op_(op), device_(device), stream_(stream) {
  // The runtime that torch uses makes a thread's first context current lazily; the driver does not.
  const Driver& functions = driver(op);
  api::Context context = nullptr;
  require(functions.get_context(&context), op, "cuCtxGetCurrent");
  if (context == nullptr) {
    require(functions.retain_context(&context, device), op, "cuDevicePrimaryCtxRetain");
    require(functions.set_context(context), op, "cuCtxSetCurrent");
  }
}

void DriverLauncher::load() {
  Loaded& all = loaded();
  const std::lock_guard<std::mutex> lock(all.mutex);
  load_kernels(all, op_, device_);
}

int DriverLauncher::multiprocessors() const {
  int count = 0;
  require(driver(op_).device_attribute(&count, api::kMultiprocessorCount, device_), op_, "cuDeviceGetAttribute");
  return count;
}

void DriverLauncher::launch(const Launch& launch, const void* params, size_t) {
  const api::Kernel kernel = find_kernel(op_, launch, device_);
  void* arguments[] = {const_cast<void*>(params)};  // copied by the driver, never written
  require(driver(op_).launch(kernel, launch.blocks_x, launch.blocks_y, 1, launch.threads, 1, 1, launch.dynamic_bytes,
                             stream_, arguments, nullptr),
          op_, "cuLaunchKernel");
}

}  // namespace mdmcorrect::cuda
