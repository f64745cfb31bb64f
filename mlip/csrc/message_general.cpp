// Messages of any irreps, whose paths are data: torch.ops.mlip.message_exact_general, message_interpolated_general and
// their derivatives.
//
// `program` (paths, 5) has for each path: first component of x, number of these, number of components of the message,
// output block, and whether the coupling is the identity times one number. Output blocks ascend from 0; a block's paths
// are its columns, and the columns of the coupling follow the paths. All messages are one tensor, block after block.
#include "message_general.hpp"

#include "gemm.hpp"
#include "message_operator.hpp"

namespace mlip {
namespace {

#define MLIP_GRAPH "Tensor neighbor, Tensor offsets, Tensor program, int rows"
#define MLIP_EXACT "Tensor x, Tensor coupling, Tensor activations, Tensor matrix, " MLIP_GRAPH
#define MLIP_INTERPOLATED "Tensor x, Tensor coupling, Tensor weights, Tensor table, Tensor knot, " MLIP_GRAPH
constexpr const char* schemas[] = {
    "message_exact_general(" MLIP_EXACT ") -> Tensor",
    "message_exact_general_backward(Tensor grad, " MLIP_EXACT
    ", bool need_x, bool need_matrix) -> (Tensor, Tensor, Tensor, Tensor)",
    "message_interpolated_general(" MLIP_INTERPOLATED ") -> Tensor",
    "message_interpolated_general_backward(Tensor grad, " MLIP_INTERPOLATED
    ", bool need_x, bool need_table) -> (Tensor, Tensor, Tensor, Tensor)"};

template <class Real>
const GeneralKernels<Real>& general_kernels() {
  if constexpr (sizeof(Real) == 4)
    return MLIP_BEST(message_general).float32;
  else
    return MLIP_BEST(message_general).float64;
}

MessageProgram read_program(const abi::Tensor& tensor, int64_t components_x, int64_t rows) {
  check_tensor(tensor, aoti_torch_dtype_int64(), {-1, 5}, "program: expected a contiguous int64 tensor (paths, 5)");
  MessageProgram program;
  const int64_t count = tensor.size(0), *entry = tensor.data<int64_t>();
  const auto odd = [](int64_t n) { return n > 0 && n <= largest_dim && n % 2 == 1; };
  int64_t current = -1, slot = 0;
  bool right = count > 0 && entry[3] == 0;
  for (int64_t q = 0; q < count && right; q++, entry += 5) {
    GeneralPath path{entry[0], entry[1], entry[2], program.coupling, entry[4] != 0, program.rows, 1, 0};
    right = odd(path.n1) && odd(path.n3) && path.component >= 0 && path.component <= components_x - path.n1 &&
            (!path.identity || path.n1 == path.n3) && (entry[3] == current || entry[3] == current + 1);
    if (right && entry[3] == current) {
      const GeneralPath& before = program.paths.back();
      right = before.n3 == path.n3;
      path.row = before.row, path.slot = ++slot;
    } else {
      slot = 0, current++;
    }
    program.coupling += path.identity ? 1 : path.n1 * path.n3;
    program.rows += path.n3;
    program.paths.push_back(path);
  }
  for (auto& path : program.paths)
    path.into = std::count_if(program.paths.begin(), program.paths.end(),
                              [&](const GeneralPath& other) { return other.row == path.row; });
  expect_message(right && program.rows == rows,
          "program, rows: expected paths within x with 1, 3, ... 23 components, blocks in ascending order, and the sum "
          "of the messages' components");
  return program;
}

// Arguments before and after the tensors that give the radial functions.
struct Given {
  Given(const StableIValue* stack, int radial_tensors)
      : x(stack[0]), coupling(stack[1]), neighbor(stack[2 + radial_tensors]), offsets(stack[3 + radial_tensors]),
        program(stack[4 + radial_tensors]), rows(abi::from_stack<int64_t>(stack[5 + radial_tensors])) {}
  abi::Tensor x, coupling, neighbor, offsets, program;
  int64_t rows;
};

template <class Real>
struct Graph {
  MessageProgram program;
  MessageArguments<Real> args;
  int64_t num_edges, paths, columns;  // columns: paths * channels

