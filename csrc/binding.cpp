// The module fastsolve._C. Pointers come in as integers, so that no tensor library is needed to build or to load it.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "isa.h"
#include "program.h"

namespace py = pybind11;
using fastsolve::Program;
using std::int64_t;
using std::uint32_t;
using std::uintptr_t;

namespace {

template <class T>
T* address(uintptr_t pointer) {
  return reinterpret_cast<T*>(pointer);
}

// Other Python threads may run meanwhile, but only where that is long: taking the lock back can cost more than a small update.
template <class Work>
void run(bool large, const Work& work) {
  if (!large) return work();
  const py::gil_scoped_release release;
  work();
}

void run_update(Program& program, int update) {
  run(program.is_large(update), [&] { program.run(update); });
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.def("isa", &fastsolve::isa);
  m.def("set_isa", &fastsolve::set_isa, py::arg("name"));
  m.def(
      "normals",
      [](uintptr_t out, uintptr_t seeds, int64_t batch, int64_t size, uint32_t draw, uint32_t stream, int threads) {
        run(fastsolve::normals_are_large(batch, size), [&] {
          fastsolve::normals(address<float>(out), address<const std::uint64_t>(seeds), batch, size, {stream, draw}, threads);
        });
      },
      py::arg("out"), py::arg("seeds"), py::arg("batch"), py::arg("size"), py::arg("draw"), py::arg("stream"),
      py::arg("threads"));
  py::class_<Program>(m, "Program")
      .def(py::init([](const std::vector<int>& dtypes, uintptr_t table, const std::vector<fastsolve::UpdateText>& updates,
                       int64_t batch, int64_t size, int threads, const fastsolve::MidTexts& mids, int64_t stride) {
             return new Program(dtypes, address<const float>(table), updates, batch, size, threads, mids, stride);
           }),
           py::arg("dtypes"), py::arg("table"), py::arg("updates"), py::arg("batch"), py::arg("size"), py::arg("threads"),
           py::arg("mids") = fastsolve::MidTexts(), py::arg("stride") = 0)
      .def("set", [](Program& self, int slot, uintptr_t pointer) { self.set(slot, address<void>(pointer)); })
      .def("seeds", [](Program& self, uintptr_t pointer) { self.seeds(address<const std::uint64_t>(pointer)); })
      .def("run", &run_update)
      .def("step", [](Program& self, int update, int slot, uintptr_t pointer) {
        self.set(slot, address<void>(pointer));
        run_update(self, update);
      });
}
