// Symmetry functions of all centers, and their derivatives: no array of pairs of neighbors is made.
#include "memory.hpp"
#include "symmetry_plan.hpp"

namespace mlip {
namespace {

constexpr int64_t atoms_per_task = 8;

// What all operators take: edges sorted by center, elements, tables.
struct SymmetryArguments {
  static constexpr int count = 10;
  explicit SymmetryArguments(const StableIValue* stack)
      : vectors(stack[0]), offsets(stack[1]), neighbors(stack[2]), species(stack[3]), tables(stack + 4) {}

  void check(const char* name) {
    expect(has_shape(vectors, {-1, 3}) && vectors.dtype() == aoti_torch_dtype_float64(), name,
           "vectors: expected a contiguous float64 tensor of shape (E, 3) on the CPU");
    expect(has_shape(species, {-1}) && is_integer(species), name,
           "species: expected a contiguous int64 tensor of shape (N,)");
    n_edges = vectors.size(0), n_atoms = species.size(0);
    expect(has_shape(offsets, {n_atoms + 1}) && is_integer(offsets), name,
           "offsets: expected a contiguous int64 tensor of shape (N + 1,)");
    expect(has_shape(neighbors, {n_edges}) && is_integer(neighbors), name,
           "neighbors: expected a contiguous int64 tensor of shape (E,)");
    tables.check(name);
    const int64_t *begin = offsets.data<int64_t>(), *of_neighbor = neighbors.data<int64_t>();
    bool right = begin[0] == 0 && begin[n_atoms] == n_edges;
    for (int64_t i = 0; i < n_atoms; i++) {
      right = right && begin[i] <= begin[i + 1];
      const int64_t s = species.data<int64_t>()[i];
      expect(0 <= s && s < tables.n_species, name, "species: expected numbers of the model's elements");
    }
    expect(right, name, "offsets: expected where the edges of each center begin");
    for (int64_t e = 0; e < n_edges; e++)
      expect(0 <= of_neighbor[e] && of_neighbor[e] < tables.n_species, name,
             "neighbors: expected numbers of the model's elements");
  }

  // body(plan, edges of the center, scratch, center) for all centers that have edges, by several threads.
  template <class Body>
  void for_centers(const Body& body) const {
    const Parts parts(tables);
    std::deque<OwnedPlan> plans;
    for (int64_t s = 0; s < tables.n_species; s++) plans.emplace_back(tables, parts, s);
    const auto& kernels = MLIP_BEST(symmetry_kernels);
    const int64_t* begin = offsets.data<int64_t>();
    abi::parallel_for(0, n_atoms, atoms_per_task, [&](int64_t first, int64_t last) {
      Buffer<double> scratch;
      for (int64_t i = first; i < last; i++) {
        const int64_t n = begin[i + 1] - begin[i];
        if (n == 0) continue;
        const SymmetryPlan& plan = plans[static_cast<size_t>(species.data<int64_t>()[i])].plan();
        const CenterNeighbors near{n, vectors.data<double>() + 3 * begin[i], neighbors.data<int64_t>() + begin[i],
                                   tables.n_species};
        body(kernels, plan, near, scratch.reset(kernels.scratch(plan, n, tables.n_species)), i, begin[i]);
      }
    });
  }

