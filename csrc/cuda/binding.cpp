// The module fastsolve._cuda. Pointers and streams come in as integers, so that no tensor library is needed to build it, and
// CUDA's runtime is linked statically, so that it loads where there is no GPU.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "program.h"

namespace py = pybind11;
using fastsolve::cuda::Draw;
using fastsolve::cuda::Program;
using std::int64_t;
using std::uintptr_t;

namespace {

template <class T>
T* address(uintptr_t pointer) {
  return reinterpret_cast<T*>(pointer);
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  m.def(
      "hindrance",
      [](int device) {
        const int error = fastsolve::cuda::load_general(device);
        return error ? fastsolve::cuda::error_text(error) : std::string();
      },
      py::arg("device"));
  py::class_<Program>(m, "Program", py::module_local())
      .def(py::init([](const std::vector<int>& dtypes, uintptr_t table, uintptr_t draws,
                       const std::vector<fastsolve::UpdateText>& updates, int64_t batch, int64_t size, int device,
                       const fastsolve::MidTexts& mids, int64_t stride) {
             return new Program(dtypes, address<const float>(table), address<const Draw>(draws), updates, batch, size, device,
                                mids, stride);
           }),
           py::arg("dtypes"), py::arg("table"), py::arg("draws"), py::arg("updates"), py::arg("batch"), py::arg("size"),
           py::arg("device"), py::arg("mids") = fastsolve::MidTexts(), py::arg("stride") = 0)
      .def("set", [](Program& self, int slot, uintptr_t pointer) { self.set(slot, address<void>(pointer)); })
      .def("seeds", [](Program& self, uintptr_t pointer) { self.seeds(address<const std::uint64_t>(pointer)); })
      .def("run", [](Program& self, int update, uintptr_t stream) { self.run(update, address<void>(stream)); });
}
