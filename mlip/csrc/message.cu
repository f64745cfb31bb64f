// The operator `mlip::message_interpolated` on CUDA, and its derivative.
#include "message_operator.cuh"

namespace mlip::cuda {

template <class Real>
const MessageFunctions<Real>& message_functions(int64_t hidden, int64_t harmonics) {
  static const MessageKernels kernels[3][3] = {{message_kernels<0, 1>, message_kernels<0, 2>, message_kernels<0, 3>},
                                               {message_kernels<1, 1>, message_kernels<1, 2>, message_kernels<1, 3>},
                                               {{}, message_kernels<2, 2>, message_kernels<2, 3>}};
  const MessageKernels& found = kernels[hidden][harmonics - 1];
  if constexpr (sizeof(Real) == 4)
    return found.float32;
  else
    return found.float64;
}

template const MessageFunctions<float>& message_functions<float>(int64_t, int64_t);
template const MessageFunctions<double>& message_functions<double>(int64_t, int64_t);

namespace {

// Block (x, y): the derivatives of the table at knot x, of the paths and channels from y * threads on.
template <class Real>
__global__ void sum_radial(EdgeSums of, const Real* radial, const Real* weights, int64_t channels, Real* sums) {
  constexpr int64_t lanes = 64 / sizeof(Real);
  const int64_t knot = blockIdx.x, place = static_cast<int64_t>(blockIdx.y) * threads + threadIdx.x;
  if (place >= of.length) return;
  const int64_t path = place / channels, channel = place % channels, paths = of.length / channels;
  Real* to = sums + (knot * channels + channel / lanes * lanes) * (paths * 3) + path * (3 * lanes) + channel % lanes;
  Real value = 0, slope = 0, difference = 0;
  if (of.first > 0) value = to[0], slope = to[lanes], difference = to[2 * lanes];
  const auto from = [&](int64_t row) { return radial[row * of.length + place]; };
  if (knot > 0)  // the slope belongs to two intervals
    of.each(knot - 1, [&](int64_t e, int64_t row) { slope += weights[4 * e + 3] * from(row); });
  if (knot < of.groups)
    of.each(knot, [&](int64_t e, int64_t row) {
      const Real g = from(row);
      value += weights[4 * e] * g, slope += weights[4 * e + 1] * g, difference += weights[4 * e + 2] * g;
    });
  if (!of.right()) value = slope = difference = not_a_number<Real>();
  to[0] = value, to[lanes] = slope, to[2 * lanes] = difference;
}

struct Arguments {
  abi::Tensor x, coupling, weights, table, knot, neighbor, offsets;
  MessageGraph graph;

  Arguments(const char* name, const StableIValue* stack)
      : x(stack[0]), coupling(stack[1]), weights(stack[2]), table(stack[3]), knot(stack[4]), neighbor(stack[5]),
        offsets(stack[6]), graph(name, x, coupling, neighbor, offsets, abi::from_stack<int64_t>(stack[7]),
                                 abi::from_stack<int64_t>(stack[8])) {
    graph.checks.tensor(weights, graph.dtype, {graph.num_edges, 4},
                        "weights: expected a contiguous tensor (edges, 4) of the type of x");
    graph.checks.integers(knot, {graph.num_edges}, "knot: expected a contiguous int64 tensor (edges,)");
    graph.checks.tensor(table, graph.dtype, {-1, graph.channels / graph.lanes, graph.sizes.paths, 3, graph.lanes},
                        "table: expected a contiguous tensor made by pack_table, of the type of x");
    graph.checks.expect(graph.num_edges == 0 || table.size(0) >= 2, "table: expected at least two knots");
  }

