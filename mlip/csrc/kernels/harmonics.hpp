// Real spherical harmonics of directions, and lengths, of many vectors (one table of functions per instruction set).
#pragma once
#include <cstdint>

#include "../isa.hpp"

namespace mlip {

constexpr int largest_harmonic = 6;

// Vectors (count, 3); harmonics (count, (l_max + 1)^2) and lengths (count). All functions take l_max from 0 to 6.
template <class Real>
struct HarmonicsOf {
  void (*forward)(int l_max, int64_t count, const Real* vectors, Real* harmonics, Real* lengths);
  // Gradients of the harmonics and of the lengths to that of the vectors.
  void (*backward)(int l_max, int64_t count, const Real* grad_harmonics, const Real* grad_lengths, const Real* vectors,
                   Real* grad_vectors);
  // Derivatives along `tangent`: of harmonics and lengths, and of what `backward` gives.
  void (*second)(int l_max, int64_t count, const Real* tangent, const Real* grad_harmonics, const Real* grad_lengths,
                 const Real* vectors, Real* harmonics, Real* lengths, Real* grad_vectors);
};

struct HarmonicsTable {
  HarmonicsOf<float> float32;
  HarmonicsOf<double> float64;
};

MLIP_FOR_EACH_ISA(extern const HarmonicsTable harmonics_table;)

}  // namespace mlip
