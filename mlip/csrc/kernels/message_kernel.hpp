// Forward and backward of fused messages (../message.hpp) for degrees known at compile time.
//
// Forward: channels of one vector, then the edges of a center, whose messages accumulate in registers. Backward: one
// pass over the edges; the derivative of the coupling accumulates in registers over the channels. Paths are taken in
// groups whose accumulators fit the register file.
#pragma once
#include <memory>

#include "../message.hpp"
#include "reduce.hpp"

#define MLIP_LAMBDA __attribute__((always_inline))

namespace mlip::MLIP_ISA {

// Accumulators of a group: rows of messages; columns of the coupling's derivative. They suit the 32 registers of AVX-512;
// with 16 registers some are spilled, which measured faster than more groups, each with its own radial functions.
constexpr int forward_rows = 24;
constexpr int backward_columns(int l1) { return l1 == 0 ? 24 : l1 == 1 ? 16 : 15; }
constexpr int64_t centers_at_once = 32;  // share a block of channels of the table

struct Range {
  int begin, end;
};
// A path, or as much of it as fits the registers of the backward pass: messages m3 in [begin, end).
struct Part {
  int path, begin, end;
};

// Paths in groups for the forward pass, parts of paths in groups for the backward pass.
template <int H, int L>
struct Plan : Paths<H, L> {
  using P = Paths<H, L>;

  static constexpr int forward_groups(Range* groups) {
    int n = 0;
    for (int q = 0, first = 0; q < P::count; q++) {
      if (q > first && P::first_row(q + 1) - P::first_row(first) > forward_rows) first = q;
      if (q == first) groups[n++].begin = q;
      groups[n - 1].end = q + 1;
    }
    return n;
  }
  static constexpr std::array<Range, P::count> forward = [] {
    std::array<Range, P::count> groups{};
    forward_groups(groups.data());
    return groups;
  }();
  static constexpr int forward_count = [] {
    std::array<Range, P::count> groups{};
    return forward_groups(groups.data());
  }();

  static constexpr int max_parts = P::rows;
  static constexpr int make_parts(Part* parts) {
    int n = 0;
    for (int q = 0; q < P::count; q++) {
      const int n1 = 2 * P::all[q].l1 + 1, n3 = 2 * P::all[q].l3 + 1, budget = backward_columns(P::all[q].l1);
      const int pieces = P::columns(q) == 1 ? 1 : (n1 * n3 + budget / n1 * n1 - 1) / (budget / n1 * n1);
      for (int piece = 0; piece < pieces; piece++)
        parts[n++] = {q, n3 * piece / pieces, n3 * (piece + 1) / pieces};
    }
    return n;
  }
  static constexpr std::array<Part, max_parts> parts = [] {
    std::array<Part, max_parts> made{};
    make_parts(made.data());
    return made;
  }();
  static constexpr int part_count = [] {
    std::array<Part, max_parts> made{};
    return make_parts(made.data());
  }();
  static constexpr int part_columns(int k) {
    return P::columns(parts[k].path) == 1 ? 1
                                          : (2 * P::all[parts[k].path].l1 + 1) * (parts[k].end - parts[k].begin);
  }
  static constexpr int part_first_column(int k) {
    return P::first_column(parts[k].path) + (2 * P::all[parts[k].path].l1 + 1) * parts[k].begin;
  }
  static constexpr int backward_groups(Range* groups) {
    int n = 0, sum = 0;
    for (int k = 0, first = 0; k < part_count; k++) {
      const int l1 = P::all[parts[k].path].l1;
      if (k > first && (l1 != P::all[parts[first].path].l1 || sum + part_columns(k) > backward_columns(l1))) first = k;
      if (k == first) groups[n++].begin = k, sum = 0;
      groups[n - 1].end = k + 1, sum += part_columns(k);
    }
    return n;
  }
  static constexpr std::array<Range, max_parts> backward = [] {
    std::array<Range, max_parts> groups{};
    backward_groups(groups.data());
    return groups;
  }();
  static constexpr int backward_count = [] {
    std::array<Range, max_parts> groups{};
    return backward_groups(groups.data());
  }();
};

// Address of the table's numbers of knot `knot` and channel `channel`; those of path q follow at q * 3 * block.
template <class Real, int paths>
MLIP_INLINE const Real* table_at(const MessageArguments<Real>& args, int64_t knot, int64_t channel) {
  constexpr int64_t lanes = block<Real>;
  return args.table + (knot * args.channels + channel / lanes * lanes) * (paths * 3) + channel % lanes;
}

// Address of the radial functions of edge `e`, as an array; path and channel follow.
template <class Real>
MLIP_INLINE const Real* radial_of(const MessageArguments<Real>& args, int64_t e) {
  return args.radial + (args.radial_row ? args.radial_row[e] : e) * args.edge_stride;
}

// Where the messages' component m3 of path q lies in the block of its degree.
template <int H, int L, int q, class Real>
MLIP_INLINE int64_t output_at(const MessageArguments<Real>& args, int m3, int64_t atom, int64_t channel) {
  constexpr int slot = Paths<H, L>::slot(q), into = Paths<H, L>::into(Paths<H, L>::all[q].l3);
  return ((m3 * args.num_atoms + atom) * into + slot) * args.channels + channel;
}

template <class Real, int H, int L, bool interpolated>
struct Message {
  using X = Plan<H, L>;
  using V = Vector<Real>;
  static constexpr int lanes = width<Real>, knot_step = 3 * block<Real>;
  static constexpr int slope_at = block<Real>, difference_at = 2 * block<Real>;
  using Arguments = MessageArguments<Real>;

