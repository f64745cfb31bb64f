// Sparse polynomials of the components of features, one for each output component (one table per instruction set).
#pragma once
#include <cstdint>

#include "../isa.hpp"

namespace mlip {

constexpr int largest_width = 64;  // components of the features
constexpr int largest_order = 16;  // factors of a monomial

// The polynomial of an output component is a tree: the children of a node are the factors k that may follow, and a
// monomial is a path from the root. It is written depth first:
//   node = [1 if the path so far is a monomial else 0, number of leaves, number of inner nodes,
//           k of each leaf, (k, node) of each inner node]
// Coefficients are numbered in that order: the node's own, the leaves', those of the inner nodes; over all outputs.
//
// For the trees of contraction_trees.hpp there is straight-line code, for one vector of channels at a time: for the value,
// with the coefficient of term t of the tree at coefficients + t * block, and to add `seed` times the gradient. Features
// and gradient are arrays of vectors.
template <class Real>
struct FixedTree {
  const int32_t* nodes;
  int64_t size, n_terms, n_in;
  void (*value)(const Real* features, const Real* coefficients, Real* value);
  void (*gradient)(const Real* features, const Real* coefficients, const Real* seed, Real* gradient);
};

template <class Real>
struct FixedTrees {
  const FixedTree<Real>* first;
  int64_t count;
};

template <class Real>
struct Contraction {
  const int32_t* tree;                 // of all output components, one after the other
  const FixedTree<Real>* const* fixed;  // of each output component; null if there is no straight-line code for all
  int64_t n_in, n_out, n_terms, n_atoms, n_channels;
  const Real* features;       // (n_in, n_atoms, n_channels)
  const int64_t* species;     // (n_atoms)
  const Real* coefficients;   // (n_elements, n_channels / block, n_terms, block)
  const Real* grad;           // (n_out, n_atoms, n_channels), of the outputs
  const Real* tangent;        // (n_in, n_atoms, n_channels), direction of a derivative
  Real* values;               // (n_out, n_atoms, n_channels)
  Real* gradient;             // (n_in, n_atoms, n_channels)
  Real* term_gradient;        // as coefficients
};

// The first three work on a range of atoms, the last two on all atoms and a range of blocks of channels.
template <class Real>
struct ContractionOf {
  using Atoms = void (*)(const Contraction<Real>&, int64_t first, int64_t last);
  Atoms forward;    // values
  Atoms backward;   // gradient of the features
  Atoms second;     // along the tangent: derivatives of the values and of what `backward` gives
  Atoms terms;      // adds the gradient of the coefficients
  Atoms terms_second;  // adds the derivative of what `terms` gives, along the tangent
};

struct ContractionTable {
  ContractionOf<float> float32;
  ContractionOf<double> float64;
};

struct FixedTreesTable {
  FixedTrees<float> float32;
  FixedTrees<double> float64;
};

MLIP_FOR_EACH_ISA(extern const ContractionTable contraction_table;)
MLIP_FOR_EACH_ISA(extern const FixedTreesTable fixed_trees_table;)

}  // namespace mlip
