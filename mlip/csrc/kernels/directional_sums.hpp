// Sums over the degrees and components of spherical harmonics, for the edges of one center (../directional_sums.cpp).
#pragma once
#include <cstdint>

#include "../isa.hpp"

namespace mlip {

// What belongs to the edges of one center. Components (l, m) are in the order of the spherical harmonics.
template <class Real>
struct DirectedEdges {
  int64_t count, degrees, channels;  // channels: whole blocks of 64 bytes
  const Real* weights;               // of degree l, edge e: weights + l * degree_stride + e * channels
  int64_t degree_stride;
  const Real* harmonics;  // (count, components)
  const Real* density;    // (components, channels)

  int64_t components() const { return degrees * degrees; }
};

// Where derivatives go; each null where it is not wanted.
template <class Real>
struct DirectedGradients {
  Real* weights;    // as the weights
  Real* harmonics;  // as the harmonics
  Real* density;    // as the density; added to
};

template <class Real>
struct DirectionalKernels {
  // out (count, channels)
  void (*forward)(const DirectedEdges<Real>&, Real* out);
  // grad (count, channels); scratch: `scratch(degrees, channels)` numbers
  void (*backward)(const DirectedEdges<Real>&, const Real* grad, Real* scratch, const DirectedGradients<Real>&);
  int64_t (*scratch)(int64_t degrees, int64_t channels);
};

struct DirectionalTable {
  DirectionalKernels<float> float32;
  DirectionalKernels<double> float64;
};

MLIP_FOR_EACH_ISA(extern const DirectionalTable directional_table;)

}  // namespace mlip