  abi::Tensor vectors, offsets, neighbors, species;
  Tables tables;
  int64_t n_edges = 0, n_atoms = 0;
};

abi::Tensor zeros(const abi::Tensor& like, int64_t rows, int64_t columns) {
  auto out = like.new_empty({rows, columns}, aoti_torch_dtype_float64());
  std::fill_n(out.data<double>(), rows * columns, 0.0);
  return out;
}

void expect_like(const abi::Tensor& tensor, int64_t rows, int64_t columns, const char* name, const char* message) {
  expect(has_shape(tensor, {rows, columns}) && tensor.dtype() == aoti_torch_dtype_float64(), name, message);
}
constexpr const char* wrong_grad = "grad: expected a contiguous float64 tensor of shape (N, K) on the CPU";

void symmetry_functions(StableIValue* stack, uint64_t, uint64_t) {
  SymmetryArguments given(stack);
  given.check("symmetry_functions");
  const int64_t columns = given.tables.columns;
  auto out = zeros(given.vectors, given.n_atoms, columns);
  given.for_centers([&](const SymmetryKernels& kernels, const SymmetryPlan& plan, const CenterNeighbors& near,
                        double* scratch, int64_t i, int64_t) {
    kernels.values(plan, near, scratch, out.data<double>() + i * columns);
  });
  stack[0] = out.release();
}

// symmetry_functions_backward(grad (N, K), ...) -> (E, 3)
void symmetry_functions_backward(StableIValue* stack, uint64_t, uint64_t) {
  constexpr const char* name = "symmetry_functions_backward";
  const abi::Tensor grad(stack[0]);
  SymmetryArguments given(stack + 1);
  given.check(name);
  const int64_t columns = given.tables.columns;
  expect_like(grad, given.n_atoms, columns, name, wrong_grad);
  auto out = zeros(given.vectors, given.n_edges, 3);
  given.for_centers([&](const SymmetryKernels& kernels, const SymmetryPlan& plan, const CenterNeighbors& near,
                        double* scratch, int64_t i, int64_t first) {
    kernels.gradient(plan, near, grad.data<double>() + i * columns, scratch, out.data<double>() + 3 * first);
  });
  stack[0] = out.release();
}

// symmetry_functions_tangent(direction (E, 3), grad (N, K), ..., need_gradient) -> derivatives along the direction of
// the functions (N, K), and of the gradient (E, 3), empty where not needed
void symmetry_functions_tangent(StableIValue* stack, uint64_t, uint64_t) {
  constexpr const char* name = "symmetry_functions_tangent";
  const abi::Tensor direction(stack[0]), grad(stack[1]);
  SymmetryArguments given(stack + 2);
  const bool need_gradient = abi::from_stack<bool>(stack[2 + SymmetryArguments::count]);
  given.check(name);
  const int64_t columns = given.tables.columns;
  expect_like(direction, given.n_edges, 3, name, "direction: expected a contiguous float64 tensor of shape (E, 3)");
  expect_like(grad, given.n_atoms, columns, name, wrong_grad);
  auto values = zeros(given.vectors, given.n_atoms, columns);
  auto gradient = zeros(given.vectors, need_gradient ? given.n_edges : 0, 3);
  given.for_centers([&](const SymmetryKernels& kernels, const SymmetryPlan& plan, const CenterNeighbors& near,
                        double* scratch, int64_t i, int64_t first) {
    kernels.tangents(plan, near, grad.data<double>() + i * columns, direction.data<double>() + 3 * first, scratch,
                     values.data<double>() + i * columns,
                     need_gradient ? gradient.data<double>() + 3 * first : nullptr);
  });
  stack[0] = values.release();
  stack[1] = gradient.release();
}

const auto definition =
    abi::Library("mlip")
        .def("symmetry_functions(" MLIP_SYMMETRY_ARGUMENTS ") -> Tensor")
        .def("symmetry_functions_backward(Tensor grad, " MLIP_SYMMETRY_ARGUMENTS ") -> Tensor")
        .def("symmetry_functions_tangent(Tensor direction, Tensor grad, " MLIP_SYMMETRY_ARGUMENTS
             ", bool need_gradient) -> (Tensor values, Tensor gradient)");
const auto cpu = abi::Library("mlip", "CPU")
                     .impl("symmetry_functions", symmetry_functions)
                     .impl("symmetry_functions_backward", symmetry_functions_backward)
                     .impl("symmetry_functions_tangent", symmetry_functions_tangent);

}  // namespace
}  // namespace mlip
