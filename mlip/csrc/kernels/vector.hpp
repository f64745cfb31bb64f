// Vectors of the widest registers of the instruction set a file is compiled for (GCC and Clang vector extensions).
#pragma once
#include <cstdint>

#include "inline.hpp"

namespace mlip::MLIP_ISA {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif

// Numbers that lie together in blocked layouts, whatever the instruction set: one cache line.
template <class Real>
constexpr int block = 64 / sizeof(Real);

template <class Real>
struct VectorTypes {
  typedef Real Aligned __attribute__((vector_size(vector_bytes), may_alias));
  typedef Real Unaligned __attribute__((vector_size(vector_bytes), aligned(sizeof(Real)), may_alias));
};
template <class Real>
using Vector = typename VectorTypes<Real>::Aligned;
template <class Real>
constexpr int width = vector_bytes / sizeof(Real);

template <class Real>
MLIP_INLINE Vector<Real> load(const Real* from) {
  return *reinterpret_cast<const typename VectorTypes<Real>::Unaligned*>(from);
}
template <class Real>
MLIP_INLINE void store(Real* to, Vector<Real> value) {
  *reinterpret_cast<typename VectorTypes<Real>::Unaligned*>(to) = value;
}

}  // namespace mlip::MLIP_ISA
