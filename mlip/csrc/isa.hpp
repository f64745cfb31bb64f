// Kernels are compiled once for each instruction set (CMakeLists.txt); the machine's best is chosen at run time.
//
// A kernel file in kernels/ puts its code into `namespace mlip::MLIP_ISA` and defines there one constant table of
// function pointers, declared for all sets with MLIP_FOR_EACH_ISA. MLIP_BEST(table) is the table to call. The
// environment variable MLIP_SIMD=baseline|avx2|avx512 asks for a smaller set than the machine has (tests, benchmarks).
#pragma once
#include <cstdlib>
#include <cstring>

namespace mlip {

#ifdef MLIP_X86
#define MLIP_FOR_EACH_ISA(declaration) \
  namespace baseline {                 \
  declaration                          \
  }                                    \
  namespace avx2 {                     \
  declaration                          \
  }                                    \
  namespace avx512 {                   \
  declaration                          \
  }
#define MLIP_BEST(table) \
  (::mlip::best_isa() == 2 ? ::mlip::avx512::table : ::mlip::best_isa() == 1 ? ::mlip::avx2::table : ::mlip::baseline::table)
#else
#define MLIP_FOR_EACH_ISA(declaration) \
  namespace baseline {                 \
  declaration                          \
  }
#define MLIP_BEST(table) (::mlip::baseline::table)
#endif

// 0 baseline, 1 AVX2 with FMA, 2 AVX-512 (F, DQ, VL, BW).
inline int best_isa() {
#ifdef MLIP_X86
  static const int best = [] {
    int isa = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 1 : 0;
    if (isa == 1 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
      isa = 2;
    const char* wanted = std::getenv("MLIP_SIMD");
    const int limit = !wanted ? 2 : !std::strcmp(wanted, "baseline") ? 0 : !std::strcmp(wanted, "avx2") ? 1 : 2;
    return isa < limit ? isa : limit;
  }();
  return best;
#else
  return 0;
#endif
}

}  // namespace mlip