  explicit Graph(const Given& given) {
    constexpr int64_t lanes = 64 / sizeof(Real);
    check_tensor(given.x, dtype_of<Real>(), {-1, -1, -1},
                 "x: expected a contiguous tensor (atoms, components, channels) on the CPU");
    args.num_atoms = given.x.size(0), args.components_x = given.x.size(1), args.channels = given.x.size(2);
    expect_message(args.channels > 0 && args.channels % lanes == 0,
            "x: expected a multiple of 16 (float32) or 8 (float64) channels");
    program = read_program(given.program, args.components_x, given.rows);
    paths = static_cast<int64_t>(program.paths.size()), columns = abi::product({paths, args.channels});
    check_tensor(given.neighbor, aoti_torch_dtype_int64(), {-1}, "neighbor: expected a contiguous int64 tensor (edges,)");
    num_edges = given.neighbor.size(0);
    check_tensor(given.coupling, dtype_of<Real>(), {num_edges, program.coupling},
                 "coupling: expected a contiguous tensor (edges, columns of the coupling matrix) of the type of x");
    check_tensor(given.offsets, aoti_torch_dtype_int64(), {args.num_atoms + 1},
                 "offsets: expected a contiguous int64 tensor (atoms + 1,)");
    args.offsets = given.offsets.data<int64_t>(), args.neighbor = given.neighbor.data<int64_t>();
    check_offsets(args.offsets, args.num_atoms, num_edges);
    expect_message(all_below(args.neighbor, num_edges, args.num_atoms), "neighbor: expected indices of atoms");
    args.x = given.x.data<Real>(), args.coupling = given.coupling.data<Real>();
  }
};

// Radial functions activations @ matrix.
template <class Real>
class Perceptron {
 public:
  static constexpr int tensors = 2;
  explicit Perceptron(const StableIValue* stack) : activations_(stack[0]), matrix_(stack[1]) {}

  void check(Graph<Real>& graph) {
    check_tensor(activations_, dtype_of<Real>(), {graph.num_edges, -1},
                 "activations: expected a contiguous tensor (edges, units) of the type of x");
    units_ = activations_.size(1), columns_ = graph.columns, channels_ = graph.args.channels;
    expect_message(units_ > 0, "activations: expected at least one unit");
    check_tensor(matrix_, dtype_of<Real>(), {units_, columns_},
                 "matrix: expected a contiguous tensor (units, paths * channels) of the type of x");
    path_size_ = packed_size<Real>(units_, channels_);
    packed_.resize(graph.paths * path_size_);  // every path from the beginning of a tile
    for (int64_t path = 0; path < graph.paths; path++)
      gemm_.pack(matrix_.template data<Real>() + path * channels_, units_, channels_, columns_, 1,
                 &packed_[path * path_size_]);
  }

  // Of the edges [begin, end) and the channels [first, last), `first` at the beginning of a tile.
  void fill(const Graph<Real>& graph, const MessageArguments<Real>& args, int64_t begin, int64_t end, int64_t first,
            int64_t last, Real* radial) const {
    for (int64_t path = 0; path < graph.paths; path++)
      gemm_.multiply(end - begin, last - first, units_, activations_.template data<Real>() + begin * units_, units_, 1,
                     &packed_[path * path_size_ + first * units_], radial + path * args.path_stride, args.edge_stride,
                     false);
  }

  // Numbers that the sum over a piece of the edges takes.
  int64_t piece_size(bool need_matrix) const { return need_matrix ? units_ * columns_ : 0; }

  void begin_backward(Graph<Real>&, StableIValue* out, bool need_matrix) {
    const int32_t dtype = activations_.dtype();
    auto grad = activations_.new_empty({activations_.size(0), units_}, dtype);
    auto grad_matrix = need_matrix ? activations_.new_empty({units_, columns_}, dtype) : activations_.new_empty({0}, dtype);
    grad_activations_ = grad.template data<Real>(), grad_matrix_ = grad_matrix.template data<Real>();
    transposed_.resize(packed_size<Real>(columns_, units_));
    gemm_.pack(matrix_.template data<Real>(), columns_, units_, 1, columns_, transposed_.data());
    out[0] = grad.release(), out[1] = grad_matrix.release();
  }

  // From args.grad_radial of the edges [begin, end); the matrix's part is added to `piece` if that is wanted.
  void backward(const Graph<Real>&, const MessageArguments<Real>& args, int64_t begin, int64_t end, Real* piece) const {
    const Real *grad = args.grad_radial + begin * columns_, *activations = activations_.template data<Real>();
    gemm_.multiply(end - begin, units_, columns_, grad, columns_, 1, transposed_.data(), grad_activations_ + begin * units_,
                   units_, false);
    if (!piece) return;
    std::vector<Real> packed(packed_size<Real>(end - begin, columns_));
    gemm_.pack(grad, end - begin, columns_, columns_, 1, packed.data());
    gemm_.multiply(units_, columns_, end - begin, activations + begin * units_, 1, units_, packed.data(), piece, columns_,
                   true);
  }

