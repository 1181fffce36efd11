// _host: hooks for tests of the C++ side. Optional, built when pybind11 is there; nothing a user calls needs it.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "core/select_key.h"
#include "core/tensor_view.h"
#include "cpu/isa_choice.h"
#include "cpu/kernels.h"
#include "cpu/measured_processors.h"
#include "cuda/driver.h"

namespace {

using namespace mdmcorrect;

std::vector<std::string> words(const char* text) {
  std::istringstream in(text);
  std::vector<std::string> out;
  for (std::string word; in >> word;) out.push_back(word);
  return out;
}

// One row of select_positions, run by the kernel of a named instruction set.
std::vector<bool> select_row(const std::string& isa, const std::vector<float>& scores, int64_t k, double temperature,
                             bool largest, int64_t seed, int64_t step, int64_t call) {
  const CpuKernels* kernels = cpu_kernels_of(isa.c_str());
  if (kernels == nullptr) throw std::invalid_argument("no such instruction set here: " + isa);
  const int64_t length = static_cast<int64_t>(scores.size());
  std::vector<uint8_t> selected(scores.size());
  std::vector<uint64_t> scratch(2 * scores.size());
  SelectPositionsParams params{};
  params.batch = 1;
  params.length = length;
  params.scores = {scores.data(), length, 1, FloatType::float32};
  params.k = {&k, 0};
  params.seed = {&seed, 0};
  params.step = {&step, 0};
  params.call = &call;
  params.temperature = temperature;
  params.largest = largest;
  params.selected = selected.data();
  kernels->select_positions(params, 0, 1, scratch.data());
  return {selected.begin(), selected.end()};
}

// What an operator would run on a processor that can run these instruction sets, the widest first.
std::tuple<std::string, bool, std::string> choose_isa_for(const std::string& op, const std::string& vendor, int family,
                                                          int model, const std::string& isas) {
  const IsaChoice choice = choose_isa({vendor, family, model}, isas, group_of(op));
  return {choice.isa, choice.measured, choice.why};
}

struct WorstError {
  double ulps;
  float at;
};

// Largest error, in units of the last place of the exact result, over the floats whose bits are first, first + stride,
// ..., last. function: "exp", "scaled exp", "log", "tanh" or "exponential", against libm in double.
WorstError worst_error(const std::string& isa, const std::string& function, uint32_t first, uint32_t last,
                       uint32_t stride) {
  const CpuKernels* kernels = cpu_kernels_of(isa.c_str());
  if (kernels == nullptr) throw std::invalid_argument("no such instruction set here: " + isa);
  const auto approximate = function == "exp"          ? kernels->exp_nonpositive_array
                           : function == "scaled exp" ? kernels->scaled_exp_array
                           : function == "log"        ? kernels->log_array
                           : function == "tanh"       ? kernels->tanh_array
                                                      : kernels->exponential_array;
  constexpr uint64_t kBlock = 4096;
  std::vector<float> x(kBlock), y(kBlock);
  WorstError worst{0.0, 0.0f};
  for (uint64_t bits = first; bits <= last; bits += kBlock * stride) {
    for (uint64_t i = 0; i < kBlock; ++i) {
      x[i] = portable::float_from_bits(static_cast<uint32_t>(std::min<uint64_t>(bits + i * stride, last)));
    }
    approximate(x.data(), y.data(), kBlock);
    for (uint64_t i = 0; i < kBlock; ++i) {
      const double value = x[i];
      const double exact = function == "exp" || function == "scaled exp" ? std::exp(value)
                           : function == "log"                           ? std::log(value)
                           : function == "tanh"                          ? std::tanh(value)
                                                                         : -std::log1p(-value);
      int exponent;
      std::frexp(static_cast<float>(exact), &exponent);
      const double ulps = std::fabs(y[i] - exact) / std::ldexp(1.0, std::max(exponent - 24, -149));
      if (!(ulps <= worst.ulps)) worst = {ulps, x[i]};
    }
  }
  return worst;
}

// One launch by the driver that this process finds; params are the bytes of the kernel's argument.
void launch_by_driver(const std::string& op, const std::string& kernel, unsigned blocks_x, unsigned blocks_y,
                      unsigned threads, unsigned dynamic_bytes, const std::string& params, int device,
                      uintptr_t stream) {
  cuda::DriverLauncher launcher(op.c_str(), device, reinterpret_cast<void*>(stream));
  launcher.launch({kernel.c_str(), blocks_x, blocks_y, threads, dynamic_bytes}, params.data(), params.size());
}

int64_t multiply_probe(const std::string& isa, bool bfloat16_pairs, int64_t repeats) {
  const CpuKernels* kernels = cpu_kernels_of(isa.c_str());
  if (kernels == nullptr) throw std::invalid_argument("no such instruction set here: " + isa);
  return kernels->multiply_probe(bfloat16_pairs, repeats);
}

}  // namespace

const cuda::Image* cuda::embedded_images() {
  static const Image none = {nullptr, nullptr};
  return &none;
}

PYBIND11_MODULE(_host, m) {
  m.doc() = "Hooks for tests of the C++ side of mdmcorrect.";
  m.def("isas_built", [] { return words(isas_built()); });
  m.def("isas_supported", [] { return words(isas_supported()); });
  m.def("choose_isa", &choose_isa_for);
  m.def("measured_processors", [] {
    std::vector<std::string> names;
    for (const ProcessorEntry& entry : kProcessors) names.push_back(entry.name);
    return names;
  });
  m.def("score_key", [](float score, bool largest) { return portable::score_key(score, largest); });
  m.def("float16_to_float", [](uint16_t bits) { return portable::float16_to_float(bits); });
  m.def("bfloat16_to_float", [](uint16_t bits) { return portable::bfloat16_to_float(bits); });
  m.def("select_row", &select_row);
  m.def("add_cuda_image",
        [](const std::string& op, const std::string& image) { cuda::add_image(op, image.data(), image.size()); });
  m.def("launch_by_driver",
        [](const std::string& op, const std::string& kernel, unsigned blocks_x, unsigned blocks_y, unsigned threads,
           unsigned dynamic_bytes, const pybind11::bytes& params, int device, uintptr_t stream) {
          launch_by_driver(op, kernel, blocks_x, blocks_y, threads, dynamic_bytes, params, device, stream);
        });
  m.def("load_by_driver",
        [](const std::string& op, int device) { cuda::DriverLauncher(op.c_str(), device, nullptr).load(); });
  m.def("worst_error",
        [](const std::string& isa, const std::string& function, uint32_t first, uint32_t last, uint32_t stride) {
          const WorstError worst = worst_error(isa, function, first, last, stride);
          return std::make_pair(worst.ulps, worst.at);
        });
  m.def("multiply_probe", &multiply_probe, pybind11::call_guard<pybind11::gil_scoped_release>());
}
