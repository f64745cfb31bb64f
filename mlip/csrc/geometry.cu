// Vectors of edges and their derivative, offsets of the edges of each center, weights of interpolation: on CUDA.
//
// The gradients of atoms and cells are sums over items sorted by atom and by structure, the same in every run.
#include "groups.cuh"
#include "interpolation.hpp"

namespace mlip::cuda {
namespace {

constexpr int threads = 128;

// edge_index (2,E) and batch (N,) int64, edge_shift (E,3) int32 or int64.
struct Edges {
  const int64_t *center, *neighbor, *graph;
  int64_t n_edges, n_atoms, n_graphs;
};

struct EdgeArguments {
  abi::Tensor index, shift, batch;

  explicit EdgeArguments(const StableIValue* stack) : index(stack[0]), shift(stack[1]), batch(stack[2]) {}

  Edges check(const Checks& checks, int64_t n_graphs) const {
    checks.integers(index, {2, -1}, "edge_index: expected a contiguous int64 tensor of shape (2, E)");
    const int64_t n_edges = index.size(1);
    const bool wide = shift.dtype() == aoti_torch_dtype_int64();
    checks.tensor(shift, wide ? shift.dtype() : aoti_torch_dtype_int32(), {n_edges, 3},
                  "edge_shift: expected a contiguous int32 or int64 tensor of shape (E, 3)");
    checks.integers(batch, {-1}, "batch: expected a contiguous int64 tensor of shape (N,)");
    const auto* center = index.data<int64_t>();
    return {center, center + n_edges, batch.data<int64_t>(), n_edges, batch.size(0), n_graphs};
  }

