// The operator `mlip::message_interpolated` on CUDA, and its derivative.
#include "groups.cuh"
#include "message.cuh"
#include "offsets.cuh"

namespace mlip::cuda {
namespace {

constexpr int threads = 128;
constexpr int64_t pass_bytes = int64_t{1} << 29;  // of derivatives for each edge at a time

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

// Sums over the edges of each neighbor or knot, edges of later passes being added to those of the passes before.
struct EdgeSums {
  const int32_t *edges, *bounds;
  const int32_t* wrong;
  int64_t groups, num_edges, first, last, length;

  // Calls body(edge, its place in this pass) for the edges of a group.
  template <class Body>
  MLIP_INLINE void each(int64_t group, const Body& body) const {
    for (int32_t k = bounds[group]; k < bounds[group + 1]; k++) {
      const int64_t e = edges[k];
      if (first <= e && e < last) body(e, e - first);
    }
  }
  MLIP_INLINE bool right() const { return bounds[groups] == num_edges && !*wrong; }
};

// Block (x, y): the derivatives of the features of atom x from y * threads on.
template <class Real>
__global__ void sum_features(EdgeSums of, const Real* features, Real* sums) {
  const int64_t atom = blockIdx.x, place = static_cast<int64_t>(blockIdx.y) * threads + threadIdx.x;
  if (place >= of.length) return;
  Real& to = sums[atom * of.length + place];
  Real sum = of.first == 0 ? Real(0) : to;
  of.each(atom, [&](int64_t, int64_t row) { sum += features[row * of.length + place]; });
  to = of.right() ? sum : not_a_number<Real>();
}

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
  int64_t hidden, harmonics, num_atoms = 0, num_edges = 0, channels = 0, rows = 0;
  PathSizes sizes{};
  Checks checks;

  Arguments(const char* name, const StableIValue* stack)
      : x(stack[0]), coupling(stack[1]), weights(stack[2]), table(stack[3]), knot(stack[4]), neighbor(stack[5]),
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
  auto out = args.x.new_empty({abi::product({args.rows, args.num_atoms, args.channels})}, args.x.dtype());
  for_real(args.x, [&](auto zero) {
    using Real = decltype(zero);
    launch(functions_of<Real>(args.hidden, args.harmonics).forward,
           atoms_and_parts(args.num_atoms, args.channels, message_threads), message_threads, on,
           args.template input<Real>(wrong), out.template data<Real>());
  });
  stack[0] = out.release();
}

// Derivatives, null where they are not wanted.
template <class Real>
struct Wanted {
  Real *x, *coupling, *weights, *table;
};

// Edges in passes whose derivatives take `pass_bytes`; sums over the passes are made in their order.
template <class Real>
void backward(const Arguments& args, const Real* grad, const Wanted<Real>& to, cudaStream_t on) {
  const auto wrong = checked_offsets(args.offsets, args.num_atoms, args.num_edges, on);
  const auto input = args.input<Real>(wrong);
  const int64_t all = args.num_edges, knots = args.table.size(0);
  const int64_t of_features = to.x ? args.sizes.components_x * args.channels : 0;
  const int64_t of_radial = to.table ? args.sizes.paths * args.channels : 0;
  const int64_t bytes = (of_features + of_radial) * static_cast<int64_t>(sizeof(Real));
  const int64_t most = std::max<int64_t>(1, bytes == 0 ? all : std::min(all, pass_bytes / bytes));
  const Buffer<Real> features(args.x, most * of_features), radial(args.x, most * of_radial);
  const Groups by_neighbor(args.x, input.neighbor, to.x ? all : 0, args.num_atoms, on);
  const Groups by_knot(args.x, input.knot, to.table ? all : 0, std::max<int64_t>(0, knots - 1), on);
  const auto run = functions_of<Real>(args.hidden, args.harmonics).backward;
  int64_t first = 0;
  do {  // without edges, too, since the sums are to be zero
    const int64_t last = std::min(all, first + most);
    launch(run, blocks_for(args.num_atoms, 1), message_threads, on, input,
           MessageGradients<Real>{grad, to.coupling, to.weights, first, last, to.x ? features.data() : nullptr,
                                  to.table ? radial.data() : nullptr});
    if (to.x)
      launch(sum_features<Real>, atoms_and_parts(args.num_atoms, of_features, threads), threads, on,
             EdgeSums{by_neighbor.order(), by_neighbor.bounds(), wrong.data(), args.num_atoms, all, first, last,
                      of_features},
             features.data(), to.x);
    if (to.table)
      launch(sum_radial<Real>, atoms_and_parts(knots, of_radial, threads), threads, on,
             EdgeSums{by_knot.order(), by_knot.bounds(), wrong.data(), std::max<int64_t>(0, knots - 1), all, first, last,
                      of_radial},
             radial.data(), input.weights, args.channels, to.table);
    first = last;
  } while (first < all);
  mark_where_wrong(wrong, to.coupling, all * args.sizes.coupling, on);
  mark_where_wrong(wrong, to.weights, all * 4, on);
}

void message_interpolated_backward(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor grad(stack[0]);
  const Arguments args("message_interpolated_backward", stack + 1);
  const bool need_x = abi::from_stack<bool>(stack[10]), need_table = abi::from_stack<bool>(stack[11]);
  const int32_t dtype = args.x.dtype();
  args.checks.tensor(grad, dtype, {abi::product({args.rows, args.num_atoms, args.channels})},
                     "grad: expected a contiguous tensor like the messages");
  const Device device(args.x);
  const int64_t lanes = dtype == aoti_torch_dtype_float32() ? 16 : 8;
  auto grad_x = need_x ? args.x.new_empty({args.num_atoms, args.sizes.components_x, args.channels}, dtype)
                       : args.x.new_empty({0}, dtype);
  auto grad_coupling = args.x.new_empty({args.num_edges, args.sizes.coupling}, dtype);
  auto grad_weights = args.x.new_empty({args.num_edges, 4}, dtype);
  auto grad_table =
      need_table ? args.x.new_empty({args.table.size(0), args.channels / lanes, args.sizes.paths, 3, lanes}, dtype)
                 : args.x.new_empty({0}, dtype);
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
