// Derivatives of fused messages (../message.hpp) by the table of their radial functions, for degrees known at compile time.
//
// The derivatives by the radial functions are computed anew, in the order of the knots: sums over the edges of a knot
// stay in registers, and each number of the table is written once for a chunk of centers, by one thread.
#pragma once
#include <cstring>

#include "message_kernel.hpp"

namespace mlip::MLIP_ISA {

constexpr int64_t chunks_at_once = 4;
constexpr int table_paths = vector_bytes == 64 ? 4 : 2;  // with four sums each in registers

template <class Real, int H, int L>
struct TableGradient {
  using X = Plan<H, L>;
  using V = Vector<Real>;
  using Arguments = MessageArguments<Real>;
  static constexpr int lanes = width<Real>, knot_step = 3 * block<Real>;

  // Paths that share their features, as many as there are registers for.
  static constexpr int find_groups(Range* groups) {
    int n = 0;
    for (int q = 0, first = 0; q < X::count; q++) {
      if (q > first && (X::all[q].l1 != X::all[first].l1 || q - first == table_paths)) first = q;
      if (q == first) groups[n++].begin = q;
      groups[n - 1].end = q + 1;
    }
    return n;
  }
  static constexpr std::array<Range, X::count> groups = [] {
    std::array<Range, X::count> found{};
    find_groups(found.data());
    return found;
  }();
  static constexpr int group_count = [] {
    std::array<Range, X::count> found{};
    return find_groups(found.data());
  }();

  // Features of all atoms, and derivatives of the messages of a chunk of centers, for the channels of one block:
  // (atom, component, channel), where the rows of random atoms come from the cache faster than from the whole arrays.
  static constexpr int64_t size = block<Real>, of_x = X::components_x * size, of_grad = X::rows * size;
  static void take_x(const Arguments& args, int64_t channel, Real* to) {
    for (int64_t row = 0; row < args.num_atoms * X::components_x; row++)
      std::memcpy(to + row * size, args.x + row * args.channels + channel, size * sizeof(Real));
  }
  static void take_grad(const Arguments& args, int64_t begin, int64_t end, int64_t channel, Real* to) {
    for (int64_t atom = begin; atom < end; atom++, to += of_grad)
      unroll<X::count>([&](auto q) MLIP_LAMBDA {
        for (int m3 = 0; m3 < 2 * X::all[q].l3 + 1; m3++)
          std::memcpy(to + (X::first_row(q) + m3) * size,
                      args.grad_out[X::all[q].l3] + output_at<H, L, q>(args, m3, atom, channel), size * sizeof(Real));
      });
  }

  // Adds the derivatives by the table's numbers of one knot, for the channels of one vector and the paths of one group:
  // the sums over the edges order[begin] ... order[end] of a chunk. `carry` has, path by path, what the edges of the knot
  // before give to the slope, and then what these give to the next one.
  template <int group>
  static MLIP_INLINE void one_knot(const Arguments& args, int64_t begin, int64_t end, const Real* packed_x,
                                     const Real* packed_grad, Real* to, V* carry) {
    constexpr int first = groups[group].begin, last = groups[group].end;
    constexpr int l1 = X::all[first].l1, n1 = 2 * l1 + 1;
    const EdgesByKnot<Real>& edges = args.by_knot;
    V sums[last - first][4] = {};
    for (int64_t k = begin; k < end; k++) {
      const Real* coupling = args.coupling + edges.order[k] * X::coupling_size;
      const Real* next = args.coupling + edges.order[k + EdgesByKnot<Real>::ahead] * X::coupling_size;
      for (int at = X::first_column(first); at < X::first_column(last); at += block<Real>) __builtin_prefetch(next + at);
      const Real* weights = edges.weights + 4 * k;
      const Real* x = packed_x + edges.neighbor[k] * of_x + l1 * l1 * size;
      const Real* grad = packed_grad + edges.center[k] * of_grad;
      V xm[n1];
      unroll<n1>([&](auto m1) MLIP_LAMBDA { xm[m1] = load(x + m1 * size); });
      unroll<last - first>([&](auto p) MLIP_LAMBDA {
        constexpr int q = first + p, column = X::first_column(q), row = X::first_row(q);
        V grad_r = {};
        if constexpr (X::all[q].l2 == 0) {
          unroll<n1>([&](auto m) MLIP_LAMBDA { grad_r += load(grad + (row + m) * size) * xm[m]; });
          grad_r *= coupling[column];
        } else {
          V u[n1] = {};
          unroll<2 * X::all[q].l3 + 1>([&](auto m3) MLIP_LAMBDA {
            const V g = load(grad + (row + m3) * size);
            unroll<n1>([&](auto m1) MLIP_LAMBDA { u[m1] += coupling[column + m3 * n1 + m1] * g; });
          });
          unroll<n1>([&](auto m1) MLIP_LAMBDA { grad_r += u[m1] * xm[m1]; });
        }
        unroll<4>([&](auto w) MLIP_LAMBDA { sums[p][w] += weights[w] * grad_r; });
      });
    }
    constexpr int lump = block<Real>;
    unroll<last - first>([&](auto p) MLIP_LAMBDA {
      constexpr int at = X::public_index(first + p) * knot_step;
      if (to) {
        store(to + at, load(to + at) + sums[p][0]);
        store(to + at + lump, load(to + at + lump) + (sums[p][1] + carry[first + p]));
        store(to + at + 2 * lump, load(to + at + 2 * lump) + sums[p][2]);
      }
      carry[first + p] = sums[p][3];
    });
  }

