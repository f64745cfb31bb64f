// What the operators around the message kernels share: arguments, their checks, and sums that do not depend on threads.
#pragma once
#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "message.hpp"
#include "torch_abi.hpp"

namespace mlip {

inline void expect_message(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(std::string("message: ") + message);
}

template <class Real>
int32_t dtype_of() {
  return sizeof(Real) == 4 ? aoti_torch_dtype_float32() : aoti_torch_dtype_float64();
}

// A contiguous tensor on the CPU of this type and these sizes (-1: any).
inline void check_tensor(const abi::Tensor& tensor, int32_t dtype, std::initializer_list<int64_t> shape,
                         const char* message) {
  bool right = tensor.on_cpu() && tensor.dtype() == dtype && tensor.contiguous() &&
               tensor.ndim() == static_cast<int64_t>(shape.size());
  for (int axis = 0; right && axis < static_cast<int>(shape.size()); axis++)
    right = shape.begin()[axis] < 0 || tensor.size(axis) == shape.begin()[axis];
  expect_message(right, message);
}

inline bool all_below(const int64_t* values, int64_t count, int64_t bound) {
  bool inside = true;
  for (int64_t k = 0; k < count; k++) inside &= (values[k] >= 0) & (values[k] < bound);
  return inside;
}

inline const PathSizes& sizes_of(int64_t hidden, int64_t harmonics) {
  static constexpr PathSizes sizes[3][3] = {{path_sizes<0, 1>, path_sizes<0, 2>, path_sizes<0, 3>},
                                            {path_sizes<1, 1>, path_sizes<1, 2>, path_sizes<1, 3>},
                                            {{}, path_sizes<2, 2>, path_sizes<2, 3>}};
  expect_message(hidden >= 0 && hidden <= 2 && harmonics >= 1 && harmonics <= 3 && hidden <= harmonics,
          "hidden, harmonics: expected degrees 0 <= hidden <= 2 and hidden <= harmonics, 1 <= harmonics <= 3");
  return sizes[hidden][harmonics - 1];
}

template <class Real>
const MessageTable<Real>& kernels_of(int64_t hidden, int64_t harmonics) {
  const MessageTables& tables = (hidden == 0   ? MLIP_BEST(message_0)
                                 : hidden == 1 ? MLIP_BEST(message_1)
                                               : MLIP_BEST(message_2))[harmonics - 1];
  if constexpr (sizeof(Real) == 4)
    return tables.float32;
  else
    return tables.float64;
}

inline void check_offsets(const int64_t* offsets, int64_t num_atoms, int64_t num_edges) {
  bool ascending = num_atoms >= 0 && offsets[0] == 0 && offsets[num_atoms] == num_edges;
  for (int64_t i = 0; i < num_atoms; i++) ascending &= offsets[i] <= offsets[i + 1];
  expect_message(ascending, "offsets: expected ascending numbers from 0 to the number of edges");
}

// The graph of a message and its numbers.
struct MessageGraph {
  int64_t num_atoms, num_edges, channels, hidden, harmonics;
  PathSizes sizes;

