// The operator `mlip::message_exact` on CUDA, and its derivative: radial functions are made by a matrix product for the
// edges of a pass, and kept no longer.
#include "message_operator.cuh"

namespace mlip::cuda {
namespace {

// C (m, n) = A B, contiguous, with A (m, k) and B (k, n) of any strides. The sum over k is made in `parts` parts, each in
// a matrix of its own, so that products with few rows and columns keep the device busy, too.
template <class Real>
struct Product {
  int64_t m, n, k, parts;
  const Real *a, *b;
  int64_t a_m, a_k, b_k, b_n;
  Real* c;
};

constexpr int tile = 64, depth = 16, product_threads = 256, each = 4;  // a thread has each * each numbers of a tile

template <class Real>
__global__ void __launch_bounds__(product_threads) multiply(Product<Real> of) {
  __shared__ Real a[depth][tile + 1], b[depth][tile + 1];
  const int64_t tiles_n = (of.n + tile - 1) / tile, m0 = blockIdx.x / tiles_n * tile, n0 = blockIdx.x % tiles_n * tile;
  const int64_t begin = of.k * blockIdx.y / of.parts, end = of.k * (blockIdx.y + 1) / of.parts;
  const int row = threadIdx.x / (tile / each), column = threadIdx.x % (tile / each);
  Real sums[each][each] = {};
  for (int64_t k0 = begin; k0 < end; k0 += depth) {
    __syncthreads();
    for (int t = threadIdx.x; t < depth * tile; t += product_threads) {
      // Neighboring threads read neighboring numbers, whichever of the strides is one.
      const int a_k = of.a_k == 1 ? t % depth : t / tile, a_m = of.a_k == 1 ? t / depth : t % tile;
      const int b_k = of.b_k == 1 ? t % depth : t / tile, b_n = of.b_k == 1 ? t / depth : t % tile;
      const bool in_a = k0 + a_k < end && m0 + a_m < of.m, in_b = k0 + b_k < end && n0 + b_n < of.n;
      a[a_k][a_m] = in_a ? of.a[(m0 + a_m) * of.a_m + (k0 + a_k) * of.a_k] : Real(0);
      b[b_k][b_n] = in_b ? of.b[(k0 + b_k) * of.b_k + (n0 + b_n) * of.b_n] : Real(0);
    }
    __syncthreads();
    for (int k = 0; k < depth; k++)
      unroll<each>([&](auto i) {
        unroll<each>([&](auto j) { sums[i][j] += a[k][row + i * (tile / each)] * b[k][column + j * (tile / each)]; });
      });
  }
  Real* c = of.c + blockIdx.y * of.m * of.n;
  unroll<each>([&](auto i) {
    unroll<each>([&](auto j) {
      const int64_t m = m0 + row + i * (tile / each), n = n0 + column + j * (tile / each);
      if (m < of.m && n < of.n) c[m * of.n + n] = sums[i][j];
    });
  });
}

// to = the sum over the parts, in their order, added to what was there or not.
template <class Real>
__global__ void sum_parts(const Real* parts, int64_t count, int64_t size, bool add, const int32_t* wrong, Real* to) {
  const int64_t k = thread_number();
  if (k >= size) return;
  Real sum = add ? to[k] : Real(0);
  for (int64_t part = 0; part < count; part++) sum += parts[part * size + k];
  to[k] = *wrong ? not_a_number<Real>() : sum;
}

template <class Real>
void run_product(const Product<Real>& of, cudaStream_t on) {
  const int64_t tiles = (of.m + tile - 1) / tile * ((of.n + tile - 1) / tile);
  const dim3 blocks = blocks_for(tiles, 1);
  launch(multiply<Real>, dim3(blocks.x, static_cast<unsigned>(of.parts)), product_threads, on, of);
}

struct Arguments {
  abi::Tensor x, coupling, activations, matrix, neighbor, offsets;
  MessageGraph graph;
  int64_t units, columns;

  Arguments(const char* name, const StableIValue* stack)
      : x(stack[0]), coupling(stack[1]), activations(stack[2]), matrix(stack[3]), neighbor(stack[4]), offsets(stack[5]),
        graph(name, x, coupling, neighbor, offsets, abi::from_stack<int64_t>(stack[6]),
              abi::from_stack<int64_t>(stack[7])) {
    graph.checks.tensor(activations, graph.dtype, {graph.num_edges, -1},
                        "activations: expected a contiguous tensor (edges, units) of the type of x");
    units = activations.size(1), columns = graph.of_radial();
    graph.checks.expect(units > 0, "activations: expected at least one unit");
    graph.checks.tensor(matrix, graph.dtype, {units, columns},
                        "matrix: expected a contiguous tensor (units, paths * channels) of the type of x");
  }

