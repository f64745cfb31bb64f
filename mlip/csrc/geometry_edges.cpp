// Vectors of edges, r_j - r_i + S·cell, and their derivative; offsets of the edges of each center.
//
// The gradient of an atom is summed in the order of the edges, whichever thread does it: a thread owns a range of atoms
// and goes through all edges. The gradient of the cells is summed in double over chunks of fixed length.
#include <algorithm>
#include <vector>

#include "geometry_arguments.hpp"

namespace mlip {
namespace {

constexpr int64_t edges_per_task = 4096;
constexpr int64_t atoms_per_task = 2048;

// What both directions are given: edge_index (2,E) and batch (N,) int64, edge_shift (E,3) int32 or int64.
struct Edges {
  abi::Tensor index, shift, batch;
  int64_t n_atoms = 0, n_edges = 0, n_graphs = 0;
  const int64_t *center = nullptr, *neighbor = nullptr, *graph = nullptr;

  explicit Edges(const StableIValue* stack) : index(stack[0]), shift(stack[1]), batch(stack[2]) {}

  void check(const char* operation, int64_t graphs) {
    expect(has_shape(index, {2, -1}) && is_integer(index), operation,
           "edge_index: expected a contiguous int64 tensor of shape (2, E) on the CPU");
    n_edges = index.size(1);
    n_graphs = graphs;
    expect(has_shape(shift, {n_edges, 3}) && (is_integer(shift) || shift.dtype() == aoti_torch_dtype_int32()),
           operation, "edge_shift: expected a contiguous int32 or int64 tensor of shape (E, 3) on the CPU");
    expect(has_shape(batch, {-1}) && is_integer(batch), operation,
           "batch: expected a contiguous int64 tensor of shape (N,) on the CPU");
    n_atoms = batch.size(0);
    center = index.data<int64_t>();
    neighbor = center + n_edges;
    graph = batch.data<int64_t>();
    for (int64_t k = 0; k < n_atoms; k++)
      expect(0 <= graph[k] && graph[k] < n_graphs, operation, "batch: expected numbers from 0 to B - 1");
  }

  // Calls body with the shifts, as int32 or int64.
  template <class Body>
  void with_shifts(const Body& body) const {
    if (is_integer(shift))
      body(static_cast<const int64_t*>(shift.data<int64_t>()));
    else
      body(static_cast<const int32_t*>(shift.data<int32_t>()));
  }

