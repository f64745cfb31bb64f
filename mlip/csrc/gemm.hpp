// Small matrix products inside operators: C (+)= A B with B packed once.
#pragma once
#include <cstdint>

#include "isa.hpp"

namespace mlip {

template <class Real>
struct GemmKernels {
  // Columns of a tile of the packed layout [tile][k][column].
  int64_t tile;
  // Numbers of a vector.
  int64_t lanes;
  // B (k, n) with the given strides to tiles; the last one is filled up with zeros.
  void (*pack)(const Real* b, int64_t k, int64_t n, int64_t k_stride, int64_t n_stride, Real* packed);
  // The transposed of B (n, k), whose rows have the given stride, to the same layout.
  void (*pack_transposed)(const Real* b, int64_t k, int64_t n, int64_t stride, Real* packed);
  // C (m, n) = A (m, k) B, added to C if asked for. A has the given strides, C has rows of length c_stride.
  void (*multiply)(int64_t m, int64_t n, int64_t k, const Real* a, int64_t m_stride, int64_t k_stride,
                   const Real* packed, Real* c, int64_t c_stride, bool add);
  // The same of B (k, n) as it is, with rows of the given stride; n whole vectors. For few rows.
  void (*multiply_direct)(int64_t m, int64_t n, int64_t k, const Real* a, int64_t m_stride, int64_t k_stride,
                          const Real* b, int64_t b_stride, Real* c, int64_t c_stride, bool add);
  // C (m, n) = A (m, k) times the transposed of B (n, k), each with rows of the given stride; k whole vectors. For few rows.
  void (*multiply_transposed)(int64_t m, int64_t n, int64_t k, const Real* a, int64_t a_stride, const Real* b,
                              int64_t b_stride, Real* c, int64_t c_stride, bool add);
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
