// Forward and backward of fused messages for paths that are known at run time only (../message_general.hpp).
//
// One path after the other; what depends on the numbers of components is a template for degrees up to 3, so that sums
// stay in registers, and a loop above.
#include "../message_general.hpp"

#include <algorithm>
#include <memory>
#include <vector>

#include "reduce.hpp"

namespace mlip::MLIP_ISA {
namespace {

constexpr int degrees = 4;  // that have templates

// Address of the table's numbers of knot `knot` and channel `channel`; those of path q follow at q * 3 * block.
template <class Real>
MLIP_INLINE const Real* table_at(const MessageProgram& program, const MessageArguments<Real>& args, int64_t knot,
                                 int64_t channel) {
  constexpr int64_t lanes = block<Real>;
  const auto paths = static_cast<int64_t>(program.paths.size());
  return args.table + (knot * args.channels + channel / lanes * lanes) * (paths * 3) + channel % lanes;
}

template <class Real>
struct General {
  using V = Vector<Real>;
  using Arguments = MessageArguments<Real>;
  static constexpr int lanes = width<Real>;

  // Messages of one center and path for the channels of one vector. N1 and N3 are the numbers of components, 0 if they
  // are not known at compile time.
  template <int N1, int N3>
  static void forward_path(const GeneralPath& path, const Arguments& args, int64_t components, int64_t atom,
                           const Real* radial, int64_t channel, Real* out, int64_t out_step) {
    const int64_t n1 = N1 ? N1 : path.n1, n3 = N3 ? N3 : path.n3, channels = args.channels;
    const int64_t begin = std::max(args.offsets[atom], args.first_edge);
    V sums[N3 ? N3 : largest_dim] = {};
    if (begin > args.offsets[atom])  // the edges before are in the messages
      for (int64_t m3 = 0; m3 < n3; m3++) sums[m3] = load(out + m3 * out_step);
    for (int64_t e = begin; e < std::min(args.offsets[atom + 1], args.last_edge); e++) {
      const Real* coupling = args.coupling + e * components + path.column;
      const Real* x = args.x + args.neighbor[e] * args.components_x * channels + path.component * channels + channel;
      const V r = load(radial + e * args.edge_stride);
      if (path.identity) {
        const V scaled = r * coupling[0];
        for (int64_t m = 0; m < n3; m++) sums[m] += scaled * load(x + m * channels);
      } else {
        for (int64_t m1 = 0; m1 < n1; m1++) {
          const V t = r * load(x + m1 * channels);
          for (int64_t m3 = 0; m3 < n3; m3++) sums[m3] += coupling[m3 * n1 + m1] * t;
        }
      }
    }
    for (int64_t m3 = 0; m3 < n3; m3++) store(out + m3 * out_step, sums[m3]);
  }

  static void forward(const MessageProgram& program, const Arguments& args, int64_t begin, int64_t end, int64_t first,
                      int64_t last) {
    for (int64_t atom = begin; atom < end; atom++)
      for (int64_t channel = first; channel < last; channel += lanes)
        for (size_t q = 0; q < program.paths.size(); q++) {
          const GeneralPath& path = program.paths[q];
          Real* out = args.out[0] + program.output_at(path, 0, args.num_atoms, atom, args.channels) + channel;
          const Real* radial = args.radial + static_cast<int64_t>(q) * args.path_stride + channel;
          choose<Forward>(path)(path, args, program.coupling, atom, radial, channel, out,
                                path.into * args.num_atoms * args.channels);
        }
  }

  // Derivatives of one edge and path. `grad` has the center's derivatives, (n3, channels).
  template <int N1, int N3>
  static void backward_path(const GeneralPath& path, const Arguments& args, int64_t components, int64_t q, int64_t e,
                            const Real* grad) {
    const int64_t n1 = N1 ? N1 : path.n1, n3 = N3 ? N3 : path.n3, channels = args.channels;
    const Real* coupling = args.coupling + e * components + path.column;
    const int64_t features = (args.neighbor[e] * args.components_x + path.component) * channels;
    const Real* x = args.x + features;
    Real* grad_x = args.grad_x ? args.grad_x + features : nullptr;
    const int64_t at = e * args.edge_stride + q * args.path_stride;
    constexpr int most1 = N1 ? N1 : largest_dim, most3 = N3 ? N3 : largest_dim;
    V grad_coupling[most1 * most3] = {};
    for (int64_t channel = 0; channel < channels; channel += lanes) {
      const V r = load(args.radial + at + channel);
      V grad_r = {}, u[most1] = {};
      if (path.identity) {
        for (int64_t m = 0; m < n1; m++) {
          const V g = load(grad + m * channels + channel);
          grad_r += g * load(x + m * channels + channel);
          u[m] = coupling[0] * g;
        }
        grad_coupling[0] += grad_r * r;
        grad_r *= coupling[0];
      } else {
        V t[most1];
        for (int64_t m1 = 0; m1 < n1; m1++) t[m1] = r * load(x + m1 * channels + channel);
        for (int64_t m3 = 0; m3 < n3; m3++) {
          const V g = load(grad + m3 * channels + channel);
          for (int64_t m1 = 0; m1 < n1; m1++) {
            u[m1] += coupling[m3 * n1 + m1] * g;
            grad_coupling[m3 * n1 + m1] += g * t[m1];
          }
        }
        for (int64_t m1 = 0; m1 < n1; m1++) grad_r += u[m1] * load(x + m1 * channels + channel);
      }
      store(args.grad_radial + at + channel, grad_r);
      if (grad_x)
        for (int64_t m1 = 0; m1 < n1; m1++) {
          Real* to = grad_x + m1 * channels + channel;
          store(to, load(to) + u[m1] * r);
        }
    }
    Real* to = args.grad_coupling + e * components + path.column;
    if (path.identity)
      store_lane_sums<Real, 1, 1>(grad_coupling, to);
    else if constexpr (N1 * N3 > 0)
      store_lane_sums<Real, N1 * N3, N1 * N3>(grad_coupling, to);
    else
      for (int64_t k = 0; k < n1 * n3; k++) store_lane_sums<Real, 1, 1>(grad_coupling + k, to + k);
  }

