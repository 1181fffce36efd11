// Running our CUDA kernels through NVIDIA's driver, found at run time.
//
// Nothing of CUDA is linked or included: the library loads, and runs its CPU kernels, on any machine. Kernels come as
// images (fatbins or cubins): those nvcc made are part of the library, those NVRTC made are added by mdmcorrect/jit.py,
// and both are launched by the same code. Failures are std::runtime_error with one sentence that names the operator.
#pragma once

#include <cstdint>
#include <string>

#include "cuda/launch.h"

namespace mdmcorrect::cuda {

// An operator's kernels as nvcc made them.
struct Image {
  const char* op;
  const unsigned char* data;
};
const Image* embedded_images();  // of this library; ends with a null op

// An image of op's kernels, such as NVRTC makes; the bytes are copied and kept for the life of the process. It comes
// before an embedded one. Throws once kernels of op are in use.
void add_image(const std::string& op, const void* data, size_t size);

// Launches op's kernels on a stream of `device`, which must be the current one.
class DriverLauncher final : public Launcher {
 public:
  DriverLauncher(const char* op, int32_t device, void* stream);
  void launch(const Launch& launch, const void* params, size_t size) override;
  // Loads op's kernels on the device, all of them, if they are not yet. The first launch does so too, also while a CUDA
  // graph is captured (where drivers before 550 may refuse it).
  void load();
  int multiprocessors() const override;

 private:
  const char* op_;
  int32_t device_;
  void* stream_;
};

}  // namespace mdmcorrect::cuda