  // body(row of the group, where its number is) for the messages of one center, vector of channels and group.
  template <int group, class Body>
  static MLIP_INLINE void each_output(const Arguments& args, int64_t atom, int64_t channel, const Body& body) {
    constexpr int first = X::forward[group].begin, end = X::forward[group].end;
    unroll<end - first>([&](auto k) MLIP_LAMBDA {
      constexpr int q = first + k, l3 = X::all[q].l3, row = X::first_row(q) - X::first_row(first);
      unroll<2 * l3 + 1>([&](auto m3) MLIP_LAMBDA {
        body(row + m3, args.out[l3] + output_at<H, L, q>(args, m3, atom, channel));
      });
    });
  }

  // Messages of one center for the channels of one vector and the paths of one group.
  template <int group>
  static MLIP_INLINE void forward_center(const Arguments& args, int64_t atom, int64_t channel) {
    constexpr int first = X::forward[group].begin, end = X::forward[group].end, first_row = X::first_row(first);
    constexpr int count = X::first_row(end) - first_row;
    const int64_t channels = args.channels, row_length = channels * X::count * 3;
    const int64_t begin = std::max(args.offsets[atom], args.first_edge);
    V sums[count] = {};
    if (!interpolated && begin > args.offsets[atom])  // the edges before are in the messages
      each_output<group>(args, atom, channel, [&](int row, Real* out) MLIP_LAMBDA { sums[row] = load(out); });
    for (int64_t e = begin; e < std::min(args.offsets[atom + 1], args.last_edge); e++) {
      const Real* coupling = args.coupling + e * X::coupling_size;
      const Real* x = args.x + args.neighbor[e] * (X::components_x * channels) + channel;
      const Real *low = nullptr, *high = nullptr, *radial = nullptr;
      Real w0 = 0, w1 = 0, w2 = 0, w3 = 0;
      if constexpr (interpolated) {
        low = table_at<Real, X::count>(args, args.knot[e], channel);
        high = low + row_length;
        w0 = args.weights[4 * e], w1 = args.weights[4 * e + 1], w2 = args.weights[4 * e + 2];
        w3 = args.weights[4 * e + 3];
      } else {
        radial = radial_of(args, e) + channel;
      }
      unroll<end - first>([&](auto k) MLIP_LAMBDA {
        constexpr int q = first + k, l1 = X::all[q].l1, n1 = 2 * l1 + 1, n3 = 2 * X::all[q].l3 + 1;
        constexpr int column = X::first_column(q), row = X::first_row(q) - first_row, path = X::public_index(q);
        V r;
        if constexpr (interpolated) {
          constexpr int at = path * knot_step;
          r = w0 * load(low + at) + w1 * load(low + at + slope_at) +
              (w2 * load(low + at + difference_at) + w3 * load(high + at + slope_at));
        } else {
          r = load(radial + path * args.path_stride);
        }
        if constexpr (X::all[q].l2 == 0) r = r * coupling[column];
        unroll<n1>([&](auto m1) MLIP_LAMBDA {
          const V xm = load(x + (l1 * l1 + m1) * channels);
          if constexpr (X::all[q].l2 == 0) {
            sums[row + m1] += r * xm;
          } else {
            const V t = r * xm;
            unroll<n3>([&](auto m3) MLIP_LAMBDA { sums[row + m3] += coupling[column + m3 * n1 + m1] * t; });
          }
        });
      });
    }
    each_output<group>(args, atom, channel, [&](int row, Real* out) MLIP_LAMBDA { store(out, sums[row]); });
  }

