// The operator `mlip::message_interpolated` on CUDA, and its derivative.
#include "groups.cuh"
#include "message.cuh"
#include "offsets.cuh"

namespace mlip::cuda {
namespace {

constexpr int threads = 128;
constexpr int64_t pass_bytes = int64_t{1} << 29;  // of the features' derivatives for each edge

const PathSizes& sizes_of(const Checks& checks, int64_t hidden, int64_t harmonics) {
  static constexpr PathSizes sizes[3][3] = {{path_sizes<0, 1>, path_sizes<0, 2>, path_sizes<0, 3>},
                                            {path_sizes<1, 1>, path_sizes<1, 2>, path_sizes<1, 3>},
                                            {{}, path_sizes<2, 2>, path_sizes<2, 3>}};
  checks.expect(hidden >= 0 && hidden <= 2 && harmonics >= 1 && harmonics <= 3 && hidden <= harmonics,
                "hidden, harmonics: expected degrees 0 <= hidden <= 2 and hidden <= harmonics, 1 <= harmonics <= 3");
  return sizes[hidden][harmonics - 1];
}

template <class Real>
const MessageFunctions<Real>& functions_of(int64_t hidden, int64_t harmonics) {
  static const MessageKernels kernels[3][3] = {{message_kernels<0, 1>, message_kernels<0, 2>, message_kernels<0, 3>},
                                               {message_kernels<1, 1>, message_kernels<1, 2>, message_kernels<1, 3>},
                                               {{}, message_kernels<2, 2>, message_kernels<2, 3>}};
  const MessageKernels& found = kernels[hidden][harmonics - 1];
  if constexpr (sizeof(Real) == 4)
    return found.float32;
  else
    return found.float64;
}

// Block (x, y): the derivatives of the features of atom x from y * threads on, summed over the edges of this pass to it.
template <class Real>
__global__ void sum_over_edges(const Real* of_edges, int64_t length, int64_t first, int64_t last, const int32_t* edges,
                               const int32_t* bounds, int64_t num_edges, const int32_t* wrong, Real* sums) {
  const int64_t atom = blockIdx.x, place = static_cast<int64_t>(blockIdx.y) * threads + threadIdx.x;
  if (place >= length) return;
  Real sum = first == 0 ? Real(0) : sums[atom * length + place];
  for (int32_t k = bounds[atom]; k < bounds[atom + 1]; k++) {
    const int64_t e = edges[k];
    if (first <= e && e < last) sum += of_edges[(e - first) * length + place];
  }
  const bool right = bounds[gridDim.x] == num_edges && !*wrong;
  sums[atom * length + place] = right ? sum : not_a_number<Real>();
}

struct Arguments {
  abi::Tensor x, coupling, weights, knot, table, neighbor, offsets;
  int64_t hidden, harmonics, num_atoms = 0, num_edges = 0, channels = 0, rows = 0;
  PathSizes sizes{};
  Checks checks;

  Arguments(const char* name, const StableIValue* stack)
      : x(stack[0]), coupling(stack[1]), weights(stack[2]), knot(stack[3]), table(stack[4]), neighbor(stack[5]),
        offsets(stack[6]), hidden(abi::from_stack<int64_t>(stack[7])), harmonics(abi::from_stack<int64_t>(stack[8])),
        checks(name, x) {
    sizes = sizes_of(checks, hidden, harmonics);
    for (int l3 = 0; l3 <= harmonics; l3++) rows += (2 * l3 + 1) * sizes.into[l3];
    const int32_t dtype = x.dtype();
    const int64_t lanes = dtype == aoti_torch_dtype_float32() ? 16 : 8;
    checks.real(x, "x: expected float32 or float64");
    checks.tensor(x, dtype, {-1, sizes.components_x, -1},
                  "x: expected a contiguous tensor (atoms, (hidden + 1)^2, channels)");
    num_atoms = x.size(0), channels = x.size(2);
    checks.expect(channels > 0 && channels % lanes == 0, "x: expected a multiple of 16 (float32) or 8 (float64) channels");
    checks.integers(neighbor, {-1}, "neighbor: expected a contiguous int64 tensor (edges,)");
    num_edges = neighbor.size(0);
    checks.tensor(coupling, dtype, {num_edges, sizes.coupling},
                  "coupling: expected a contiguous tensor (edges, columns of the coupling matrix) of the type of x");
    checks.integers(offsets, {num_atoms + 1}, "offsets: expected a contiguous int64 tensor (atoms + 1,)");
    checks.tensor(weights, dtype, {num_edges, 4}, "weights: expected a contiguous tensor (edges, 4) of the type of x");
    checks.integers(knot, {num_edges}, "knot: expected a contiguous int64 tensor (edges,)");
    checks.tensor(table, dtype, {-1, channels / lanes, sizes.paths, 3, lanes},
                  "table: expected a contiguous tensor made by pack_table, of the type of x");
    checks.expect(num_edges == 0 || (num_atoms > 0 && table.size(0) >= 2), "expected atoms and at least two knots");
  }

