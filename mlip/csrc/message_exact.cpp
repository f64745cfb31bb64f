// Messages with radial functions activations @ matrix, multiplied for a few centers at a time so that they stay in
// cache: torch.ops.mlip.message_exact and its derivative.
#include "gemm.hpp"
#include "message_operator.hpp"

namespace mlip {
namespace {

#define MLIP_EXACT_ARGUMENTS                                                                                  \
  "Tensor x, Tensor coupling, Tensor activations, Tensor matrix, Tensor neighbor, Tensor offsets, int hidden, " \
  "int harmonics"
constexpr const char* schema = "message_exact(" MLIP_EXACT_ARGUMENTS ") -> Tensor";
constexpr const char* backward_schema = "message_exact_backward(Tensor grad, " MLIP_EXACT_ARGUMENTS
    ", bool need_x, bool need_matrix) -> (Tensor, Tensor, Tensor, Tensor)";

struct Arguments {
  explicit Arguments(const StableIValue* stack)
      : x(stack[0]), coupling(stack[1]), activations(stack[2]), matrix(stack[3]), neighbor(stack[4]), offsets(stack[5]),
        hidden(abi::from_stack<int64_t>(stack[6])), harmonics(abi::from_stack<int64_t>(stack[7])) {}
  abi::Tensor x, coupling, activations, matrix, neighbor, offsets;
  int64_t hidden, harmonics;
};

template <class Real>
class Exact {
 public:
  explicit Exact(const Arguments& arguments)
      : given_(arguments),
        graph_(given_.x, given_.coupling, given_.neighbor, given_.offsets, given_.hidden, given_.harmonics, args_),
        message_(kernels_of<Real>(given_.hidden, given_.harmonics).array) {
    check_tensor(given_.activations, dtype_of<Real>(), {graph_.num_edges, -1},
                 "activations: expected a contiguous tensor (edges, units) of the type of x");
    units_ = given_.activations.size(1), columns_ = abi::product({graph_.sizes.paths, graph_.channels});
    expect_message(units_ > 0, "activations: expected at least one unit");
    check_tensor(given_.matrix, dtype_of<Real>(), {units_, columns_},
                 "matrix: expected a contiguous tensor (units, paths * channels) of the type of x");
    activations_ = given_.activations.data<Real>(), matrix_ = given_.matrix.data<Real>();
  }

  void forward(StableIValue* stack) {
    auto out = allocate_messages(graph_, given_.x, args_);
    const int64_t path_size = packed_size<Real>(units_, graph_.channels);
    std::vector<Real> packed(graph_.sizes.paths * path_size);  // every path from the beginning of a tile
    for (int64_t path = 0; path < graph_.sizes.paths; path++)
      gemm_.pack(matrix_ + path * graph_.channels, units_, graph_.channels, columns_, 1, &packed[path * path_size]);
    abi::parallel_for(0, graph_.num_atoms, 8, [&](int64_t begin, int64_t end) {
      std::vector<Real> radial(most_edges(args_.offsets, begin, end) * graph_.sizes.paths * gemm_.tile);
      for_blocks(args_.offsets, begin, end, [&](int64_t first, int64_t last, int64_t edge, int64_t stop) {
        forward_block(first, last, edge, stop, packed.data(), path_size, radial.data());
      });
    });
    stack[0] = out.release();
  }

  void backward(const abi::Tensor& grad, bool need_x, bool need_matrix, StableIValue* stack) {
    check_gradient(graph_, grad, args_);
    const int32_t dtype = given_.x.dtype();
    auto grad_x = need_x ? given_.x.new_empty({graph_.num_atoms, graph_.sizes.components_x, graph_.channels}, dtype)
                         : given_.x.new_empty({0}, dtype);
    auto grad_coupling = given_.x.new_empty({graph_.num_edges, graph_.sizes.coupling}, dtype);
    auto grad_activations = given_.x.new_empty({graph_.num_edges, units_}, dtype);
    auto grad_matrix = need_matrix ? given_.x.new_empty({units_, columns_}, dtype) : given_.x.new_empty({0}, dtype);
    args_.grad_coupling = grad_coupling.data<Real>(), grad_activations_ = grad_activations.data<Real>();

    packed_.resize(packed_size<Real>(units_, columns_)), transposed_.resize(packed_size<Real>(columns_, units_));
    gemm_.pack(matrix_, units_, columns_, columns_, 1, packed_.data());
    gemm_.pack(matrix_, columns_, units_, 1, columns_, transposed_.data());

    if (need_x || need_matrix) {
      const int64_t length = need_x ? graph_.sizes.components_x * graph_.channels : 0;
      std::vector<std::vector<Real>> matrices(max_pieces);
      sum_over_pieces(args_, length, grad_x.data<Real>(), [&](int64_t piece, int64_t begin, int64_t end, Real* to) {
        if (need_matrix) matrices[piece].assign(units_ * columns_, Real(0));
        backward_range(begin, end, need_x ? to : nullptr, need_matrix ? matrices[piece].data() : nullptr);
      });
      if (need_matrix) {
        std::copy(matrices[0].begin(), matrices[0].end(), grad_matrix.data<Real>());
        for (size_t piece = 1; piece < matrices.size(); piece++)
          for (size_t k = 0; k < matrices[piece].size(); k++) grad_matrix.data<Real>()[k] += matrices[piece][k];
      }
    } else {
      abi::parallel_for(0, graph_.num_atoms, 8,
                        [&](int64_t begin, int64_t end) { backward_range(begin, end, nullptr, nullptr); });
    }
    stack[0] = grad_x.release(), stack[1] = grad_coupling.release();
    stack[2] = grad_activations.release(), stack[3] = grad_matrix.release();
  }