  // The radial functions of the edges of a pass.
  template <class Real>
  void make_radial(int64_t first, int64_t last, Real* radial, cudaStream_t on) const {
    run_product(Product<Real>{last - first, columns, units, 1, activations.data<Real>() + first * units,
                              matrix.data<Real>(), units, 1, columns, 1, radial},
                on);
  }
};

template <class Real>
void forward(const Arguments& args, Real* out, cudaStream_t on) {
  const auto wrong = args.graph.wrong(on);
  auto in = args.graph.template input<Real>(wrong);
  const int64_t most = args.graph.edges_of_pass(args.columns);
  const Buffer<Real> radial(args.x, most * args.columns);
  in.radial = radial.data();
  args.graph.each_pass(most, [&](int64_t first, int64_t last) {
    args.make_radial(first, last, radial.data(), on);
    in.first = first, in.last = last;
    args.graph.forward(in, out, on);
  });
}

void message_exact(StableIValue* stack, uint64_t, uint64_t) {
  const Arguments args("message_exact", stack);
  const Device device(args.x);
  auto out = args.x.new_empty({args.graph.size()}, args.graph.dtype);
  for_real(args.x, [&](auto zero) {
    using Real = decltype(zero);
    forward<Real>(args, out.template data<Real>(), stream(args.x));
  });
  stack[0] = out.release();
}

// Derivatives; those of x and the matrix are null where they are not wanted.
template <class Real>
struct Wanted {
  Real *x, *coupling, *activations, *matrix;
};

template <class Real>
void backward(const Arguments& args, const Real* grad, const Wanted<Real>& to, cudaStream_t on) {
  constexpr int64_t edges_of_part = 2048, most_parts = 64;
  const MessageGraph& graph = args.graph;
  const auto wrong = graph.wrong(on);
  auto in = graph.template input<Real>(wrong);
  const int64_t of_features = to.x ? graph.of_features() : 0, all = graph.num_edges, units = args.units,
                columns = args.columns;
  const int64_t most = graph.edges_of_pass(of_features + 2 * columns);
  const auto parts_of = [&](int64_t edges) { return std::min(most_parts, edges / edges_of_part + 1); };
  const Buffer<Real> features(args.x, most * of_features), radial(args.x, most * columns),
      grad_radial(args.x, most * columns), matrices(args.x, to.matrix ? parts_of(most) * units * columns : 0);
  const Groups by_neighbor(args.x, in.neighbor, to.x ? all : 0, graph.num_atoms, on);
  in.radial = radial.data();
  graph.each_pass(most, [&](int64_t first, int64_t last) {
    const int64_t edges = last - first;
    args.make_radial(first, last, radial.data(), on);
    in.first = first, in.last = last;
    graph.backward(in,
                   MessageGradients<Real>{grad, to.coupling, nullptr, to.x ? features.data() : nullptr,
                                          grad_radial.data()},
                   on);
    if (to.x)
      launch(sum_features<Real>, atoms_and_parts(graph.num_atoms, of_features, threads), threads, on,
             EdgeSums{by_neighbor.order(), by_neighbor.bounds(), wrong.data(), graph.num_atoms, all, first, last,
                      of_features},
             features.data(), to.x);
    run_product(Product<Real>{edges, units, columns, 1, grad_radial.data(), args.matrix.data<Real>(), columns, 1, 1,
                              columns, to.activations + first * units},
                on);
    if (!to.matrix) return;
    run_product(Product<Real>{units, columns, edges, parts_of(edges), args.activations.data<Real>() + first * units,
                              grad_radial.data(), 1, units, columns, 1, matrices.data()},
                on);
    launch(sum_parts<Real>, blocks_for(units * columns, threads), threads, on, matrices.data(), parts_of(edges),
           units * columns, first > 0, wrong.data(), to.matrix);
  });
  mark_where_wrong(wrong, to.coupling, all * graph.sizes.coupling, on);
  mark_where_wrong(wrong, to.activations, all * units, on);
}

void message_exact_backward(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor grad(stack[0]);
  const Arguments args("message_exact_backward", stack + 1);
  const MessageGraph& graph = args.graph;
  const bool need_x = abi::from_stack<bool>(stack[9]), need_matrix = abi::from_stack<bool>(stack[10]);
  graph.checks.tensor(grad, graph.dtype, {graph.size()}, "grad: expected a contiguous tensor like the messages");
  const Device device(args.x);
  auto grad_x = graph.like_x(need_x);
  auto grad_coupling = args.x.new_empty({graph.num_edges, graph.sizes.coupling}, graph.dtype);
  auto grad_activations = args.x.new_empty({graph.num_edges, args.units}, graph.dtype);
  auto grad_matrix = need_matrix ? args.x.new_empty({args.units, args.columns}, graph.dtype)
                                 : args.x.new_empty({0}, graph.dtype);
  for_real(args.x, [&](auto zero) {
    using Real = decltype(zero);
    backward<Real>(args, grad.data<Real>(),
                   {need_x ? grad_x.template data<Real>() : nullptr, grad_coupling.template data<Real>(),
                    grad_activations.template data<Real>(), need_matrix ? grad_matrix.template data<Real>() : nullptr},
                   stream(args.x));
  });
  stack[0] = grad_x.release(), stack[1] = grad_coupling.release();
  stack[2] = grad_activations.release(), stack[3] = grad_matrix.release();
}

const auto operators = abi::Library("mlip", "CUDA")
                           .impl("message_exact", message_exact)
                           .impl("message_exact_backward", message_exact_backward);

}  // namespace
}  // namespace mlip::cuda