  static void backward(const MessageProgram& program, const Arguments& args, int64_t begin, int64_t end) {
    const std::unique_ptr<Real[]> grad(new Real[program.rows * args.channels]);
    for (int64_t atom = begin; atom < end; atom++) {
      const int64_t first = std::max(args.offsets[atom], args.first_edge);
      const int64_t last = std::min(args.offsets[atom + 1], args.last_edge);
      if (first >= last) continue;
      Real* to = grad.get();
      for (const GeneralPath& path : program.paths)
        for (int64_t m3 = 0; m3 < path.n3; m3++, to += args.channels)
          std::memcpy(to, args.grad_out[0] + program.output_at(path, m3, args.num_atoms, atom, args.channels),
                      args.channels * sizeof(Real));
      for (int64_t e = first; e < last; e++) {
        const Real* from = grad.get();
        for (size_t q = 0; q < program.paths.size(); q++) {
          const GeneralPath& path = program.paths[q];
          choose<Backward>(path)(path, args, program.coupling, static_cast<int64_t>(q), e, from);
          from += path.n3 * args.channels;
        }
      }
    }
  }

  static void interpolate(const MessageProgram& program, const Arguments& args, int64_t begin, int64_t end,
                          int64_t first, int64_t last, Real* radial) {
    constexpr int64_t step = block<Real>;
    const auto paths = static_cast<int64_t>(program.paths.size());
    for (int64_t e = begin; e < end; e++) {
      const Real* w = args.weights + 4 * e;
      for (int64_t channel = first; channel < last; channel += lanes) {
        const Real* low = table_at(program, args, args.knot[e], channel);
        const Real* high = table_at(program, args, args.knot[e] + 1, channel);
        Real* to = radial + (e - begin) * args.edge_stride + channel - first;
        for (int64_t q = 0; q < paths; q++, low += 3 * step, high += 3 * step, to += args.path_stride)
          store(to, w[0] * load(low) + w[1] * load(low + step) +
                        (w[2] * load(low + 2 * step) + w[3] * load(high + step)));
      }
    }
  }

  static void interpolate_backward(const MessageProgram& program, const Arguments& args, int64_t begin, int64_t end) {
    constexpr int64_t step = block<Real>;
    const auto paths = static_cast<int64_t>(program.paths.size());
    for (int64_t e = begin; e < end; e++) {
      V sums[4] = {};
      for (int64_t channel = 0; channel < args.channels; channel += lanes) {
        const Real* low = table_at(program, args, args.knot[e], channel);
        const Real* high = table_at(program, args, args.knot[e] + 1, channel);
        const Real* grad = args.grad_radial + e * args.edge_stride + channel;
        for (int64_t q = 0; q < paths; q++, low += 3 * step, high += 3 * step, grad += args.path_stride) {
          const V g = load(grad);
          sums[0] += g * load(low), sums[1] += g * load(low + step);
          sums[2] += g * load(low + 2 * step), sums[3] += g * load(high + step);
        }
      }
      store_lane_sums<Real, 4, 4>(sums, args.grad_weights + 4 * e);
    }
  }

  // Sums over the edges order[begin] ... order[end] of the four weights times the derivative by the radial function of one
  // path, for the channels of one vector. x and grad have the path's components of the features and of the messages of
  // all atoms, for the channels of one block.
  template <int N1, int N3>
  static void table_path(const GeneralPath& path, const Arguments& args, int64_t components, int64_t begin, int64_t end,
                         const Real* packed_x, const Real* packed_grad, int64_t rows, V* sums) {
    constexpr int64_t step = block<Real>;
    const int64_t n1 = N1 ? N1 : path.n1, n3 = N3 ? N3 : path.n3;
    const EdgesByKnot<Real>& edges = args.by_knot;
    V total[4] = {};
    for (int64_t k = begin; k < end; k++) {
      const Real *coupling = args.coupling + edges.order[k] * components + path.column, *weights = edges.weights + 4 * k;
      const Real* x = packed_x + edges.neighbor[k] * args.components_x * step;
      const Real* grad = packed_grad + edges.center[k] * rows * step;
      V grad_r = {};
      if (path.identity) {
        for (int64_t m = 0; m < n1; m++) grad_r += load(grad + m * step) * load(x + m * step);
        grad_r *= coupling[0];
      } else {
        V u[N1 ? N1 : largest_dim] = {};
        for (int64_t m3 = 0; m3 < n3; m3++) {
          const V g = load(grad + m3 * step);
          for (int64_t m1 = 0; m1 < n1; m1++) u[m1] += coupling[m3 * n1 + m1] * g;
        }
        for (int64_t m1 = 0; m1 < n1; m1++) grad_r += u[m1] * load(x + m1 * step);
      }
      for (int w = 0; w < 4; w++) total[w] += weights[w] * grad_r;
    }
    std::copy(total, total + 4, sums);
  }