 private:
  // One tile of channels at a time: the radial functions of all edges and paths, then the messages.
  void forward_block(int64_t begin, int64_t end, int64_t edge, int64_t stop, const Real* packed, int64_t path_size,
                     Real* radial) const {
    const int64_t edges = stop - edge, tile = gemm_.tile;
    auto args = args_;
    args.first_edge = edge, args.last_edge = stop;
    args.path_stride = tile, args.edge_stride = graph_.sizes.paths * tile;
    for (int64_t channel = 0; channel < graph_.channels; channel += tile) {
      for (int64_t path = 0; path < graph_.sizes.paths; path++)
        gemm_.multiply(edges, tile, units_, activations_ + edge * units_, units_, 1,
                       packed + path * path_size + channel * units_, radial + path * tile, args.edge_stride, false);
      args.radial = radial - edge * args.edge_stride - channel;
      message_.forward(args, begin, end, channel, std::min(graph_.channels, channel + tile));
    }
  }

  void backward_range(int64_t begin, int64_t end, Real* grad_x, Real* grad_matrix) const {
    const int64_t most = most_edges(args_.offsets, begin, end);
    const std::unique_ptr<Real[]> radial(new Real[most * columns_]), grad_radial(new Real[most * columns_]);
    std::vector<Real> packed(grad_matrix ? packed_size<Real>(most, columns_) : 0);
    auto args = args_;
    args.grad_x = grad_x, args.path_stride = graph_.channels, args.edge_stride = columns_;
    for_blocks(args_.offsets, begin, end, [&](int64_t first, int64_t last, int64_t edge, int64_t stop) {
      const int64_t edges = stop - edge;
      args.first_edge = edge, args.last_edge = stop;
      const Real* activations = activations_ + edge * units_;
      gemm_.multiply(edges, columns_, units_, activations, units_, 1, packed_.data(), radial.get(), columns_, false);
      args.radial = radial.get() - edge * columns_, args.grad_radial = grad_radial.get() - edge * columns_;
      message_.backward(args, first, last);
      gemm_.multiply(edges, units_, columns_, grad_radial.get(), columns_, 1, transposed_.data(),
                     grad_activations_ + edge * units_, units_, false);
      if (!grad_matrix) return;
      gemm_.pack(grad_radial.get(), edges, columns_, columns_, 1, packed.data());
      gemm_.multiply(units_, columns_, edges, activations, 1, units_, packed.data(), grad_matrix, columns_, true);
    });
  }

  const Arguments& given_;
  MessageArguments<Real> args_;
  MessageGraph graph_;
  const GemmKernels<Real>& gemm_ = gemm_kernels<Real>();
  const MessageKernels<Real>& message_;
  int64_t units_ = 0, columns_ = 0;
  const Real *activations_ = nullptr, *matrix_ = nullptr;
  Real* grad_activations_ = nullptr;
  std::vector<Real> packed_, transposed_;
};

void message_exact(StableIValue* stack, uint64_t, uint64_t) {
  const Arguments args(stack);
  if (args.x.dtype() == aoti_torch_dtype_float64()) return Exact<double>(args).forward(stack);
  expect_message(args.x.dtype() == aoti_torch_dtype_float32(), "x: expected float32 or float64");
  Exact<float>(args).forward(stack);
}

void message_exact_backward(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor grad(stack[0]);
  const Arguments args(stack + 1);
  const bool need_x = abi::from_stack<bool>(stack[9]), need_matrix = abi::from_stack<bool>(stack[10]);
  if (args.x.dtype() == aoti_torch_dtype_float64())
    return Exact<double>(args).backward(grad, need_x, need_matrix, stack);
  expect_message(args.x.dtype() == aoti_torch_dtype_float32(), "x: expected float32 or float64");
  Exact<float>(args).backward(grad, need_x, need_matrix, stack);
}

const auto definitions = abi::Library("mlip").def(schema).def(backward_schema);
const auto cpu = abi::Library("mlip", "CPU")
                     .impl("message_exact", message_exact)
                     .impl("message_exact_backward", message_exact_backward);

}  // namespace
}  // namespace mlip
