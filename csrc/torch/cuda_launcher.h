// A launcher on torch's current stream of a tensor's device.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include "cuda/driver.h"
#include "torch/checks.h"

namespace mdmcorrect {

// The tensor's device is current for the life of this object.
class CudaLauncher final : public cuda::Launcher {
 public:
  CudaLauncher(const char* op, const Tensor& tensor);
  void launch(const cuda::Launch& launch, const void* params, size_t size) override {
    driver_.launch(launch, params, size);
  }
  int multiprocessors() const override { return driver_.multiprocessors(); }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cuda::DriverLauncher driver_;
};

}  // namespace mdmcorrect
