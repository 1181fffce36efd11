// A kernel launch without a header of CUDA. csrc/cuda/<op>.h decides what to launch for given parameters; who carries it
// out is a Launcher: the driver (cuda/driver.cpp), or whatever else can run a kernel.
#pragma once

#include <stddef.h>

namespace mdmcorrect::cuda {

struct Launch {
  const char* kernel;  // extern "C" name in csrc/cuda/<op>.cu
  unsigned blocks_x;
  unsigned blocks_y;
  unsigned threads;        // per block, in one dimension
  unsigned dynamic_bytes;  // dynamic shared memory per block
};

constexpr int kUsualMultiprocessors = 128;  // where no device says

class Launcher {
 public:
  virtual ~Launcher() = default;
  // Of the device. Launches may be cut to fill them; no result depends on how.
  virtual int multiprocessors() const { return kUsualMultiprocessors; }
  // Enqueues the kernel after everything enqueued before, without waiting for it. Its only argument is the struct of
  // `size` bytes at `params`, which is copied.
  virtual void launch(const Launch& launch, const void* params, size_t size) = 0;

  template <class Params>
  void operator()(const Launch& one, const Params& params) {
    launch(one, &params, sizeof(Params));
  }
};

}  // namespace mdmcorrect::cuda