  // Checks x (N, D, C), coupling (E, K), neighbor (E,), offsets (N + 1,), and fills in what they say.
  template <class Real>
  MessageGraph(const abi::Tensor& x, const abi::Tensor& coupling, const abi::Tensor& neighbor,
               const abi::Tensor& offsets, int64_t hidden_, int64_t harmonics_, MessageArguments<Real>& args)
      : hidden(hidden_), harmonics(harmonics_), sizes(sizes_of(hidden_, harmonics_)) {
    check_tensor(x, dtype_of<Real>(), {-1, sizes.components_x, -1},
                 "x: expected a contiguous tensor (atoms, (hidden + 1)^2, channels) on the CPU");
    num_atoms = x.size(0), channels = x.size(2);
    expect_message(channels > 0 && channels % (64 / static_cast<int64_t>(sizeof(Real))) == 0,
            "x: expected a multiple of 16 (float32) or 8 (float64) channels");
    check_tensor(neighbor, aoti_torch_dtype_int64(), {-1}, "neighbor: expected a contiguous int64 tensor (edges,)");
    num_edges = neighbor.size(0);
    check_tensor(coupling, dtype_of<Real>(), {num_edges, sizes.coupling},
                 "coupling: expected a contiguous tensor (edges, columns of the coupling matrix) of the type of x");
    check_tensor(offsets, aoti_torch_dtype_int64(), {num_atoms + 1},
                 "offsets: expected a contiguous int64 tensor (atoms + 1,)");
    const auto* bounds = offsets.data<int64_t>();
    check_offsets(bounds, num_atoms, num_edges);
    expect_message(all_below(neighbor.data<int64_t>(), num_edges, num_atoms), "neighbor: expected indices of atoms");
    args.num_atoms = num_atoms, args.channels = channels;
    args.offsets = bounds, args.neighbor = neighbor.data<int64_t>();
    args.x = x.data<Real>(), args.coupling = coupling.data<Real>();
  }
};

// All messages, (size,): the blocks (2 l3 + 1, atoms, paths into l3 * channels) one after the other.
inline int64_t rows_of(const MessageGraph& graph) {
  int64_t rows = 0;
  for (int l3 = 0; l3 <= graph.harmonics; l3++) rows += (2 * l3 + 1) * graph.sizes.into[l3];
  return rows;
}
inline int64_t message_size(const MessageGraph& graph) {
  return abi::product({rows_of(graph), graph.num_atoms, graph.channels});
}
template <class Real>
void find_blocks(const MessageGraph& graph, Real* messages, Real** blocks) {
  for (int l3 = 0; l3 <= graph.harmonics; l3++) {
    blocks[l3] = messages;
    messages += (2 * l3 + 1) * graph.num_atoms * graph.sizes.into[l3] * graph.channels;
  }
}
template <class Real>
abi::Tensor allocate_messages(const MessageGraph& graph, const abi::Tensor& x, MessageArguments<Real>& args) {
  const int64_t size = message_size(graph);
  auto out = x.new_empty({size}, x.dtype());
  find_blocks(graph, out.template data<Real>(), args.out);
  return out;
}
template <class Real>
void check_gradient(const MessageGraph& graph, const abi::Tensor& grad, MessageArguments<Real>& args) {
  check_tensor(grad, dtype_of<Real>(), {message_size(graph)}, "grad: expected a contiguous tensor like the messages");
  find_blocks<const Real>(graph, grad.data<Real>(), args.grad_out);
}

// Calls body(first center, end, first edge, end) for runs of centers of at most `edges_at_once` edges, or for a single
// center, whose edges come in pieces of at most `edges_of_a_center`.
constexpr int64_t edges_at_once = 96, edges_of_a_center = 384;
template <class Body>
void for_blocks(const int64_t* offsets, int64_t begin, int64_t end, const Body& body) {
  for (int64_t first = begin; first < end;) {
    int64_t last = first + 1;
    while (last < end && offsets[last + 1] - offsets[first] <= edges_at_once) last++;
    const int64_t edge = offsets[first], count = offsets[last] - edge;
    const int64_t pieces = std::max<int64_t>(1, (count + edges_of_a_center - 1) / edges_of_a_center);
    for (int64_t k = 0; k < pieces; k++) body(first, last, edge + count * k / pieces, edge + count * (k + 1) / pieces);
    first = last;
  }
}
// Edges of the largest such run.
inline int64_t most_edges(const int64_t* offsets, int64_t begin, int64_t end) {
  int64_t most = std::min(edges_at_once, offsets[end] - offsets[begin]);
  for (int64_t i = begin; i < end; i++) most = std::max(most, offsets[i + 1] - offsets[i]);
  return std::min(most, edges_of_a_center);
}

// Centers in pieces of about equal numbers of edges. How many depends on the number of atoms alone, so that sums over
// the pieces, taken in their order, do not depend on the number of threads.
constexpr int64_t max_pieces = 32;
inline std::vector<int64_t> pieces_of(const int64_t* offsets, int64_t num_atoms) {
  const int64_t pieces = num_atoms >= 512   ? std::clamp<int64_t>(num_atoms / 512, 8, max_pieces)
                         : num_atoms >= 128 ? 4
                         : num_atoms >= 16  ? 2
                                            : 1;
  std::vector<int64_t> bounds(pieces + 1, num_atoms);
  bounds[0] = 0;
  for (int64_t k = 1; k < pieces; k++)
    bounds[k] = std::upper_bound(offsets, offsets + num_atoms, offsets[num_atoms] * k / pieces) - offsets - 1;
  return bounds;
}

// Sorts the edges for the derivative by the table, which takes `rows` numbers of each center and channel.
template <class Real>
class SortedByKnot {
 public:
  SortedByKnot(const MessageArguments<Real>& args, int64_t num_edges, int64_t knots, int64_t rows)
      : order_(num_edges + EdgesByKnot<Real>::ahead), center_(num_edges), neighbor_(num_edges), weights_(4 * num_edges) {
    constexpr int64_t most_rows = 2560;  // of 64 bytes: what stays in the second-level cache
    const int64_t most = std::clamp<int64_t>(most_rows / rows, 1, std::max<int64_t>(args.num_atoms, 1));
    const int64_t chunks = (args.num_atoms + most - 1) / most;
    for (int64_t chunk = 0; chunk <= chunks; chunk++) centers_.push_back(std::min(chunk * most, args.num_atoms));
    offsets_.resize(chunks * (knots + 1));
    abi::parallel_for(0, chunks, 1, [&](int64_t first, int64_t last) {
      std::vector<int64_t> next(knots + 1);
      for (int64_t chunk = first; chunk < last; chunk++) sort(args, chunk, knots, next.data());
    });
    edges_ = {chunks,         knots,           most, centers_.data(), offsets_.data(), order_.data(), center_.data(),
              neighbor_.data(), weights_.data()};
  }
  const EdgesByKnot<Real>& edges() const { return edges_; }

