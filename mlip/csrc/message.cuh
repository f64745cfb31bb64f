// Fused messages on CUDA (message.hpp has the formula) with radial functions interpolated from a table, or given for some
// edges at a time.
//
// Forward: a block for a center and its channels, a thread per channel; the edges of the center in their order, coupling
// through shared memory, all messages of a channel in registers. Backward: a warp per edge, whose lanes share out the
// channels; derivatives of coupling and weights are sums over the lanes. Derivatives of the features and of the radial
// functions are stored for each edge, for some edges at a time, and then summed over the edges of each neighbor and of
// each knot in their order.
#pragma once
#include "device.cuh"
#include "message_paths.hpp"

namespace mlip::cuda {

constexpr int message_threads = 128;
constexpr int edges_at_once = 16;     // of a center in shared memory
constexpr int backward_columns = 36;  // of the coupling's derivative in registers; enough for any one path

template <class Real>
struct MessageInput {
  int64_t num_atoms, num_edges, channels, knots;
  const int64_t *offsets, *neighbor, *knot;
  const Real *x, *coupling, *weights, *table;
  const int32_t* wrong;   // not zero: the offsets are no offsets
  int64_t first, last;    // the edges of this pass
  const Real* radial;     // of these (last - first, paths, channels); null: from the table
};

// Radial functions of one edge. A wrong index makes them NaN. Of given ones w[0] is the factor.
template <class Real>
struct Interpolation {
  int64_t neighbor, knot;
  Real w[4];
};
template <class Real>
MLIP_INLINE void load_interpolation(const MessageInput<Real>& in, int64_t e, Interpolation<Real>& to) {
  to.neighbor = in.neighbor[e], to.knot = in.radial ? 0 : in.knot[e];
  const bool right = below(to.neighbor, in.num_atoms) && (in.radial || below(to.knot, in.knots - 1));
  if (!right) to.neighbor = to.knot = 0;
  for (int k = 0; k < 4; k++) {
    const Real weight = in.radial ? Real(1) : in.weights[4 * e + k];
    to.w[k] = right ? weight : not_a_number<Real>();
  }
}

// The table's entries of a knot and a channel, in which those of a path are 3 * lanes apart.
template <class Real>
struct TableEntry {
  static constexpr int lanes = 64 / sizeof(Real), step = 3 * lanes;
  const Real *low, *high;

