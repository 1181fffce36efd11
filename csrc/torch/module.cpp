// Makes `import mdmcorrect._C` work. Loading the library is what registers the operators; the module itself is empty.
#define Py_LIMITED_API 0x030A0000
#include <Python.h>

// Python calls this by name: it needs default visibility where everything else here is hidden, which PyMODINIT_FUNC
// gives.
PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&definition);
}
