// Atom-centered symmetry functions of one center (one table of functions per instruction set). What the kinds, cutoffs
// and parameters are is said in mlip/nn/symmetry_functions.py.
//
// All are made of few different parts: of functions of one distance, R, and of the cosine of an angle, A. With
// neighbors j and k, a radial function is Σ_j R(r_j), an angular one Σ_{j<k} A(cos) R(r_j) R(r_k), times R(r_jk) if it
// is narrow.
#pragma once
#include <cstdint>

#include "../host_device.hpp"
#include "../isa.hpp"
#include "inline.hpp"

namespace mlip {

constexpr int32_t largest_power = 255;  // of an angle that is made by products

enum Core : int32_t { poly1, poly2, poly3, poly4, exponential };

// A cutoff function: 1 up to `inner`, 0 from `cutoff` on.
struct CutoffWindow {
  enum Kind : int32_t { from_core, cosine, tanh_cubed, tanh_cubed_from_one, hard } kind;
  Core core;
  double cutoff, inner;
};

// R: exp(-eta (r - shift)²) times a cutoff function, or a bump between `low` and `high`.
struct DistancePart {
  bool is_bump;
  int32_t window;  // of a Gaussian
  double eta, shift;
  Core core;  // of a bump, as the following
  bool asymmetric;
  double low, high;
};

// A: norm (1 + lambda cos)^zeta with norm = 2^(1-zeta), or a bump between the angles `low` and `high` in degrees.
struct AnglePart {
  bool is_bump;
  double lambda, zeta, norm;
  int32_t power;  // zeta, if it is an integer that is not too large; else 0
  Core core;
  double low, high;
};

// A view of numbers that the operator keeps: these headers are compiled for every instruction set, and a function of
// the standard library that is compiled in two of them is one function for the linker.
template <class T>
struct View {
  const T* data;
  int64_t size;
  MLIP_HOST_DEVICE const T* begin() const { return data; }
  MLIP_HOST_DEVICE const T* end() const { return data + size; }
  MLIP_HOST_DEVICE const T& operator[](int64_t k) const { return data[k]; }
};

// Some of the parts, and the windows that these need.
struct PartList {
  View<int32_t> windows, parts;
};

// One function of a group: its part of the angle, where its value goes, and what that is multiplied by.
struct Term {
  int32_t angle, column;
  double weight;
};
// Functions of the same part of distances.
struct Group {
  int32_t part;
  bool narrow;
  int64_t first;  // of its terms among those of the class
  View<Term> terms;
};
struct RadialTerm {
  int32_t part, column;
  double weight;
};
// What is to be made of the neighbors of one element.
struct NeighborClass {
  View<RadialTerm> terms;
};
// What is to be made of pairs of neighbors of the elements first <= second.
struct PairClass {
  int32_t first, second;
  bool narrow, all_narrow;  // whether any group is, whether all are
  double narrow_reach;      // distance of the two neighbors beyond which no narrow one is
  View<Group> groups;
  View<Term> terms;  // of all groups
  View<int32_t> angles;
};

// The functions of the atoms of one element.
struct SymmetryPlan {
  View<CutoffWindow> windows;
  View<DistancePart> parts;
  View<AnglePart> angles;
  PartList radial, angular, narrow;     // parts of these functions
  double radial_reach, angular_reach;  // beyond which neighbors are not seen
  View<NeighborClass> neighbors;       // of each element
  View<PairClass> pairs;
  int64_t most_terms;  // of a class
  bool bump_of_angle;  // whether there is any
};

// The edges of a center.
struct CenterNeighbors {
  int64_t count;
  const double* vectors;   // (count, 3)
  const int64_t* species;  // (count)
  int64_t n_species;
};

struct SymmetryKernels {
  // Numbers of memory for so many neighbors.
  int64_t (*scratch)(const SymmetryPlan& plan, int64_t count, int64_t n_species);
  // G (columns), added to.
  void (*values)(const SymmetryPlan& plan, const CenterNeighbors& neighbors, double* scratch, double* out);
  // Σ_k weights_k ∂G_k/∂vectors (count, 3), added to.
  void (*gradient)(const SymmetryPlan& plan, const CenterNeighbors& neighbors, const double* weights, double* scratch,
                   double* out);
  // Derivatives along `direction` (count, 3): of G, and, if not null, of the gradient; both added to.
  void (*tangents)(const SymmetryPlan& plan, const CenterNeighbors& neighbors, const double* weights,
                   const double* direction, double* scratch, double* values, double* gradient);
};

MLIP_FOR_EACH_ISA(extern const SymmetryKernels symmetry_kernels;)

}  // namespace mlip
