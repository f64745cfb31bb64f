// Symmetry functions of one center on processors.
#include "symmetry_functions.hpp"

#include "symmetry_numbers.hpp"
//
#include "symmetry_centers.hpp"

namespace mlip::MLIP_ISA {
namespace {

int64_t scratch(const SymmetryPlan& plan, int64_t count, int64_t n_species) {
  return memory_of_functions<D>(plan, n_species) + rows_of_neighbors<D>(plan) * row_size(count, n_species);
}
Scratch parts_of(double* memory, const SymmetryPlan& plan, int64_t n_species) {
  return {Memory(memory), Memory(memory + memory_of_functions<D>(plan, n_species))};
}

void values(const SymmetryPlan& plan, const CenterNeighbors& neighbors, double* scratch, double* out) {
  evaluate<V, false, true>(plan, neighbors, nullptr, nullptr, parts_of(scratch, plan, neighbors.n_species), out, nullptr);
}
void gradient(const SymmetryPlan& plan, const CenterNeighbors& neighbors, const double* weights, double* scratch,
              double* out) {
  evaluate<V, true, false>(plan, neighbors, weights, nullptr, parts_of(scratch, plan, neighbors.n_species), nullptr, out);
}
void tangents(const SymmetryPlan& plan, const CenterNeighbors& neighbors, const double* weights,
              const double* direction, double* scratch, double* values, double* gradient) {
  const Scratch memory = parts_of(scratch, plan, neighbors.n_species);
  if (gradient)
    evaluate<D, true, true>(plan, neighbors, weights, direction, memory, values, gradient);
  else
    evaluate<D, false, true>(plan, neighbors, weights, direction, memory, values, nullptr);
}

}  // namespace

extern const SymmetryKernels symmetry_kernels = {scratch, values, gradient, tangents};

}  // namespace mlip::MLIP_ISA