  void end_backward(const std::vector<std::vector<Real>>& pieces) {
    std::copy(pieces[0].begin(), pieces[0].end(), grad_matrix_);
    for (size_t piece = 1; piece < pieces.size(); piece++)
      for (size_t k = 0; k < pieces[piece].size(); k++) grad_matrix_[k] += pieces[piece][k];
  }

 private:
  const GemmKernels<Real>& gemm_ = gemm_kernels<Real>();
  abi::Tensor activations_, matrix_;
  int64_t units_ = 0, columns_ = 0, channels_ = 0, path_size_ = 0;
  std::vector<Real> packed_, transposed_;
  Real *grad_activations_ = nullptr, *grad_matrix_ = nullptr;
};

// Radial functions interpolated from a table.
template <class Real>
class Interpolation {
 public:
  static constexpr int tensors = 3;
  explicit Interpolation(const StableIValue* stack) : weights_(stack[0]), table_(stack[1]), knot_(stack[2]) {}

  void check(Graph<Real>& graph) {
    constexpr int64_t lanes = 64 / sizeof(Real);
    check_tensor(weights_, dtype_of<Real>(), {graph.num_edges, 4},
                 "weights: expected a contiguous tensor (edges, 4) of the type of x");
    check_tensor(table_, dtype_of<Real>(), {-1, graph.args.channels / lanes, graph.paths, 3, lanes},
                 "table: expected a contiguous tensor made by pack_table, of the type of x");
    check_tensor(knot_, aoti_torch_dtype_int64(), {graph.num_edges}, "knot: expected a contiguous int64 tensor (edges,)");
    expect_message(all_below(knot_.data<int64_t>(), graph.num_edges, table_.size(0) - 1),
            "knot: expected indices of knots that have a next one");
    graph.args.weights = weights_.template data<Real>(), graph.args.knot = knot_.data<int64_t>();
    graph.args.table = table_.template data<Real>();
  }

  void fill(const Graph<Real>& graph, const MessageArguments<Real>& args, int64_t begin, int64_t end, int64_t first,
            int64_t last, Real* radial) const {
    kernels_.interpolate(graph.program, args, begin, end, first, last, radial);
  }

  int64_t piece_size(bool) const { return 0; }

  void begin_backward(Graph<Real>& graph, StableIValue* out, bool need_table) {
    auto grad = weights_.new_empty({weights_.size(0), 4}, weights_.dtype());
    graph.args.grad_weights = grad.template data<Real>();
    auto grad_table = table_gradient(graph.args, table_, graph.num_edges, graph.program.rows, need_table,
                                     [&](auto&&... arguments) { kernels_.table_gradient(graph.program, arguments...); });
    out[0] = grad.release(), out[1] = grad_table.release();
  }

  void backward(const Graph<Real>& graph, const MessageArguments<Real>& args, int64_t begin, int64_t end, Real*) const {
    kernels_.interpolate_backward(graph.program, args, begin, end);
  }

  void end_backward(const std::vector<std::vector<Real>>&) {}