  // All knots of one chunk of centers and block of channels.
  static void one_chunk(const Arguments& args, int64_t chunk, int64_t begin, int64_t end, int64_t channel, const Real* x,
                        const Real* grad) {
    constexpr int vectors = block<Real> / lanes;
    const int64_t* offsets = args.by_knot.offsets + chunk * (args.by_knot.knots + 1);
    V carry[vectors][X::count] = {};
    for (int64_t knot = begin > 0 ? begin - 1 : 0; knot < end; knot++) {
      const bool continues = knot > 0 && offsets[knot - 1] < offsets[knot];
      if (!continues && offsets[knot] == offsets[knot + 1]) continue;
      Real* to = args.grad_table + (knot * args.channels + channel) * (X::count * 3);
      for (int k = 0; k < vectors; k++)
        unroll<group_count>([&](auto group) MLIP_LAMBDA {
          one_knot<group>(args, offsets[knot], offsets[knot + 1], x + k * lanes, grad + k * lanes,
                          knot < begin ? nullptr : to + k * lanes, carry[k]);
        });
    }
  }

  // The coupling of a few chunks stays in the third-level cache from one block of channels to the next, a block of the
  // table in the second-level cache from one chunk to the next.
  static void run(const Arguments& args, int64_t begin, int64_t end, int64_t first, int64_t last) {
    const EdgesByKnot<Real>& edges = args.by_knot;
    const int64_t of_block = args.num_atoms * X::components_x;  // times the channels
    const std::unique_ptr<Real[]> x(new Real[of_block * (last - first)]), grad(new Real[edges.most * of_grad]);
    for (int64_t channel = first; channel < last; channel += size)
      take_x(args, channel, x.get() + of_block * (channel - first));
    for (int64_t several = 0; several < edges.chunks; several += chunks_at_once)
      for (int64_t channel = first; channel < last; channel += size)
        for (int64_t chunk = several; chunk < std::min(edges.chunks, several + chunks_at_once); chunk++) {
          const int64_t start = edges.centers[chunk];
          take_grad(args, start, edges.centers[chunk + 1], channel, grad.get());
          one_chunk(args, chunk, begin, end, channel, x.get() + of_block * (channel - first),
                    grad.get() - start * of_grad);
        }
  }
};

template <int H, int L>
constexpr MessageTables message_tables{
    {Message<float, H, L, true>::kernels, Message<float, H, L, false>::kernels, TableGradient<float, H, L>::run},
    {Message<double, H, L, true>::kernels, Message<double, H, L, false>::kernels, TableGradient<double, H, L>::run}};

}  // namespace mlip::MLIP_ISA