  // Adds the derivatives by the table's numbers of one knot and block of channels, or only keeps in `carry` what its edges
  // give to the next one. x and grad are packed.
  static void add_knot(const MessageProgram& program, const Arguments& args, const int64_t* offsets, int64_t knot,
                       int64_t channel, const Real* x, const Real* grad, bool add, Real* carry) {
    constexpr int64_t step = block<Real>;
    const auto paths = static_cast<int64_t>(program.paths.size());
    for (int64_t q = 0; q < paths; q++) {
      const GeneralPath& path = program.paths[q];
      Real* to = args.grad_table + (knot * args.channels + channel) * (paths * 3) + q * 3 * step;
      for (int64_t k = 0; k < step; k += lanes, to += lanes, carry += lanes) {
        V sums[4];
        choose<Table>(path)(path, args, program.coupling, offsets[knot], offsets[knot + 1], x + path.component * step + k,
                            grad + k, program.rows, sums);
        if (add) {
          store(to, load(to) + sums[0]);
          store(to + step, load(to + step) + (sums[1] + load(carry)));
          store(to + 2 * step, load(to + 2 * step) + sums[2]);
        }
        store(carry, sums[3]);
      }
      grad += path.n3 * step;
    }
  }

  // As in message_table_gradient.hpp.
  static void table_gradient(const MessageProgram& program, const Arguments& args, int64_t begin, int64_t end,
                             int64_t first, int64_t last) {
    constexpr int64_t step = block<Real>, bytes = step * sizeof(Real);
    const int64_t rows = program.rows, rows_x = args.num_atoms * args.components_x;
    const EdgesByKnot<Real>& edges = args.by_knot;
    const std::unique_ptr<Real[]> x(new Real[rows_x * step]), grad(new Real[edges.most * rows * step]);
    std::vector<Real> carry(step * program.paths.size());
    for (int64_t channel = first; channel < last; channel += step) {
      for (int64_t row = 0; row < rows_x; row++)
        std::memcpy(x.get() + row * step, args.x + row * args.channels + channel, bytes);
      for (int64_t chunk = 0; chunk < edges.chunks; chunk++) {
        const int64_t start = edges.centers[chunk], *offsets = edges.offsets + chunk * (edges.knots + 1);
        Real* to = grad.get();
        for (int64_t atom = start; atom < edges.centers[chunk + 1]; atom++)
          for (const GeneralPath& path : program.paths)
            for (int64_t m3 = 0; m3 < path.n3; m3++, to += step)
              std::memcpy(to, args.grad_out[0] + program.output_at(path, m3, args.num_atoms, atom, args.channels) + channel,
                          bytes);
        std::fill(carry.begin(), carry.end(), Real(0));
        for (int64_t knot = begin > 0 ? begin - 1 : 0; knot < end; knot++) {
          const bool continues = knot > 0 && offsets[knot - 1] < offsets[knot];
          if (continues || offsets[knot] < offsets[knot + 1])
            add_knot(program, args, offsets, knot, channel, x.get(), grad.get() - start * rows * step, knot >= begin,
                     carry.data());
        }
      }
    }
  }

  // The instance of a path's numbers of components.
  struct Forward {
    template <int N1, int N3>
    static constexpr auto of = &forward_path<N1, N3>;
  };
  struct Backward {
    template <int N1, int N3>
    static constexpr auto of = &backward_path<N1, N3>;
  };
  struct Table {
    template <int N1, int N3>
    static constexpr auto of = &table_path<N1, N3>;
  };
  template <class Pass>
  static auto choose(const GeneralPath& path) {
    static constexpr auto instances = []<size_t... I>(std::index_sequence<I...>) {
      return std::array{Pass::template of<2 * (I / degrees) + 1, 2 * (I % degrees) + 1>...};
    }(std::make_index_sequence<degrees * degrees>{});
    const int64_t l1 = path.n1 / 2, l3 = path.n3 / 2;
    return l1 < degrees && l3 < degrees ? instances[l1 * degrees + l3] : Pass::template of<0, 0>;
  }

  static constexpr GeneralKernels<Real> kernels{forward, backward, interpolate, interpolate_backward, table_gradient};
};

}  // namespace

const GeneralTable message_general{General<float>::kernels, General<double>::kernels};

}  // namespace mlip::MLIP_ISA