  // Knots in `count` ranges of about equal numbers of edges.
  std::vector<int64_t> ranges(int64_t count) const {
    const int64_t knots = edges_.knots;
    std::vector<int64_t> before(knots + 1, 0), bounds(count + 1, knots);  // edges of the knots before
    for (int64_t chunk = 0; chunk < edges_.chunks; chunk++)
      for (int64_t k = 0; k <= knots; k++)
        before[k] += offsets_[chunk * (knots + 1) + k] - offsets_[chunk * (knots + 1)];
    for (int64_t k = 0; k < count; k++)
      bounds[k] = std::lower_bound(before.begin(), before.end(), before[knots] * k / count) - before.begin();
    bounds[0] = 0;
    return bounds;
  }

 private:
  void sort(const MessageArguments<Real>& args, int64_t chunk, int64_t knots, int64_t* next) {
    const int64_t begin = args.offsets[centers_[chunk]], end = args.offsets[centers_[chunk + 1]];
    std::fill_n(next, knots + 1, 0);
    for (int64_t e = begin; e < end; e++) next[args.knot[e] + 1]++;
    next[0] = begin;
    for (int64_t k = 0; k < knots; k++) next[k + 1] += next[k];
    std::copy_n(next, knots + 1, &offsets_[chunk * (knots + 1)]);
    for (int64_t i = centers_[chunk]; i < centers_[chunk + 1]; i++)
      for (int64_t e = args.offsets[i]; e < args.offsets[i + 1]; e++) {
        const int64_t place = next[args.knot[e]]++;
        order_[place] = e, center_[place] = i, neighbor_[place] = args.neighbor[e];
        std::copy_n(args.weights + 4 * e, 4, &weights_[4 * place]);
      }
  }

