// Makes `import mdmcorrect._C` work. Loading the library is what registers the operators; the module holds those that
// may be called by address, too.
#define Py_LIMITED_API 0x030A0000
#include <Python.h>

#include <exception>
#include <string>

#include "torch/by_address.h"

namespace {

// Reads an Addresses of whole numbers; of the numbers at its end, kMayLack may be left out and are 0.
template <class Addresses, int kMayLack>
PyObject* call(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  constexpr Py_ssize_t kNumbers = sizeof(Addresses) / sizeof(int64_t);
  static_assert(sizeof(Addresses) == kNumbers * sizeof(int64_t) && sizeof(void*) == sizeof(int64_t));
  if (count > kNumbers || count < kNumbers - kMayLack) {
    return PyErr_Format(PyExc_TypeError, "expected %zd to %zd numbers, got %zd", kNumbers - kMayLack, kNumbers, count);
  }
  union {
    int64_t numbers[kNumbers];
    Addresses addresses;
  } at = {};
  for (Py_ssize_t i = 0; i < count; ++i) {
    at.numbers[i] = PyLong_AsLongLong(arguments[i]);
    if (at.numbers[i] == -1 && PyErr_Occurred() != nullptr) return nullptr;
  }
  std::string problem;
  int64_t answer = 0;
  PyThreadState* thread = PyEval_SaveThread();
  try {
    answer = mdmcorrect::call_by_address(at.addresses);
  } catch (const std::exception& error) {
    problem = error.what();
  }
  PyEval_RestoreThread(thread);
  if (!problem.empty()) {
    PyErr_SetString(PyExc_RuntimeError, problem.c_str());
    return nullptr;
  }
  return PyLong_FromLongLong(answer);
}

template <class Addresses, int kMayLack = 0>
PyMethodDef method(const char* name) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&call<Addresses, kMayLack>)), METH_FASTCALL,
          nullptr};
}

}  // namespace

// Python calls this by name: it needs default visibility where everything else here is hidden, which PyMODINIT_FUNC
// gives.
PyMODINIT_FUNC PyInit__C() {
  using namespace mdmcorrect;
  static PyMethodDef methods[] = {
      method<ScoreTokensAddresses, kTokenScores>("score_tokens"),
      method<SamplerStepAddresses>("sampler_step"),
      method<CorrectPassAddresses, 13>("correct_pass"),
      {nullptr, nullptr, 0, nullptr},
  };
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_C", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&definition);
}
