// What the message operators on CUDA share: arguments and their checks, passes over some edges at a time.
#pragma once
#include "groups.cuh"
#include "message.cuh"
#include "offsets.cuh"

namespace mlip::cuda {

// Of one pair of degrees (message.cu).
template <class Real>
const MessageFunctions<Real>& message_functions(int64_t hidden, int64_t harmonics);

namespace {

constexpr int threads = 128;
constexpr int64_t pass_bytes = int64_t{1} << 29;  // of arrays that exist for the edges of a pass

inline const PathSizes& sizes_of(const Checks& checks, int64_t hidden, int64_t harmonics) {
  static constexpr PathSizes sizes[3][3] = {{path_sizes<0, 1>, path_sizes<0, 2>, path_sizes<0, 3>},
                                            {path_sizes<1, 1>, path_sizes<1, 2>, path_sizes<1, 3>},
                                            {{}, path_sizes<2, 2>, path_sizes<2, 3>}};
  checks.expect(hidden >= 0 && hidden <= 2 && harmonics >= 1 && harmonics <= 3 && hidden <= harmonics,
                "hidden, harmonics: expected degrees 0 <= hidden <= 2 and hidden <= harmonics, 1 <= harmonics <= 3");
  return sizes[hidden][harmonics - 1];
}

// x (N, D, C), coupling (E, K), neighbor (E,), offsets (N + 1,) and what they say.
struct MessageGraph {
  const abi::Tensor &x, &coupling, &neighbor, &offsets;
  int64_t hidden, harmonics, num_atoms = 0, num_edges = 0, channels = 0, lanes = 0, rows = 0;
  int32_t dtype;
  PathSizes sizes{};
  Checks checks;

  MessageGraph(const char* name, const abi::Tensor& x_, const abi::Tensor& coupling_, const abi::Tensor& neighbor_,
               const abi::Tensor& offsets_, int64_t hidden_, int64_t harmonics_)
      : x(x_), coupling(coupling_), neighbor(neighbor_), offsets(offsets_), hidden(hidden_), harmonics(harmonics_),
        dtype(x_.dtype()), checks(name, x_) {
    sizes = sizes_of(checks, hidden, harmonics);
    for (int l3 = 0; l3 <= harmonics; l3++) rows += (2 * l3 + 1) * sizes.into[l3];
    checks.real(x, "x: expected float32 or float64");
    lanes = dtype == aoti_torch_dtype_float32() ? 16 : 8;
    checks.tensor(x, dtype, {-1, sizes.components_x, -1},
                  "x: expected a contiguous tensor (atoms, (hidden + 1)^2, channels)");
    num_atoms = x.size(0), channels = x.size(2);
    checks.expect(channels > 0 && channels % lanes == 0, "x: expected a multiple of 16 (float32) or 8 (float64) channels");
    checks.integers(neighbor, {-1}, "neighbor: expected a contiguous int64 tensor (edges,)");
    num_edges = neighbor.size(0);
    checks.expect(num_edges == 0 || num_atoms > 0, "neighbor: expected indices of atoms");
    checks.tensor(coupling, dtype, {num_edges, sizes.coupling},
                  "coupling: expected a contiguous tensor (edges, columns of the coupling matrix) of the type of x");
    checks.integers(offsets, {num_atoms + 1}, "offsets: expected a contiguous int64 tensor (atoms + 1,)");
  }

  // Without radial functions, of all edges.
  template <class Real>
  MessageInput<Real> input(const Buffer<int32_t>& wrong) const {
    MessageInput<Real> in{};
    in.num_atoms = num_atoms, in.num_edges = num_edges, in.channels = channels;
    in.offsets = offsets.data<int64_t>(), in.neighbor = neighbor.data<int64_t>();
    in.x = x.data<Real>(), in.coupling = coupling.data<Real>();
    in.wrong = wrong.data();
    in.last = num_edges;
    return in;
  }
  Buffer<int32_t> wrong(cudaStream_t on) const { return checked_offsets(offsets, num_atoms, num_edges, on); }
  int64_t size() const { return abi::product({rows, num_atoms, channels}); }
  int64_t of_features() const { return sizes.components_x * channels; }
  int64_t of_radial() const { return sizes.paths * channels; }
  abi::Tensor like_x(bool wanted) const {
    return wanted ? x.new_empty({num_atoms, sizes.components_x, channels}, dtype) : x.new_empty({0}, dtype);
  }

  // Edges of a pass, each of which takes so many numbers.
  int64_t edges_of_pass(int64_t numbers) const {
    const int64_t bytes = numbers * (dtype == aoti_torch_dtype_float32() ? 4 : 8);
    return std::max<int64_t>(1, bytes == 0 ? num_edges : std::min(num_edges, pass_bytes / bytes));
  }
  // Calls body(first, last) for the passes, in their order; without edges, too, since sums are then zero.
  template <class Body>
  void each_pass(int64_t edges, const Body& body) const {
    int64_t first = 0;
    do {
      const int64_t last = std::min(num_edges, first + edges);
      body(first, last);
      first = last;
    } while (first < num_edges);
  }

  template <class Real>
  void forward(const MessageInput<Real>& in, Real* out, cudaStream_t on) const {
    launch(message_functions<Real>(hidden, harmonics).forward, atoms_and_parts(num_atoms, channels, message_threads),
           message_threads, on, in, out);
  }
  template <class Real>
  void backward(const MessageInput<Real>& in, const MessageGradients<Real>& grad, cudaStream_t on) const {
    launch(message_functions<Real>(hidden, harmonics).backward, blocks_for(num_atoms, 1), message_threads, on, in, grad);
  }
};

// Sums over the edges of each neighbor or knot, edges of later passes being added to those of the passes before.
struct EdgeSums {
  const int32_t *edges, *bounds;
  const int32_t* wrong;
  int64_t groups, num_edges, first, last, length;

  // Calls body(edge, its place in this pass) for the edges of a group.
  template <class Body>
  MLIP_INLINE void each(int64_t group, const Body& body) const {
    for (int32_t k = bounds[group]; k < bounds[group + 1]; k++) {
      const int64_t e = edges[k];
      if (first <= e && e < last) body(e, e - first);
    }
  }
  MLIP_INLINE bool right() const { return bounds[groups] == num_edges && !*wrong; }
};

// Block (x, y): the derivatives of the features of atom x from y * threads on.
template <class Real>
__global__ void sum_features(EdgeSums of, const Real* features, Real* sums) {
  const int64_t atom = blockIdx.x, place = static_cast<int64_t>(blockIdx.y) * threads + threadIdx.x;
  if (place >= of.length) return;
  Real& to = sums[atom * of.length + place];
  Real sum = of.first == 0 ? Real(0) : to;
  of.each(atom, [&](int64_t, int64_t row) { sum += features[row * of.length + place]; });
  to = of.right() ? sum : not_a_number<Real>();
}

}  // namespace
}  // namespace mlip::cuda
