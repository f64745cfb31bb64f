// Messages whose radial part is interpolated from a table: torch.ops.mlip.message_interpolated and its derivative.
#include "message_operator.hpp"

namespace mlip {
namespace {

#define MLIP_INTERPOLATED_ARGUMENTS                                                                      \
  "Tensor x, Tensor coupling, Tensor weights, Tensor table, Tensor knot, Tensor neighbor, Tensor offsets, " \
  "int hidden, int harmonics"
constexpr const char* schema = "message_interpolated(" MLIP_INTERPOLATED_ARGUMENTS ") -> Tensor";
constexpr const char* backward_schema = "message_interpolated_backward(Tensor grad, " MLIP_INTERPOLATED_ARGUMENTS
    ", bool need_x, bool need_table) -> (Tensor, Tensor, Tensor, Tensor)";

struct Arguments {
  explicit Arguments(const StableIValue* stack)
      : x(stack[0]), coupling(stack[1]), weights(stack[2]), table(stack[3]), knot(stack[4]), neighbor(stack[5]),
        offsets(stack[6]), hidden(abi::from_stack<int64_t>(stack[7])), harmonics(abi::from_stack<int64_t>(stack[8])) {}
  abi::Tensor x, coupling, weights, table, knot, neighbor, offsets;
  int64_t hidden, harmonics;

  template <class Real>
  MessageGraph check(MessageArguments<Real>& args) const {
    constexpr int64_t lanes = 64 / sizeof(Real);
    const MessageGraph graph(x, coupling, neighbor, offsets, hidden, harmonics, args);
    check_tensor(weights, dtype_of<Real>(), {graph.num_edges, 4},
                 "weights: expected a contiguous tensor (edges, 4) of the type of x");
    check_tensor(table, dtype_of<Real>(), {-1, graph.channels / lanes, graph.sizes.paths, 3, lanes},
                 "table: expected a contiguous tensor made by pack_table, of the type of x");
    check_tensor(knot, aoti_torch_dtype_int64(), {graph.num_edges}, "knot: expected a contiguous int64 tensor (edges,)");
    expect_message(all_below(knot.data<int64_t>(), graph.num_edges, table.size(0) - 1),
            "knot: expected indices of knots that have a next one");
    args.weights = weights.data<Real>(), args.knot = knot.data<int64_t>(), args.table = table.data<Real>();
    return graph;
  }
};

template <class Real>
void forward(const Arguments& given, StableIValue* stack) {
  MessageArguments<Real> args;
  const MessageGraph graph = given.check(args);
  auto out = allocate_messages(graph, given.x, args);
  const auto run = kernels_of<Real>(graph.hidden, graph.harmonics).interpolated.forward;
  abi::parallel_for(0, graph.num_atoms, 8,
                    [&](int64_t begin, int64_t end) { run(args, begin, end, 0, graph.channels); });
  stack[0] = out.release();
}

template <class Real>
void backward(const Arguments& given, const abi::Tensor& grad, bool need_x, bool need_table, StableIValue* stack) {
  MessageArguments<Real> args;
  const MessageGraph graph = given.check(args);
  check_gradient(graph, grad, args);
  const int64_t length = graph.sizes.components_x * graph.channels;
  auto grad_x = need_x ? given.x.new_empty({graph.num_atoms, graph.sizes.components_x, graph.channels}, given.x.dtype())
                       : given.x.new_empty({0}, given.x.dtype());
  auto grad_coupling = given.x.new_empty({graph.num_edges, graph.sizes.coupling}, given.x.dtype());
  auto grad_weights = given.x.new_empty({graph.num_edges, 4}, given.x.dtype());
  args.grad_coupling = grad_coupling.data<Real>(), args.grad_weights = grad_weights.data<Real>();
  const auto& kernels = kernels_of<Real>(graph.hidden, graph.harmonics);
  const auto run = kernels.interpolated.backward;
  if (need_x)
    sum_over_pieces(args, length, grad_x.data<Real>(), [&](int64_t, int64_t begin, int64_t end, Real* to) {
      auto own = args;
      own.grad_x = to;
      run(own, begin, end);
    });
  else
    abi::parallel_for(0, graph.num_atoms, 8, [&](int64_t begin, int64_t end) { run(args, begin, end); });
  auto grad_table = table_gradient(args, given.table, graph.num_edges, rows_of(graph), need_table,
                                   kernels.table_gradient);
  stack[0] = grad_x.release(), stack[1] = grad_coupling.release(), stack[2] = grad_weights.release();
  stack[3] = grad_table.release();
}

void message_interpolated(StableIValue* stack, uint64_t, uint64_t) {
  const Arguments args(stack);
  if (args.x.dtype() == aoti_torch_dtype_float64()) return forward<double>(args, stack);
  expect_message(args.x.dtype() == aoti_torch_dtype_float32(), "x: expected float32 or float64");
  forward<float>(args, stack);
}

void message_interpolated_backward(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor grad(stack[0]);
  const Arguments args(stack + 1);
  const bool need_x = abi::from_stack<bool>(stack[10]), need_table = abi::from_stack<bool>(stack[11]);
  if (args.x.dtype() == aoti_torch_dtype_float64()) return backward<double>(args, grad, need_x, need_table, stack);
  expect_message(args.x.dtype() == aoti_torch_dtype_float32(), "x: expected float32 or float64");
  backward<float>(args, grad, need_x, need_table, stack);
}

const auto definitions = abi::Library("mlip").def(schema).def(backward_schema);
const auto cpu = abi::Library("mlip", "CPU")
                     .impl("message_interpolated", message_interpolated)
                     .impl("message_interpolated_backward", message_interpolated_backward);

}  // namespace
}  // namespace mlip