  std::vector<int64_t> order_, center_, neighbor_, centers_, offsets_;
  std::vector<Real> weights_;
  EdgesByKnot<Real> edges_;
};

// The derivative by the table (knots, channels / block, paths, 3, block), an empty tensor if it is not wanted. Sums run
// over the edges of a knot, a block of channels at a time: run(args, knots' begin, end, channels' begin, end).
template <class Real, class Run>
abi::Tensor table_gradient(MessageArguments<Real> args, const abi::Tensor& table, int64_t num_edges, int64_t rows,
                           bool wanted, const Run& run) {
  if (!wanted) return table.new_empty({0}, table.dtype());
  const int64_t knots = table.size(0), blocks = table.size(1), lanes = table.size(4), row = table.size(2) * 3 * lanes;
  auto grad = table.new_empty({knots, blocks, table.size(2), 3, lanes}, table.dtype());
  args.grad_table = grad.template data<Real>();
  const SortedByKnot<Real> sorted(args, num_edges, knots, rows);
  args.by_knot = sorted.edges();
  const int64_t ranges = std::clamp<int64_t>(16 / blocks, 1, std::max<int64_t>(knots / 32, 1));
  const auto bounds = sorted.ranges(ranges);
  abi::parallel_for(0, ranges * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin, next; task < end; task = next) {
      const int64_t range = task / blocks, lump = task % blocks;
      next = std::min(end, (range + 1) * blocks);
      const int64_t first = bounds[range], last = bounds[range + 1];
      for (int64_t knot = first; knot < last; knot++)
        std::fill_n(args.grad_table + (knot * blocks + lump) * row, (next - task) * row, Real(0));
      run(args, first, last, lump * lanes, (lump + next - task) * lanes);
    }
  });
  return grad;
}

// total (num_atoms, length) = sum over pieces of what run(piece, begin, end, to) adds to the rows `neighbor` of the piece's
// edges in `to`, in the order of the pieces. Each thread has one buffer, of which only the rows in use are touched.
template <class Real, class Run>
void sum_over_pieces(const MessageArguments<Real>& args, int64_t length, Real* total, const Run& run) {
  const auto bounds = pieces_of(args.offsets, args.num_atoms);
  const auto pieces = static_cast<int64_t>(bounds.size()) - 1;
  std::fill(total, total + args.num_atoms * length, Real(0));
  if (pieces == 1) return run(0, 0, args.num_atoms, total);
  const int64_t at_once = std::min(pieces, abi::num_threads());
  std::vector<std::unique_ptr<Real[]>> buffers(at_once);
  std::vector<std::vector<char>> used(at_once);
  for (int64_t first = 0; first < pieces; first += at_once) {
    const int64_t last = std::min(pieces, first + at_once);
    abi::parallel_for(first, last, 1, [&](int64_t begin, int64_t end) {
      for (int64_t piece = begin; piece < end; piece++) {
        auto& buffer = buffers[piece - first];
        auto& rows = used[piece - first];
        if (!buffer) buffer.reset(new Real[args.num_atoms * length]);
        rows.assign(args.num_atoms, 0);
        const int64_t *edge = args.neighbor + args.offsets[bounds[piece]],
                      *stop = args.neighbor + args.offsets[bounds[piece + 1]];
        for (; edge < stop; edge++) {
          if (rows[*edge]) continue;
          rows[*edge] = 1;
          std::fill_n(buffer.get() + *edge * length, length, Real(0));
        }
        run(piece, bounds[piece], bounds[piece + 1], buffer.get());
      }
    });
    abi::parallel_for(0, args.num_atoms, 64, [&](int64_t begin, int64_t end) {
      for (int64_t k = 0; k < last - first; k++)
        for (int64_t atom = begin; atom < end; atom++) {
          if (!used[k][atom]) continue;
          const Real* from = buffers[k].get() + atom * length;
          Real* to = total + atom * length;
          for (int64_t c = 0; c < length; c++) to[c] += from[c];
        }
    });
  }
}

}  // namespace mlip