  static void forward(const Arguments& args, int64_t begin, int64_t end, int64_t first, int64_t last) {
    for (int64_t start = begin; start < end; start += centers_at_once) {
      const int64_t stop = std::min(end, start + centers_at_once);
      for (int64_t channel = first; channel < last; channel += lanes)
        for (int64_t atom = start; atom < stop; atom++)
          unroll<X::forward_count>([&](auto group) MLIP_LAMBDA { forward_center<group>(args, atom, channel); });
    }
  }

  // Derivatives of one edge from the paths of one group. `grad` has the center's derivatives in the order (vector of
  // channels, row); `grad_weights` accumulates. Groups come in order: one may write into the columns of the next.
  template <int group>
  static MLIP_INLINE void backward_edge(const Arguments& args, int64_t e, const Real* grad, V* grad_weights) {
    constexpr int first = X::backward[group].begin, end = X::backward[group].end;
    constexpr int first_column = X::part_first_column(first);
    constexpr int columns = X::part_first_column(end - 1) + X::part_columns(end - 1) - first_column;
    constexpr int l1 = X::all[X::parts[first].path].l1, n1 = 2 * l1 + 1;
    const int64_t channels = args.channels, row_length = channels * X::count * 3;
    const Real* coupling = args.coupling + e * X::coupling_size + first_column;
    const int64_t features = (args.neighbor[e] * X::components_x + l1 * l1) * channels;
    const Real* x = args.x + features;
    Real* grad_x = args.grad_x ? args.grad_x + features : nullptr;
    const Real *low = nullptr, *radial = nullptr;
    Real* grad_radial = nullptr;
    Real w0 = 0, w1 = 0, w2 = 0, w3 = 0;
    if constexpr (!interpolated) {
      radial = radial_of(args, e);
      grad_radial = args.grad_radial_at ? args.grad_radial_at[e] : args.grad_radial + e * args.edge_stride;
    }
    if constexpr (interpolated) {
      low = args.table + args.knot[e] * row_length;
      w0 = args.weights[4 * e], w1 = args.weights[4 * e + 1], w2 = args.weights[4 * e + 2];
      w3 = args.weights[4 * e + 3];
    }
    V grad_coupling[columns] = {};
    for (int64_t channel = 0; channel < channels; channel += lanes, grad += X::rows * lanes) {
      V xm[n1], sum_x[n1] = {};
      unroll<n1>([&](auto m1) MLIP_LAMBDA { xm[m1] = load(x + m1 * channels + channel); });
      const Real *lower = nullptr, *upper = nullptr;
      if constexpr (interpolated) {
        constexpr int64_t lump = block<Real>;
        lower = low + channel / lump * lump * (X::count * 3) + channel % lump;
        upper = lower + row_length;
      }
      unroll<end - first>([&](auto k) MLIP_LAMBDA {
        constexpr int q = X::parts[first + k].path, path = X::public_index(q), at = path * knot_step;
        constexpr int begin_m3 = X::parts[first + k].begin, count_m3 = X::parts[first + k].end - begin_m3;
        constexpr int row = X::first_row(q) + begin_m3, column = X::part_first_column(first + k) - first_column;
        V r, f0, d0, df, d1;
        if constexpr (interpolated) {
          f0 = load(lower + at), d0 = load(lower + at + slope_at);
          df = load(lower + at + difference_at), d1 = load(upper + at + slope_at);
          r = w0 * f0 + w1 * d0 + (w2 * df + w3 * d1);
        } else {
          r = load(radial + path * args.path_stride + channel);
        }
        V u[n1] = {}, grad_r = {};
        if constexpr (X::all[q].l2 == 0) {
          V dot = {};
          unroll<n1>([&](auto m) MLIP_LAMBDA {
            const V g = load(grad + (row + m) * lanes);
            dot += g * xm[m];
            u[m] = coupling[column] * g;
          });
          grad_coupling[column] += dot * r;
          grad_r = dot * coupling[column];
        } else {
          V t[n1];
          unroll<n1>([&](auto m1) MLIP_LAMBDA { t[m1] = r * xm[m1]; });
          unroll<count_m3>([&](auto m) MLIP_LAMBDA {
            const V g = load(grad + (row + m) * lanes);
            unroll<n1>([&](auto m1) MLIP_LAMBDA {
              u[m1] += coupling[column + m * n1 + m1] * g;
              grad_coupling[column + m * n1 + m1] += g * t[m1];
            });
          });
          unroll<n1>([&](auto m1) MLIP_LAMBDA { grad_r += u[m1] * xm[m1]; });
        }
        unroll<n1>([&](auto m1) MLIP_LAMBDA { sum_x[m1] += u[m1] * r; });
        if constexpr (interpolated) {
          grad_weights[0] += grad_r * f0, grad_weights[1] += grad_r * d0;
          grad_weights[2] += grad_r * df, grad_weights[3] += grad_r * d1;
        } else {
          Real* to = grad_radial + path * args.path_stride + channel;
          if constexpr (begin_m3 == 0)
            store(to, grad_r);
          else
            store(to, load(to) + grad_r);
        }
      });
      if (grad_x)
        unroll<n1>([&](auto m1) MLIP_LAMBDA {
          Real* to = grad_x + m1 * channels + channel;
          store(to, load(to) + sum_x[m1]);
        });
    }
    store_lane_sums<Real, columns, X::coupling_size - first_column>(
        grad_coupling, args.grad_coupling + e * X::coupling_size + first_column);
  }