 private:
  const GeneralKernels<Real>& kernels_ = general_kernels<Real>();
  abi::Tensor weights_, table_, knot_;
};

// One tile of channels at a time: the radial functions of all edges of a few centers and all paths, then the messages.
template <class Real, class Radial>
void forward(const Given& given, Radial& radial, StableIValue* stack) {
  Graph<Real> graph(given);
  radial.check(graph);
  auto& shared = graph.args;
  const int64_t channels = shared.channels, size = abi::product({graph.program.rows, shared.num_atoms, channels});
  auto out = given.x.new_empty({size}, given.x.dtype());
  shared.out[0] = out.template data<Real>();
  const int64_t tile = gemm_kernels<Real>().tile;
  shared.path_stride = tile, shared.edge_stride = graph.paths * tile;
  abi::parallel_for(0, shared.num_atoms, 8, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<Real[]> values(new Real[most_edges(shared.offsets, begin, end) * shared.edge_stride]);
    for_blocks(shared.offsets, begin, end, [&](int64_t first, int64_t last, int64_t edge, int64_t stop) {
      auto args = shared;
      args.first_edge = edge, args.last_edge = stop;
      for (int64_t channel = 0; channel < channels; channel += tile) {
        const int64_t channel_end = std::min(channels, channel + tile);
        radial.fill(graph, args, edge, stop, channel, channel_end, values.get());
        args.radial = values.get() - edge * args.edge_stride - channel;
        general_kernels<Real>().forward(graph.program, args, first, last, channel, channel_end);
      }
    });
  });
  stack[0] = out.release();
}

template <class Real, class Radial>
void backward(const abi::Tensor& grad, const Given& given, Radial& radial, bool need_x, bool need_radial,
              StableIValue* stack) {
  Graph<Real> graph(given);
  radial.check(graph);
  auto& shared = graph.args;
  check_tensor(grad, dtype_of<Real>(), {abi::product({graph.program.rows, shared.num_atoms, shared.channels})},
               "grad: expected a contiguous tensor like the messages");
  shared.grad_out[0] = grad.template data<Real>();
  const int32_t dtype = given.x.dtype();
  const int64_t length = need_x ? shared.components_x * shared.channels : 0;
  auto grad_x = need_x ? given.x.new_empty({shared.num_atoms, shared.components_x, shared.channels}, dtype)
                       : given.x.new_empty({0}, dtype);
  auto grad_coupling = given.x.new_empty({graph.num_edges, graph.program.coupling}, dtype);
  shared.grad_coupling = grad_coupling.template data<Real>();
  shared.path_stride = shared.channels, shared.edge_stride = graph.columns;
  radial.begin_backward(graph, stack + 2, need_radial);
  const auto run = [&](int64_t begin, int64_t end, Real* to_x, Real* piece) {
    const int64_t size = most_edges(shared.offsets, begin, end) * graph.columns;
    const std::unique_ptr<Real[]> values(new Real[size]), grad_values(new Real[size]);
    auto args = shared;
    args.grad_x = to_x;
    for_blocks(args.offsets, begin, end, [&](int64_t first, int64_t last, int64_t edge, int64_t stop) {
      args.first_edge = edge, args.last_edge = stop;
      args.radial = values.get() - edge * graph.columns, args.grad_radial = grad_values.get() - edge * graph.columns;
      radial.fill(graph, args, edge, stop, 0, args.channels, values.get());
      general_kernels<Real>().backward(graph.program, args, first, last);
      radial.backward(graph, args, edge, stop, piece);
    });
  };
  const int64_t piece_size = radial.piece_size(need_radial);
  if (need_x || piece_size) {
    std::vector<std::vector<Real>> pieces(max_pieces);
    sum_over_pieces(shared, length, grad_x.template data<Real>(), [&](int64_t piece, int64_t begin, int64_t end, Real* to) {
      pieces[piece].assign(piece_size, Real(0));
      run(begin, end, need_x ? to : nullptr, piece_size ? pieces[piece].data() : nullptr);
    });
    if (piece_size) radial.end_backward(pieces);
  } else {
    abi::parallel_for(0, shared.num_atoms, 8, [&](int64_t begin, int64_t end) { run(begin, end, nullptr, nullptr); });
  }
  stack[0] = grad_x.release(), stack[1] = grad_coupling.release();
}

template <template <class> class Radial>
void message(StableIValue* stack, uint64_t, uint64_t) {
  const Given given(stack, Radial<float>::tensors);
  if (given.x.dtype() == aoti_torch_dtype_float64()) {
    Radial<double> radial(stack + 2);
    return forward<double>(given, radial, stack);
  }
  Radial<float> radial(stack + 2);
  expect_message(given.x.dtype() == aoti_torch_dtype_float32(), "x: expected float32 or float64");
  forward<float>(given, radial, stack);
}

template <template <class> class Radial>
void message_backward(StableIValue* stack, uint64_t, uint64_t) {
  constexpr int flags = 7 + Radial<float>::tensors;  // after grad and the operator's arguments
  const abi::Tensor grad(stack[0]);
  const Given given(stack + 1, Radial<float>::tensors);
  const bool need_x = abi::from_stack<bool>(stack[flags]);
  const bool need_radial = abi::from_stack<bool>(stack[flags + 1]);  // the matrix or the table
  if (given.x.dtype() == aoti_torch_dtype_float64()) {
    Radial<double> radial(stack + 3);
    return backward<double>(grad, given, radial, need_x, need_radial, stack);
  }
  Radial<float> radial(stack + 3);
  expect_message(given.x.dtype() == aoti_torch_dtype_float32(), "x: expected float32 or float64");
  backward<float>(grad, given, radial, need_x, need_radial, stack);
}

const auto definitions = abi::Library("mlip").def(schemas[0]).def(schemas[1]).def(schemas[2]).def(schemas[3]);
const auto cpu = abi::Library("mlip", "CPU")
                     .impl("message_exact_general", message<Perceptron>)
                     .impl("message_exact_general_backward", message_backward<Perceptron>)
                     .impl("message_interpolated_general", message<Interpolation>)
                     .impl("message_interpolated_general_backward", message_backward<Interpolation>);

}  // namespace
}  // namespace mlip