  bool in_range(int64_t e) const {
    const auto atoms = static_cast<uint64_t>(n_atoms);
    return static_cast<uint64_t>(center[e]) < atoms && static_cast<uint64_t>(neighbor[e]) < atoms;
  }
};

constexpr const char* forward_name = "edge_vectors";
constexpr const char* backward_name = "edge_vectors_backward";
constexpr const char* wrong_index = "edge_index: expected numbers from 0 to N - 1";

template <class Real, class Integer>
void forward(const Edges& edges, const Integer* shifts, const Real* positions, const Real* cell, Real* vectors) {
  abi::parallel_for(0, edges.n_edges, edges_per_task, [&](int64_t first, int64_t last) {
    for (int64_t e = first; e < last; e++) {
      expect(edges.in_range(e), forward_name, wrong_index);
      const int64_t i = edges.center[e];
      const Integer* s = shifts + 3 * e;
      const Real *ri = positions + 3 * i, *rj = positions + 3 * edges.neighbor[e], *h = cell + 9 * edges.graph[i];
      const Real a = static_cast<Real>(s[0]), b = static_cast<Real>(s[1]), c = static_cast<Real>(s[2]);
      for (int d = 0; d < 3; d++) vectors[3 * e + d] = (rj[d] - ri[d]) + ((a * h[d] + b * h[3 + d]) + c * h[6 + d]);
    }
  });
}

void edge_vectors(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor positions(stack[0]), cell(stack[1]);
  Edges edges(stack + 2);
  expect(has_shape(positions, {-1, 3}) && is_real(positions), forward_name,
         "positions: expected a contiguous float32 or float64 tensor of shape (N, 3) on the CPU");
  expect(has_shape(cell, {-1, 3, 3}) && cell.dtype() == positions.dtype(), forward_name,
         "cell: expected a contiguous tensor of shape (B, 3, 3) and the type of the positions");
  edges.check(forward_name, cell.size(0));
  expect(edges.n_atoms == positions.size(0), forward_name, "batch: expected as many numbers as positions");
  auto vectors = new_output(positions, {edges.n_edges, 3});
  for_real(positions, [&](auto zero) {
    using Real = decltype(zero);
    edges.with_shifts([&](const auto* shifts) {
      forward<Real>(edges, shifts, positions.data<Real>(), cell.data<Real>(), vectors.data<Real>());
    });
  });
  stack[0] = vectors.release();
}

template <class Real>
void positions_gradient(const Edges& edges, const Real* grad, Real* out) {
  abi::parallel_for(0, edges.n_atoms, atoms_per_task, [&](int64_t first, int64_t last) {
    std::fill(out + 3 * first, out + 3 * last, Real(0));
    const auto mine = [&](int64_t atom) { return first <= atom && atom < last; };
    for (int64_t e = 0; e < edges.n_edges; e++) {
      const int64_t i = edges.center[e], j = edges.neighbor[e];
      if (mine(i))
        for (int d = 0; d < 3; d++) out[3 * i + d] -= grad[3 * e + d];
      if (mine(j))
        for (int d = 0; d < 3; d++) out[3 * j + d] += grad[3 * e + d];
    }
  });
}

// The part of the edges of one chunk in the gradient of one cell.
struct CellPart {
  int64_t graph;
  double sum[9];
};

template <class Real, class Integer>
std::vector<CellPart> cell_parts(const Edges& edges, const Integer* shifts, const Real* grad, int64_t first, int64_t last) {
  std::vector<CellPart> parts;
  for (int64_t e = first; e < last; e++) {
    expect(edges.in_range(e), backward_name, wrong_index);
    const Integer* s = shifts + 3 * e;
    const int64_t graph = edges.graph[edges.center[e]];
    if (!(s[0] | s[1] | s[2])) continue;
    if (parts.empty() || parts.back().graph != graph) parts.push_back({graph, {}});
    for (int a = 0; a < 3; a++)
      for (int d = 0; d < 3; d++)
        parts.back().sum[3 * a + d] += static_cast<double>(s[a]) * static_cast<double>(grad[3 * e + d]);
  }
  return parts;
}

// Also finds out whether all edges are in range, and so comes first.
template <class Real, class Integer>
void cell_gradient(const Edges& edges, const Integer* shifts, const Real* grad, Real* out) {
  const int64_t n_chunks = (edges.n_edges + edges_per_task - 1) / edges_per_task;
  std::vector<std::vector<CellPart>> chunks(static_cast<size_t>(n_chunks));
  abi::parallel_for(0, n_chunks, 1, [&](int64_t first, int64_t last) {
    for (int64_t k = first; k < last; k++)
      chunks[static_cast<size_t>(k)] = cell_parts(edges, shifts, grad, k * edges_per_task,
                                                  std::min((k + 1) * edges_per_task, edges.n_edges));
  });
  std::vector<double> sum(static_cast<size_t>(9 * edges.n_graphs));
  for (const auto& chunk : chunks)
    for (const CellPart& part : chunk)
      for (int d = 0; d < 9; d++) sum[static_cast<size_t>(9 * part.graph + d)] += part.sum[d];
  for (size_t k = 0; k < sum.size(); k++) out[k] = static_cast<Real>(sum[k]);
}

void edge_vectors_backward(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor grad(stack[0]);
  Edges edges(stack + 1);
  const auto n_graphs = abi::from_stack<int64_t>(stack[4]);
  expect(n_graphs >= 0, backward_name, "n_graphs: expected a number of structures");
  edges.check(backward_name, n_graphs);
  expect(has_shape(grad, {edges.n_edges, 3}) && is_real(grad), backward_name,
         "grad: expected a contiguous float32 or float64 tensor of shape (E, 3) on the CPU");
  auto positions = new_output(grad, {edges.n_atoms, 3});
  auto cell = new_output(grad, {n_graphs, 3, 3});
  for_real(grad, [&](auto zero) {
    using Real = decltype(zero);
    edges.with_shifts(
        [&](const auto* shifts) { cell_gradient(edges, shifts, grad.data<Real>(), cell.data<Real>()); });
    positions_gradient(edges, grad.data<Real>(), positions.data<Real>());
  });
  stack[0] = positions.release();
  stack[1] = cell.release();
}

void row_offsets(StableIValue* stack, uint64_t, uint64_t) {
  constexpr const char* name = "row_offsets";
  const abi::Tensor center(stack[0]);
  const auto size = abi::from_stack<int64_t>(stack[1]);
  expect(has_shape(center, {-1}) && is_integer(center), name,
         "center: expected a contiguous int64 tensor of shape (E,) on the CPU");
  expect(size >= 0, name, "size: expected a number of atoms");
  auto offsets = center.new_empty({size + 1}, center.dtype());
  const int64_t *c = center.data<int64_t>(), n_edges = center.size(0);
  auto* out = offsets.data<int64_t>();
  int64_t row = 0;  // the next one whose start is not known
  for (int64_t e = 0; e < n_edges; e++) {
    expect(0 <= c[e] && c[e] < size, name, "center: expected numbers from 0 to N - 1");
    expect(c[e] + 1 >= row, name, "center: expected ascending numbers");
    while (row <= c[e]) out[row++] = e;
  }
  while (row <= size) out[row++] = n_edges;
  stack[0] = offsets.release();
}

const auto definition =
    abi::Library("mlip")
        .def("edge_vectors(Tensor positions, Tensor cell, Tensor edge_index, Tensor edge_shift, Tensor batch) -> Tensor")
        .def("edge_vectors_backward(Tensor grad, Tensor edge_index, Tensor edge_shift, Tensor batch, int n_graphs) -> "
             "(Tensor positions, Tensor cell)")
        .def("row_offsets(Tensor center, int size) -> Tensor");
const auto cpu = abi::Library("mlip", "CPU")
                     .impl("edge_vectors", edge_vectors)
                     .impl("edge_vectors_backward", edge_vectors_backward)
                     .impl("row_offsets", row_offsets);

}  // namespace
}  // namespace mlip