  static void backward(const Arguments& args, int64_t begin, int64_t end) {
    const std::unique_ptr<Real[]> grad(new Real[X::rows * args.channels]);
    for (int64_t atom = begin; atom < end; atom++) {
      const int64_t first = std::max(args.offsets[atom], args.first_edge);
      const int64_t last = std::min(args.offsets[atom + 1], args.last_edge);
      if (first >= last) continue;
      unroll<X::count>([&](auto q) MLIP_LAMBDA {
        constexpr int l3 = X::all[q].l3;
        for (int m3 = 0; m3 < 2 * l3 + 1; m3++) {
          const Real* from = args.grad_out[l3] + output_at<H, L, q>(args, m3, atom, 0);
          Real* to = grad.get() + (X::first_row(q) + m3) * lanes;
          for (int64_t channel = 0; channel < args.channels; channel += lanes)
            store(to + channel * X::rows, load(from + channel));
        }
      });
      for (int64_t e = first; e < last; e++) {
        V grad_weights[4] = {};
        unroll<X::backward_count>(
            [&](auto group) MLIP_LAMBDA { backward_edge<group>(args, e, grad.get(), grad_weights); });
        if constexpr (interpolated) store_lane_sums<Real, 4, 4>(grad_weights, args.grad_weights + 4 * e);
      }
    }
  }

  static constexpr MessageKernels<Real> kernels{forward, backward};
};

}  // namespace mlip::MLIP_ISA
