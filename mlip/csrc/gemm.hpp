// Small matrix products inside operators: C (+)= A B with B packed once.
#pragma once
#include <cstdint>

#include "isa.hpp"

namespace mlip {

template <class Real>
struct GemmKernels {
  // Columns of a tile of the packed layout [tile][k][column].
  int64_t tile;
  // B (k, n) with the given strides to tiles; the last one is filled up with zeros.
  void (*pack)(const Real* b, int64_t k, int64_t n, int64_t k_stride, int64_t n_stride, Real* packed);
  // C (m, n) = A (m, k) B, added to C if asked for. A has the given strides, C has rows of length c_stride.
  void (*multiply)(int64_t m, int64_t n, int64_t k, const Real* a, int64_t m_stride, int64_t k_stride,
                   const Real* packed, Real* c, int64_t c_stride, bool add);
};
struct GemmTable {
  GemmKernels<float> float32;
  GemmKernels<double> float64;
};
MLIP_FOR_EACH_ISA(extern const GemmTable gemm;)

template <class Real>
const GemmKernels<Real>& gemm_kernels() {
  if constexpr (sizeof(Real) == 4)
    return MLIP_BEST(gemm).float32;
  else
    return MLIP_BEST(gemm).float64;
}

// Numbers that a packed matrix (k, n) takes.
template <class Real>
int64_t packed_size(int64_t k, int64_t n) {
  const int64_t tile = gemm_kernels<Real>().tile;
  return k * ((n + tile - 1) / tile * tile);
}

}  // namespace mlip
