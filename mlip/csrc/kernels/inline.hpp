// Forced inlining and unrolled loops, for processors and (device.cuh) for CUDA devices.
#pragma once
#include <cstddef>
#include <type_traits>
#include <utility>

#ifndef MLIP_INLINE
#define MLIP_INLINE __attribute__((always_inline)) inline
#endif

namespace mlip::MLIP_ISA {

// body(0), ..., body(N - 1) with constants as arguments, unrolled.
template <class Body, size_t... I>
MLIP_INLINE void unroll(Body&& body, std::index_sequence<I...>) {
  (body(std::integral_constant<int, static_cast<int>(I)>{}), ...);
}
template <int N, class Body>
MLIP_INLINE void unroll(Body&& body) {
  unroll(body, std::make_index_sequence<N>{});
}

}  // namespace mlip::MLIP_ISA