  template <class Real>
  MessageInput<Real> input(const Buffer<int32_t>& wrong) const {
    return {num_atoms,
            num_edges,
            channels,
            table.size(0),
            offsets.data<int64_t>(),
            neighbor.data<int64_t>(),
            knot.data<int64_t>(),
            x.data<Real>(),
            coupling.data<Real>(),
            weights.data<Real>(),
            table.data<Real>(),
            wrong.data()};
  }
};

void message_interpolated(StableIValue* stack, uint64_t, uint64_t) {
  const Arguments args("message_interpolated", stack);
  const Device device(args.x);
  const cudaStream_t on = stream(args.x);
  const auto wrong = checked_offsets(args.offsets, args.num_atoms, args.num_edges, on);
  auto out = args.x.new_empty({args.rows * args.num_atoms * args.channels}, args.x.dtype());
  for_real(args.x, [&](auto zero) {
    using Real = decltype(zero);
    launch(functions_of<Real>(args.hidden, args.harmonics).forward,
           atoms_and_parts(args.num_atoms, args.channels, message_threads), message_threads, on,
           args.template input<Real>(wrong), out.template data<Real>());
  });
  stack[0] = out.release();
}

// The derivatives for `pass_bytes` of edges at a time; sums over the passes are made in their order.
template <class Real>
void backward(const Arguments& args, const Real* grad, Real* grad_x, Real* grad_coupling, Real* grad_weights,
              cudaStream_t on) {
  const auto wrong = checked_offsets(args.offsets, args.num_atoms, args.num_edges, on);
  const auto input = args.input<Real>(wrong);
  const int64_t length = args.sizes.components_x * args.channels, all = args.num_edges;
  const int64_t most = grad_x ? std::max<int64_t>(1, pass_bytes / (length * static_cast<int64_t>(sizeof(Real)))) : all;
  const Buffer<Real> features(args.x, grad_x ? std::min(most, all) * length : 0);
  const Groups edges(args.x, input.neighbor, grad_x ? all : 0, args.num_atoms, on);
  const auto run = functions_of<Real>(args.hidden, args.harmonics).backward;
  for (int64_t first = 0; first == 0 || first < all; first += std::max<int64_t>(1, most)) {
    const int64_t last = std::min(all, first + most);
    launch(run, blocks_for(args.num_atoms, 1), message_threads, on, input,
           MessageGradients<Real>{grad, grad_coupling, grad_weights, grad_x ? features.data() : nullptr, first, last});
    if (grad_x)
      launch(sum_over_edges<Real>, atoms_and_parts(args.num_atoms, length, threads), threads, on, features.data(), length,
             first, last, edges.order(), edges.bounds(), all, wrong.data(), grad_x);
  }
  mark_where_wrong(wrong, grad_coupling, all * args.sizes.coupling, on);
  mark_where_wrong(wrong, grad_weights, all * 4, on);
}

void message_interpolated_backward(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor grad(stack[0]);
  const Arguments args("message_interpolated_backward", stack + 1);
  const bool need_x = abi::from_stack<bool>(stack[10]);
  const int32_t dtype = args.x.dtype();
  args.checks.tensor(grad, dtype, {args.rows * args.num_atoms * args.channels},
                     "grad: expected a contiguous tensor like the messages");
  const Device device(args.x);
  auto grad_x = need_x ? args.x.new_empty({args.num_atoms, args.sizes.components_x, args.channels}, dtype)
                       : args.x.new_empty({0}, dtype);
  auto grad_coupling = args.x.new_empty({args.num_edges, args.sizes.coupling}, dtype);
  auto grad_weights = args.x.new_empty({args.num_edges, 4}, dtype);
  for_real(args.x, [&](auto zero) {
    using Real = decltype(zero);
    backward<Real>(args, grad.data<Real>(), need_x ? grad_x.template data<Real>() : nullptr,
                   grad_coupling.template data<Real>(), grad_weights.template data<Real>(), stream(args.x));
  });
  stack[0] = grad_x.release(), stack[1] = grad_coupling.release(), stack[2] = grad_weights.release();
}

const auto operators = abi::Library("mlip", "CUDA")
                           .impl("message_interpolated", message_interpolated)
                           .impl("message_interpolated_backward", message_interpolated_backward);

}  // namespace
}  // namespace mlip::cuda
