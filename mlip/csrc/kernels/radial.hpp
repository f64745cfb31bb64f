// Radial functions of many edges (one table of functions per instruction set).
#pragma once
#include <cstdint>

#include "../isa.hpp"

namespace mlip {

// b_n = prefactor sin(ω_n t) / t of a transformed distance t(r), and the polynomial envelope of r.
struct BesselBasis {
  const double* frequencies;
  int64_t size;
  double prefactor, cutoff;
  int64_t p;
  bool apply_cutoff;
};

// A perceptron of silu layers without biases: matrices (inputs or widths[k - 1], widths[k]), packed for products.
template <class Real>
struct Perceptron {
  static constexpr int most_layers = 4;
  int layers;
  int64_t inputs, widths[most_layers];
  const Real* packed[most_layers];
};

template <class Real>
struct RadialFunctions {
  // Values and derivatives by the distance (count, size); of the envelope (count), unless it is in the basis.
  // transformed and its derivative (count), or null.
  void (*bessel)(const BesselBasis& basis, int64_t count, const double* distance, const double* transformed,
                 const double* slope, Real* values, Real* derivatives, Real* envelope, Real* envelope_slope);
  // Numbers of memory that `activations` needs for so many edges.
  int64_t (*scratch)(const Perceptron<Real>& network, int64_t count);
  // Of inputs (count, n) and their derivatives: activations (count, h) and theirs; envelope (count) and its derivative
  // multiply them, or are null.
  void (*activations)(const Perceptron<Real>& network, int64_t count, const Real* basis, const Real* tangent,
                      const Real* envelope, const Real* envelope_slope, Real* scratch, Real* out, Real* slopes);
  // Scalar products (count) of the rows of a (count, size) and those of b: the same ones, or `rows` (count) if not null.
  void (*dot)(int64_t count, int64_t size, const Real* a, const Real* b, const int64_t* rows, Real* out);
};

struct RadialTable {
  RadialFunctions<float> float32;
  RadialFunctions<double> float64;
};

MLIP_FOR_EACH_ISA(extern const RadialTable radial_table;)

}  // namespace mlip
