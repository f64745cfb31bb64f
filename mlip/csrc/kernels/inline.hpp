// Forced inlining and unrolled loops, for processors and (device.cuh) for CUDA devices.
#pragma once
#include <cstddef>
#include <type_traits>
#include <utility>

#ifndef MLIP_INLINE
#define MLIP_INLINE __attribute__((always_inline)) inline
#define MLIP_INLINE_LAMBDA __attribute__((always_inline))
#endif

// Before a loop with few constant rounds: unrolled as `unroll` does, with less for the compiler to do.
#define MLIP_UNROLL _Pragma("GCC unroll 64")

namespace mlip::MLIP_ISA {

// body(first), ..., body(first + N - 1) with constants as arguments, unrolled. One function without further ones in it:
// a compiler copies all that is inlined at each level.
template <int N, int first = 0, class Body>
MLIP_INLINE void unroll(Body&& body) {
#define MLIP_ROUND(k) \
  if constexpr (N > k) body(std::integral_constant<int, first + k>{});
  MLIP_ROUND(0) MLIP_ROUND(1) MLIP_ROUND(2) MLIP_ROUND(3) MLIP_ROUND(4) MLIP_ROUND(5) MLIP_ROUND(6) MLIP_ROUND(7)
  MLIP_ROUND(8) MLIP_ROUND(9) MLIP_ROUND(10) MLIP_ROUND(11) MLIP_ROUND(12) MLIP_ROUND(13) MLIP_ROUND(14) MLIP_ROUND(15)
#undef MLIP_ROUND
  if constexpr (N > 16) unroll<N - 16, first + 16>(body);
}

}  // namespace mlip::MLIP_ISA
