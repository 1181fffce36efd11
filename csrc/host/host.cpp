// _host: hooks for tests of the C++ side. Optional, built when pybind11 is there; nothing a user calls needs it.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/select_key.h"
#include "core/tensor_view.h"
#include "cpu/kernels.h"

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

}  // namespace

PYBIND11_MODULE(_host, m) {
  m.doc() = "Hooks for tests of the C++ side of mdmcorrect.";
  m.def("isas_built", [] { return words(isas_built()); });
  m.def("isas_supported", [] { return words(isas_supported()); });
  m.def("score_key", [](float score, bool largest) { return portable::score_key(score, largest); });
  m.def("float16_to_float", [](uint16_t bits) { return portable::float16_to_float(bits); });
  m.def("bfloat16_to_float", [](uint16_t bits) { return portable::bfloat16_to_float(bits); });
  m.def("select_row", &select_row);
}
