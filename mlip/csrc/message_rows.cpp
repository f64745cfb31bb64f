// Messages with radial functions that are computed before and shared by edges, as by both directions of a pair of atoms:
// torch.ops.mlip.message_rows and its derivative.
#include <optional>

#include "message_operator.hpp"

namespace mlip {
namespace {

#define MLIP_ROWS_ARGUMENTS                                                                               \
  "Tensor x, Tensor coupling, Tensor radial, Tensor row, Tensor neighbor, Tensor offsets, int hidden, " \
  "int harmonics"
constexpr const char* schema = "message_rows(" MLIP_ROWS_ARGUMENTS ") -> Tensor";
constexpr const char* backward_schema = "message_rows_backward(Tensor grad, " MLIP_ROWS_ARGUMENTS
    ", bool need_x) -> (Tensor, Tensor, Tensor)";

struct Arguments {
  explicit Arguments(const StableIValue* stack)
      : x(stack[0]), coupling(stack[1]), radial(stack[2]), row(stack[3]), neighbor(stack[4]), offsets(stack[5]),
        hidden(abi::from_stack<int64_t>(stack[6])), harmonics(abi::from_stack<int64_t>(stack[7])) {}
  abi::Tensor x, coupling, radial, row, neighbor, offsets;
  int64_t hidden, harmonics;

  template <class Real>
  MessageGraph check(MessageArguments<Real>& args) const {
    const MessageGraph graph(x, coupling, neighbor, offsets, hidden, harmonics, args);
    args.path_stride = graph.channels, args.edge_stride = abi::product({graph.sizes.paths, graph.channels});
    check_tensor(radial, dtype_of<Real>(), {-1, args.edge_stride},
                 "radial: expected a contiguous tensor (rows, paths * channels) of the type of x");
    check_tensor(row, aoti_torch_dtype_int64(), {graph.num_edges}, "row: expected a contiguous int64 tensor (edges,)");
    args.radial = radial.data<Real>(), args.radial_row = row.data<int64_t>();
    expect_message(all_below(args.radial_row, graph.num_edges, radial.size(0)), "row: expected indices of rows of radial");
    return graph;
  }
};

template <class Real>
void forward(const Arguments& given, StableIValue* stack) {
  MessageArguments<Real> args;
  const MessageGraph graph = given.check(args);
  auto out = allocate_messages(graph, given.x, args);
  const auto run = kernels_of<Real>(graph.hidden, graph.harmonics).array.forward;
  abi::parallel_for(0, graph.num_atoms, 8,
                    [&](int64_t begin, int64_t end) { run(args, begin, end, 0, graph.channels); });
  stack[0] = out.release();
}

// Where the derivatives by the radial functions of each edge go: those of the first edge of a row into the row itself,
// those of the others beside, to be added in the order of the edges. What is beside is half of all for pairs of atoms.
template <class Real>
class RowSums {
 public:
  RowSums(const int64_t* row, int64_t edges, int64_t rows, int64_t length, const abi::Tensor& like, Real* total)
      : rows_(rows), length_(length), total_(total), offsets_(rows + 2), at_(edges) {
    std::vector<int64_t> count(rows);
    for (int64_t e = 0; e < edges; e++) count[row[e]]++;
    for (int64_t k = 0; k < rows; k++) {
      if (count[k] == 0) std::fill_n(total + k * length, length, Real(0));
      offsets_[k + 2] = offsets_[k + 1] + std::max<int64_t>(count[k] - 1, 0);
    }
    beside_.emplace(like.new_empty({offsets_[rows + 1], length}, like.dtype()));
    values_ = beside_->template data<Real>();
    std::fill(count.begin(), count.end(), 0);
    for (int64_t e = 0; e < edges; e++) {
      const int64_t k = row[e];
      at_[e] = count[k]++ == 0 ? total + k * length : values_ + offsets_[k + 1]++ * length;
    }
  }
  Real* const* at() const { return at_.data(); }

  // Once all derivatives are there.
  void add() const {
    abi::parallel_for(0, rows_, 16, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; k++)
        for (int64_t other = offsets_[k]; other < offsets_[k + 1]; other++)
          for (int64_t c = 0; c < length_; c++) total_[k * length_ + c] += values_[other * length_ + c];
    });
  }

 private:
  int64_t rows_, length_;
  Real *total_, *values_ = nullptr;
  std::optional<abi::Tensor> beside_;
  std::vector<int64_t> offsets_;  // of the others of a row; while they are placed, of the row before
  std::vector<Real*> at_;
};

template <class Real>
void backward(const Arguments& given, const abi::Tensor& grad, bool need_x, StableIValue* stack) {
  MessageArguments<Real> args;
  const MessageGraph graph = given.check(args);
  check_gradient(graph, grad, args);
  const int32_t dtype = given.x.dtype();
  const int64_t edges = graph.num_edges, rows = given.radial.size(0), length = args.edge_stride;
  auto grad_x = need_x ? given.x.new_empty({graph.num_atoms, graph.sizes.components_x, graph.channels}, dtype)
                       : given.x.new_empty({0}, dtype);
  auto grad_coupling = given.x.new_empty({edges, graph.sizes.coupling}, dtype);
  auto grad_radial = given.x.new_empty({rows, length}, dtype);
  args.grad_coupling = grad_coupling.data<Real>();
  RowSums<Real> sums(args.radial_row, edges, rows, length, given.x, grad_radial.data<Real>());
  args.grad_radial_at = sums.at();
  const auto run = kernels_of<Real>(graph.hidden, graph.harmonics).array.backward;
  if (need_x)
    sum_over_pieces(args, graph.sizes.components_x * graph.channels, grad_x.data<Real>(),
                    [&](int64_t, int64_t begin, int64_t end, Real* to) {
                      auto own = args;
                      own.grad_x = to;
                      run(own, begin, end);
                    });
  else
    abi::parallel_for(0, graph.num_atoms, 8, [&](int64_t begin, int64_t end) { run(args, begin, end); });
  sums.add();
  stack[0] = grad_x.release(), stack[1] = grad_coupling.release(), stack[2] = grad_radial.release();
}

void message_rows(StableIValue* stack, uint64_t, uint64_t) {
  const Arguments args(stack);
  if (args.x.dtype() == aoti_torch_dtype_float64()) return forward<double>(args, stack);
  expect_message(args.x.dtype() == aoti_torch_dtype_float32(), "x: expected float32 or float64");
  forward<float>(args, stack);
}

void message_rows_backward(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor grad(stack[0]);
  const Arguments args(stack + 1);
  const bool need_x = abi::from_stack<bool>(stack[9]);
  if (args.x.dtype() == aoti_torch_dtype_float64()) return backward<double>(args, grad, need_x, stack);
  expect_message(args.x.dtype() == aoti_torch_dtype_float32(), "x: expected float32 or float64");
  backward<float>(args, grad, need_x, stack);
}

const auto definitions = abi::Library("mlip").def(schema).def(backward_schema);
const auto cpu = abi::Library("mlip", "CPU")
                     .impl("message_rows", message_rows)
                     .impl("message_rows_backward", message_rows_backward);

}  // namespace
}  // namespace mlip
