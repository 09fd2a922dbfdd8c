#include "isa.h"

#include <atomic>
#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace fastsolve {
namespace {

struct Isa {
  const char* name;
  const Kernels* kernels;
  bool (*runs_here)();
};

#if defined(__x86_64__)
bool has_avx2() {
  unsigned a, b, c = 0, d;
  // F16C by the bit itself: not every compiler knows its name.
  return __builtin_cpu_supports("avx2") && __get_cpuid(1, &a, &b, &c, &d) && (c & (1u << 29));
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
#endif

// Best first.
const Isa kIsas[] = {
#if defined(__x86_64__)
    {"avx512", &avx512::kernels, has_avx512},
    {"avx2", &avx2::kernels, has_avx2},
#endif
    {"portable", &portable::kernels, [] { return true; }},
};

const Isa* best() {
  const Isa* isa = kIsas;
  while (!isa->runs_here()) ++isa;
  return isa;
}

std::atomic<const Isa*> current{best()};

}  // namespace

const Kernels& kernels() { return *current.load(std::memory_order_relaxed)->kernels; }

const char* isa() { return current.load(std::memory_order_relaxed)->name; }

void set_isa(const std::string& name) {
  std::string known;
  for (const Isa& isa : kIsas) {
    if (!isa.runs_here()) continue;
    if (name == isa.name) {
      current.store(&isa, std::memory_order_relaxed);
      return;
    }
    known += known.empty() ? isa.name : std::string(", ") + isa.name;
  }
  throw std::invalid_argument("instruction set '" + name + "' does not run here; those that do: " + known);
}

}  // namespace fastsolve
