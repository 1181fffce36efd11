// A kernel launch on the harness; csrc/cuda/launch.cuh calls it in place of <<<>>>.
#pragma once

#include <tuple>
#include <utility>

#include "simt/device.h"

namespace simt {

// Runs entry(closure) in every thread of every block. False: a fault ended it, whose sentence the machine keeps.
bool run(const char* kernel, dim3 blocks, dim3 threads, size_t shared_bytes, void (*entry)(void*), void* closure);

template <class... Parameters>
struct Call {
  void (*kernel)(Parameters...);
  std::tuple<Parameters...> arguments;
};

// Every thread gets copies of the arguments on its own stack, as a GPU's threads read them from constant memory.
template <class... Parameters>
__attribute__((no_sanitize("thread"))) void enter(void* closure) {
  using Arguments = Call<Parameters...>;
  alignas(Arguments) unsigned char own[sizeof(Arguments)];
  __builtin_memcpy(own, closure, sizeof(own));
  const Arguments& call = *reinterpret_cast<const Arguments*>(own);
  std::apply(call.kernel, call.arguments);
}

template <class... Parameters>
bool launch(const char* name, void (*kernel)(Parameters...), dim3 blocks, dim3 threads, size_t shared_bytes,
            Parameters... parameters) {
  Call<Parameters...> call{kernel, {parameters...}};
  return run(name, blocks, threads, shared_bytes, enter<Parameters...>, &call);
}

}  // namespace simt