  // Calls body with the shifts, as int32 or int64.
  template <class Body>
  void with_shifts(const Body& body) const {
    if (shift.dtype() == aoti_torch_dtype_int64())
      body(static_cast<const int64_t*>(shift.data<int64_t>()));
    else
      body(static_cast<const int32_t*>(shift.data<int32_t>()));
  }
};

template <class Real, class Integer>
__global__ void find_vectors(Edges edges, const Integer* shifts, const Real* positions, const Real* cell,
                             Real* vectors) {
  const int64_t e = thread_number();
  if (e >= edges.n_edges) return;
  const int64_t i = edges.center[e], j = edges.neighbor[e];
  const int64_t graph = below(i, edges.n_atoms) && below(j, edges.n_atoms) ? edges.graph[i] : -1;
  if (!below(graph, edges.n_graphs)) {
    for (int d = 0; d < 3; d++) vectors[3 * e + d] = not_a_number<Real>();
    return;
  }
  const Integer* s = shifts + 3 * e;
  const Real *ri = positions + 3 * i, *rj = positions + 3 * j, *h = cell + 9 * graph;
  const Real a = static_cast<Real>(s[0]), b = static_cast<Real>(s[1]), c = static_cast<Real>(s[2]);
  for (int d = 0; d < 3; d++) vectors[3 * e + d] = (rj[d] - ri[d]) + ((a * h[d] + b * h[3 + d]) + c * h[6 + d]);
}

void edge_vectors(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor positions(stack[0]), cell(stack[1]);
  const EdgeArguments arguments(stack + 2);
  const Checks checks("edge_vectors", positions);
  checks.real(positions, "positions: expected float32 or float64");
  checks.tensor(positions, positions.dtype(), {-1, 3}, "positions: expected a contiguous tensor of shape (N, 3)");
  checks.tensor(cell, positions.dtype(), {-1, 3, 3},
                "cell: expected a contiguous tensor of shape (B, 3, 3) and the type of the positions");
  const Edges edges = arguments.check(checks, cell.size(0));
  checks.expect(edges.n_atoms == positions.size(0), "batch: expected as many numbers as positions");
  const Device device(positions);
  auto vectors = positions.new_empty({edges.n_edges, 3}, positions.dtype());
  for_real(positions, [&](auto zero) {
    using Real = decltype(zero);
    arguments.with_shifts([&](const auto* shifts) {
      using Integer = std::remove_cv_t<std::remove_pointer_t<decltype(shifts)>>;
      launch(find_vectors<Real, Integer>, blocks_for(edges.n_edges, threads), threads, stream(positions), edges, shifts,
             positions.data<Real>(), cell.data<Real>(), vectors.template data<Real>());
    });
  });
  stack[0] = vectors.release();
}

// The part of one atom in the gradients: of its position, from the edges that it is center (items below E) or neighbor
// of; of the cell, from those that it is center of. A thread per atom.
template <class Real, class Integer>
__global__ void sum_edges(Edges edges, const Integer* shifts, const Real* grad, const int32_t* items,
                          const int32_t* bounds, Real* positions, double* cell_parts) {
  const int64_t i = thread_number();
  if (i >= edges.n_atoms) return;
  const bool right = bounds[edges.n_atoms] == 2 * edges.n_edges;
  Real sum[3] = {};
  double cell[9] = {};
  for (int32_t k = bounds[i]; k < bounds[i + 1]; k++) {
    const int64_t item = items[k], e = item < edges.n_edges ? item : item - edges.n_edges;
    const Real* g = grad + 3 * e;
    if (item >= edges.n_edges) {
      for (int d = 0; d < 3; d++) sum[d] += g[d];
      continue;
    }
    for (int d = 0; d < 3; d++) sum[d] -= g[d];
    const Integer* s = shifts + 3 * e;
    if (!(s[0] | s[1] | s[2])) continue;
    for (int a = 0; a < 3; a++)
      for (int d = 0; d < 3; d++) cell[3 * a + d] += static_cast<double>(s[a]) * static_cast<double>(g[d]);
  }
  for (int d = 0; d < 3; d++) positions[3 * i + d] = right ? sum[d] : not_a_number<Real>();
  for (int d = 0; d < 9; d++) cell_parts[9 * i + d] = right ? cell[d] : not_a_number<double>();
}

// A block per structure.
template <class Real>
__global__ void sum_atoms(const double* cell_parts, const int32_t* atoms, const int32_t* bounds, int64_t n_atoms,
                          Real* cell) {
  __shared__ double sums[9 * threads];
  const int64_t graph = blockIdx.x;
  double mine[9] = {};
  for (int32_t k = bounds[graph] + static_cast<int32_t>(threadIdx.x); k < bounds[graph + 1]; k += threads)
    for (int d = 0; d < 9; d++) mine[d] += cell_parts[9 * static_cast<int64_t>(atoms[k]) + d];
  for (int d = 0; d < 9; d++) sums[d * threads + threadIdx.x] = mine[d];
  for (unsigned half = threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half)
      for (int d = 0; d < 9; d++) sums[d * threads + threadIdx.x] += sums[d * threads + threadIdx.x + half];
  }
  __syncthreads();
  if (threadIdx.x >= 9) return;
  const bool right = bounds[gridDim.x] == n_atoms;
  cell[9 * graph + threadIdx.x] = right ? static_cast<Real>(sums[threadIdx.x * threads]) : not_a_number<Real>();
}

void edge_vectors_backward(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor grad(stack[0]);
  const EdgeArguments arguments(stack + 1);
  const auto n_graphs = abi::from_stack<int64_t>(stack[4]);
  const Checks checks("edge_vectors_backward", grad);
  checks.expect(n_graphs >= 0, "n_graphs: expected a number of structures");
  checks.real(grad, "grad: expected float32 or float64");
  const Edges edges = arguments.check(checks, n_graphs);
  checks.tensor(grad, grad.dtype(), {edges.n_edges, 3}, "grad: expected a contiguous tensor of shape (E, 3)");
  const Device device(grad);
  const cudaStream_t on = stream(grad);
  auto positions = grad.new_empty({edges.n_atoms, 3}, grad.dtype());
  auto cell = grad.new_empty({n_graphs, 3, 3}, grad.dtype());
  const Groups ends(grad, edges.center, 2 * edges.n_edges, edges.n_atoms, on);
  const Groups structures(grad, edges.graph, edges.n_atoms, n_graphs, on);
  const Buffer<double> parts(grad, 9 * edges.n_atoms);
  for_real(grad, [&](auto zero) {
    using Real = decltype(zero);
    arguments.with_shifts([&](const auto* shifts) {
      using Integer = std::remove_cv_t<std::remove_pointer_t<decltype(shifts)>>;
      launch(sum_edges<Real, Integer>, blocks_for(edges.n_atoms, threads), threads, on, edges, shifts,
             grad.data<Real>(), ends.order(), ends.bounds(), positions.template data<Real>(), parts.data());
    });
    launch(sum_atoms<Real>, blocks_for(n_graphs, 1), threads, on, parts.data(), structures.order(),
           structures.bounds(), edges.n_atoms, cell.template data<Real>());
  });
  stack[0] = positions.release();
  stack[1] = cell.release();
}

__global__ void find_offsets(const int64_t* center, int64_t n_edges, int64_t size, int64_t* offsets) {
  const int64_t k = thread_number();
  if (k <= size) offsets[k] = lower_bound(center, n_edges, k);
}

// Offsets of centers that are not ascending begin with -1, which makes messages NaN.
__global__ void check_order(const int64_t* center, int64_t n_edges, int64_t size, int64_t* offsets) {
  const int64_t e = thread_number();
  if (e >= n_edges) return;
  if (!below(center[e], size) || (e > 0 && center[e - 1] > center[e])) offsets[0] = -1;
}

void row_offsets(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor center(stack[0]);
  const auto size = abi::from_stack<int64_t>(stack[1]);
  const Checks checks("row_offsets", center);
  checks.integers(center, {-1}, "center: expected a contiguous int64 tensor of shape (E,)");
  checks.expect(size >= 0, "size: expected a number of atoms");
  const Device device(center);
  const int64_t n_edges = center.size(0);
  auto offsets = center.new_empty({size + 1}, center.dtype());
  const auto *from = center.data<int64_t>();
  auto* to = offsets.data<int64_t>();
  launch(find_offsets, blocks_for(size + 1, threads), threads, stream(center), from, n_edges, size, to);
  launch(check_order, blocks_for(n_edges, threads), threads, stream(center), from, n_edges, size, to);
  stack[0] = offsets.release();
}

template <class Real>
__global__ void find_weights(KnotGrid grid, int64_t count, const Real* r, Real* weights, int64_t* rows) {
  const int64_t e = thread_number();
  if (e >= count) return;
  double w[4];
  rows[e] = grid.evaluate(static_cast<double>(r[e]), w);
  for (int k = 0; k < 4; k++) weights[4 * e + k] = static_cast<Real>(w[k]);
}

template <class Real>
__global__ void sum_weights(KnotGrid grid, int64_t count, const Real* grad, const Real* r, Real* sums) {
  const int64_t e = thread_number();
  if (e >= count) return;
  double w[4], total = 0;
  grid.evaluate(static_cast<double>(r[e]), w);
  for (int k = 0; k < 4; k++) total += w[k] * static_cast<double>(grad[4 * e + k]);
  sums[e] = static_cast<Real>(total);
}

KnotGrid grid_of(const char* operation, const StableIValue* stack) {
  return {operation, abi::from_stack<double>(stack[0]), abi::from_stack<int64_t>(stack[1]),
          abi::from_stack<int64_t>(stack[2])};
}

void cubic_weights(StableIValue* stack, uint64_t, uint64_t) {
  constexpr const char* name = "cubic_weights";
  const abi::Tensor r(stack[0]);
  const KnotGrid grid = grid_of(name, stack + 1);
  const Checks checks(name, r);
  checks.real(r, "r: expected float32 or float64");
  checks.tensor(r, r.dtype(), {-1}, "r: expected a contiguous tensor of shape (E,)");
  const Device device(r);
  const int64_t count = r.size(0);
  auto weights = r.new_empty({count, 4}, r.dtype());
  auto rows = r.new_empty({count}, aoti_torch_dtype_int64());
  for_real(r, [&](auto zero) {
    using Real = decltype(zero);
    launch(find_weights<Real>, blocks_for(count, threads), threads, stream(r), grid, count, r.data<Real>(),
           weights.template data<Real>(), rows.template data<int64_t>());
  });
  stack[0] = weights.release();
  stack[1] = rows.release();
}

void cubic_weights_backward(StableIValue* stack, uint64_t, uint64_t) {
  constexpr const char* name = "cubic_weights_backward";
  const abi::Tensor grad(stack[0]), r(stack[1]);
  const KnotGrid grid = grid_of(name, stack + 2);
  const Checks checks(name, r);
  checks.real(r, "r: expected float32 or float64");
  checks.tensor(r, r.dtype(), {-1}, "r: expected a contiguous tensor of shape (E,)");
  const int64_t count = r.size(0);
  checks.tensor(grad, r.dtype(), {count, 4}, "grad: expected a contiguous tensor of shape (E, 4) and the type of r");
  const Device device(r);
  auto sums = r.new_empty({count}, r.dtype());
  for_real(r, [&](auto zero) {
    using Real = decltype(zero);
    launch(sum_weights<Real>, blocks_for(count, threads), threads, stream(r), grid, count, grad.data<Real>(),
           r.data<Real>(), sums.template data<Real>());
  });
  stack[0] = sums.release();
}

const auto operators = abi::Library("mlip", "CUDA")
                           .impl("edge_vectors", edge_vectors)
                           .impl("edge_vectors_backward", edge_vectors_backward)
                           .impl("row_offsets", row_offsets)
                           .impl("cubic_weights", cubic_weights)
                           .impl("cubic_weights_backward", cubic_weights_backward);

}  // namespace
}  // namespace mlip::cuda