  template <class Real>
  MessageInput<Real> input(const Buffer<int32_t>& wrong) const {
    auto in = graph.template input<Real>(wrong);
    in.knots = table.size(0);
    in.knot = knot.data<int64_t>(), in.weights = weights.data<Real>(), in.table = table.data<Real>();
    return in;
  }
};

void message_interpolated(StableIValue* stack, uint64_t, uint64_t) {
  const Arguments args("message_interpolated", stack);
  const Device device(args.x);
  const cudaStream_t on = stream(args.x);
  const auto wrong = args.graph.wrong(on);
  auto out = args.x.new_empty({args.graph.size()}, args.graph.dtype);
  for_real(args.x, [&](auto zero) {
    using Real = decltype(zero);
    args.graph.forward(args.template input<Real>(wrong), out.template data<Real>(), on);
  });
  stack[0] = out.release();
}

// Derivatives, null where they are not wanted.
template <class Real>
struct Wanted {
  Real *x, *coupling, *weights, *table;
};

template <class Real>
void backward(const Arguments& args, const Real* grad, const Wanted<Real>& to, cudaStream_t on) {
  const MessageGraph& graph = args.graph;
  const auto wrong = graph.wrong(on);
  auto in = args.input<Real>(wrong);
  const int64_t intervals = std::max<int64_t>(0, in.knots - 1), all = graph.num_edges;
  const int64_t of_features = to.x ? graph.of_features() : 0, of_radial = to.table ? graph.of_radial() : 0;
  const int64_t most = graph.edges_of_pass(of_features + of_radial);
  const Buffer<Real> features(args.x, most * of_features), radial(args.x, most * of_radial);
  const Groups by_neighbor(args.x, in.neighbor, to.x ? all : 0, graph.num_atoms, on);
  const Groups by_knot(args.x, in.knot, to.table ? all : 0, intervals, on);
  graph.each_pass(most, [&](int64_t first, int64_t last) {
    in.first = first, in.last = last;
    graph.backward(in,
                   MessageGradients<Real>{grad, to.coupling, to.weights, to.x ? features.data() : nullptr,
                                          to.table ? radial.data() : nullptr},
                   on);
    if (to.x)
      launch(sum_features<Real>, atoms_and_parts(graph.num_atoms, of_features, threads), threads, on,
             EdgeSums{by_neighbor.order(), by_neighbor.bounds(), wrong.data(), graph.num_atoms, all, first, last,
                      of_features},
             features.data(), to.x);
    if (to.table)
      launch(sum_radial<Real>, atoms_and_parts(in.knots, of_radial, threads), threads, on,
             EdgeSums{by_knot.order(), by_knot.bounds(), wrong.data(), intervals, all, first, last, of_radial},
             radial.data(), in.weights, graph.channels, to.table);
  });
  mark_where_wrong(wrong, to.coupling, all * graph.sizes.coupling, on);
  mark_where_wrong(wrong, to.weights, all * 4, on);
}

void message_interpolated_backward(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor grad(stack[0]);
  const Arguments args("message_interpolated_backward", stack + 1);
  const MessageGraph& graph = args.graph;
  const bool need_x = abi::from_stack<bool>(stack[10]), need_table = abi::from_stack<bool>(stack[11]);
  graph.checks.tensor(grad, graph.dtype, {graph.size()}, "grad: expected a contiguous tensor like the messages");
  const Device device(args.x);
  auto grad_x = graph.like_x(need_x);
  auto grad_coupling = args.x.new_empty({graph.num_edges, graph.sizes.coupling}, graph.dtype);
  auto grad_weights = args.x.new_empty({graph.num_edges, 4}, graph.dtype);
  auto grad_table =
      need_table
          ? args.x.new_empty({args.table.size(0), graph.channels / graph.lanes, graph.sizes.paths, 3, graph.lanes},
                             graph.dtype)
          : args.x.new_empty({0}, graph.dtype);
  for_real(args.x, [&](auto zero) {
    using Real = decltype(zero);
    backward<Real>(args, grad.data<Real>(),
                   {need_x ? grad_x.template data<Real>() : nullptr, grad_coupling.template data<Real>(),
                    grad_weights.template data<Real>(), need_table ? grad_table.template data<Real>() : nullptr},
                   stream(args.x));
  });
  stack[0] = grad_x.release(), stack[1] = grad_coupling.release();
  stack[2] = grad_weights.release(), stack[3] = grad_table.release();
}

const auto operators = abi::Library("mlip", "CUDA")
                           .impl("message_interpolated", message_interpolated)
                           .impl("message_interpolated_backward", message_interpolated_backward);

}  // namespace
}  // namespace mlip::cuda