  MLIP_INLINE TableEntry(const MessageInput<Real>& in, int paths, int64_t knot, int64_t channel) {
    if (in.radial) return;
    const int64_t row_length = in.channels * paths * 3;
    low = in.table + knot * row_length + channel / lanes * lanes * (paths * 3) + channel % lanes;
    high = low + row_length;
  }
  MLIP_INLINE Real value(int path) const { return low[path * step]; }
  MLIP_INLINE Real slope(int path) const { return low[path * step + lanes]; }
  MLIP_INLINE Real difference(int path) const { return low[path * step + 2 * lanes]; }
  MLIP_INLINE Real next_slope(int path) const { return high[path * step + lanes]; }
};

// Where the messages of the path q of an atom begin, component 0 and channel 0; and from one component to the next.
template <int H, int L, int q>
MLIP_INLINE int64_t messages_of(int64_t num_atoms, int64_t channels, int64_t atom) {
  using P = Paths<H, L>;
  constexpr int l3 = P::all[q].l3, slot = P::slot(q), into = P::into(l3);
  int before = 0;
  unroll<l3>([&](auto l) {
    constexpr int lower = P::into(l);
    before += (2 * l + 1) * lower;
  });
  return (before * num_atoms + atom * into + slot) * channels;
}
template <int H, int L, int q>
MLIP_INLINE int64_t component_step(int64_t num_atoms, int64_t channels) {
  constexpr int into = Paths<H, L>::into(Paths<H, L>::all[q].l3);
  return num_atoms * into * channels;
}

// Block (x, y): center x, channels from y * message_threads on.
template <class Real, int H, int L>
__global__ void __launch_bounds__(message_threads) message_forward(MessageInput<Real> in, Real* out) {
  using P = Paths<H, L>;
  __shared__ Real coupling[edges_at_once * P::coupling_size];
  __shared__ Interpolation<Real> radial[edges_at_once];
  const int64_t atom = blockIdx.x, channel = static_cast<int64_t>(blockIdx.y) * message_threads + threadIdx.x;
  const bool active = channel < in.channels, wrong = *in.wrong;
  int64_t begin = wrong ? 0 : in.offsets[atom], end = wrong ? 0 : in.offsets[atom + 1];
  begin = begin > in.first ? begin : in.first, end = end < in.last ? end : in.last;
  if (in.first > 0 && begin >= end) return;
  Real sums[P::rows];
  unroll<P::rows>([&](auto row) { sums[row] = wrong ? not_a_number<Real>() : Real(0); });
  if (in.first > 0 && active)  // the sums of the passes before
    unroll<P::count>([&](auto path) {
      constexpr int q = path, row = P::first_row(q);
      const Real* from = out + messages_of<H, L, q>(in.num_atoms, in.channels, atom) + channel;
      const int64_t step = component_step<H, L, q>(in.num_atoms, in.channels);
      unroll<2 * P::all[q].l3 + 1>([&](auto m3) { sums[row + m3] = from[m3 * step]; });
    });
  for (int64_t first = begin; first < end; first += edges_at_once) {
    const int count = static_cast<int>(end - first < edges_at_once ? end - first : edges_at_once);
    __syncthreads();
    for (int k = threadIdx.x; k < count * P::coupling_size; k += message_threads)
      coupling[k] = in.coupling[first * P::coupling_size + k];
    if (static_cast<int>(threadIdx.x) < count) load_interpolation(in, first + threadIdx.x, radial[threadIdx.x]);
    __syncthreads();
    for (int e = 0; active && e < count; e++) {
      const Interpolation<Real>& at = radial[e];
      const TableEntry<Real> entry(in, P::count, at.knot, channel);
      const Real* given = in.radial ? in.radial + (first + e - in.first) * P::count * in.channels + channel : nullptr;
      const Real w0 = at.w[0], w1 = at.w[1], w2 = at.w[2], w3 = at.w[3];
      const Real *m = coupling + e * P::coupling_size, *x = in.x + at.neighbor * P::components_x * in.channels + channel;
      Real features[P::components_x];
      unroll<P::components_x>([&](auto k) { features[k] = x[k * in.channels]; });
      unroll<P::count>([&](auto path) {
        constexpr int q = path, l1 = P::all[q].l1, l2 = P::all[q].l2, n1 = 2 * l1 + 1, n3 = 2 * P::all[q].l3 + 1;
        constexpr int column = P::first_column(q), row = P::first_row(q), p = P::public_index(q);
        const Real r = given ? w0 * given[p * in.channels]
                             : w0 * entry.value(p) + w1 * entry.slope(p) +
                                   (w2 * entry.difference(p) + w3 * entry.next_slope(p));
        if constexpr (l2 == 0) {
          const Real t = r * m[column];
          unroll<n1>([&](auto m1) { sums[row + m1] += t * features[l1 * l1 + m1]; });
        } else {
          unroll<n1>([&](auto m1) {
            const Real t = r * features[l1 * l1 + m1];
            unroll<n3>([&](auto m3) { sums[row + m3] += m[column + m3 * n1 + m1] * t; });
          });
        }
      });
    }
  }
  if (!active) return;
  unroll<P::count>([&](auto path) {
    constexpr int q = path, row = P::first_row(q);
    Real* to = out + messages_of<H, L, q>(in.num_atoms, in.channels, atom) + channel;
    const int64_t step = component_step<H, L, q>(in.num_atoms, in.channels);
    unroll<2 * P::all[q].l3 + 1>([&](auto m3) { to[m3 * step] = sums[row + m3]; });
  });
}

// Consecutive paths from the same features, whose columns fit the registers of the backward pass.
struct PathGroup {
  int begin, end;
};
template <int H, int L>
struct PathGroups : Paths<H, L> {
  using P = Paths<H, L>;
  static constexpr int make(PathGroup* groups) {
    int n = 0;
    for (int q = 0, first = 0; q < P::count; q++) {
      const bool full = P::first_column(q) + P::columns(q) - P::first_column(first) > backward_columns;
      if (q > first && (full || P::all[q].l1 != P::all[first].l1)) first = q;
      if (q == first) groups[n++].begin = q;
      groups[n - 1].end = q + 1;
    }
    return n;
  }
  static constexpr std::array<PathGroup, P::count> groups = [] {
    std::array<PathGroup, P::count> made{};
    make(made.data());
    return made;
  }();
  static constexpr int group_count = [] {
    std::array<PathGroup, P::count> made{};
    return make(made.data());
  }();
};

template <class Real>
struct MessageGradients {
  const Real* messages;
  Real *coupling, *weights;  // of all edges; weights may be null
  Real* features;            // of the edges of this pass (last - first, components, channels), or null
  Real* radial;              // of the edges of this pass (last - first, paths, channels), or null
};

template <class Real, int H, int L, int group>
MLIP_INLINE void backward_group(const MessageInput<Real>& in, const MessageGradients<Real>& grad,
                                const Interpolation<Real>& at, int64_t atom, int64_t e, int lane, Real* grad_weights) {
  using P = PathGroups<H, L>;
  constexpr int begin = P::groups[group].begin, end = P::groups[group].end, first_column = P::first_column(begin);
  constexpr int columns = P::first_column(end - 1) + P::columns(end - 1) - first_column;
  constexpr int l1 = P::all[begin].l1, n1 = 2 * l1 + 1;
  constexpr bool starts = begin == 0 || P::all[begin == 0 ? 0 : begin - 1].l1 != l1;  // first group of these features
  const int64_t channels = in.channels;
  const Real* x = in.x + (at.neighbor * P::components_x + l1 * l1) * channels;
  Real* to = grad.features ? grad.features + ((e - in.first) * P::components_x + l1 * l1) * channels : nullptr;
  const Real* m = in.coupling + e * P::coupling_size + first_column;
  const Real w0 = at.w[0], w1 = at.w[1], w2 = at.w[2], w3 = at.w[3];
  Real sums[columns] = {};
  for (int64_t channel = lane; channel < channels; channel += warp) {
    const TableEntry<Real> entry(in, P::count, at.knot, channel);
    const Real* given = in.radial ? in.radial + (e - in.first) * P::count * channels + channel : nullptr;
    Real features[n1], grad_features[n1] = {};
    unroll<n1>([&](auto m1) { features[m1] = x[m1 * channels + channel]; });
    unroll<end - begin>([&](auto k) {
      constexpr int q = begin + k, n3 = 2 * P::all[q].l3 + 1, column = P::first_column(q) - first_column;
      constexpr int p = P::public_index(q);
      const Real* from = grad.messages + messages_of<H, L, q>(in.num_atoms, channels, atom) + channel;
      const int64_t step = component_step<H, L, q>(in.num_atoms, channels);
      Real f0 = 0, d0 = 0, df = 0, d1 = 0;
      if (given)
        f0 = given[p * channels];
      else
        f0 = entry.value(p), d0 = entry.slope(p), df = entry.difference(p), d1 = entry.next_slope(p);
      const Real r = w0 * f0 + w1 * d0 + (w2 * df + w3 * d1);
      Real grad_r = 0;
      if constexpr (P::all[q].l2 == 0) {
        Real dot = 0;
        unroll<n1>([&](auto m1) {
          const Real g = from[m1 * step];
          dot += g * features[m1];
          grad_features[m1] += (r * m[column]) * g;
        });
        sums[column] += dot * r;
        grad_r = dot * m[column];
      } else {
        Real t[n1], u[n1] = {};
        unroll<n1>([&](auto m1) { t[m1] = r * features[m1]; });
        unroll<n3>([&](auto m3) {
          const Real g = from[m3 * step];
          unroll<n1>([&](auto m1) {
            u[m1] += m[column + m3 * n1 + m1] * g;
            sums[column + m3 * n1 + m1] += g * t[m1];
          });
        });
        unroll<n1>([&](auto m1) {
          grad_r += u[m1] * features[m1];
          grad_features[m1] += u[m1] * r;
        });
      }
      if (grad.radial) grad.radial[((e - in.first) * P::count + p) * channels + channel] = grad_r;
      if (given) return;
      grad_weights[0] += grad_r * f0, grad_weights[1] += grad_r * d0;
      grad_weights[2] += grad_r * df, grad_weights[3] += grad_r * d1;
    });
    if (to)
      unroll<n1>([&](auto m1) {
        Real& sum = to[m1 * channels + channel];
        sum = starts ? grad_features[m1] : sum + grad_features[m1];
      });
  }
  store_lane_sums<columns>(sums, lane, grad.coupling + e * P::coupling_size + first_column);
}

// A block per center, a warp per edge.
template <class Real, int H, int L>
__global__ void __launch_bounds__(message_threads) message_backward(MessageInput<Real> in, MessageGradients<Real> grad) {
  using P = PathGroups<H, L>;
  constexpr int warps = message_threads / warp;
  const int lane = threadIdx.x % warp;
  const int64_t atom = blockIdx.x;
  if (*in.wrong) return;
  const int64_t begin = in.offsets[atom], end = in.offsets[atom + 1];
  const int64_t last = end < in.last ? end : in.last;
  for (int64_t e = (begin > in.first ? begin : in.first) + threadIdx.x / warp; e < last; e += warps) {
    Interpolation<Real> at;
    load_interpolation(in, e, at);
    Real grad_weights[4] = {};
    unroll<P::group_count>(
        [&](auto group) { backward_group<Real, H, L, group>(in, grad, at, atom, e, lane, grad_weights); });
    if (grad.weights) store_lane_sums<4>(grad_weights, lane, grad.weights + 4 * e);
  }
}

// Functions of one pair of degrees.
template <class Real>
struct MessageFunctions {
  void (*forward)(MessageInput<Real>, Real* out);
  void (*backward)(MessageInput<Real>, MessageGradients<Real>);
};
struct MessageKernels {
  MessageFunctions<float> float32;
  MessageFunctions<double> float64;
};
template <int H, int L>
constexpr MessageKernels message_kernels = {{message_forward<float, H, L>, message_backward<float, H, L>},
                                            {message_forward<double, H, L>, message_backward<double, H, L>}};

}  // namespace mlip::cuda
