// The operator `mlip::neighbor_outer` on CUDA, and its derivative.
#include "offsets.cuh"

namespace mlip::cuda {
namespace {

constexpr int threads = 64;
constexpr int rows_at_once = 16;

template <class Real>
struct Outer {
  int64_t atoms, edges, rows, columns;
  const Real *left, *right;  // (edges, rows), (edges, columns)
  const int64_t* offsets;
  const int32_t* wrong;
};

// Block (x, y): center x, columns from y * threads on, a thread for each.
template <class Real>
__global__ void forward(Outer<Real> in, Real* out) {
  const int64_t atom = blockIdx.x, column = static_cast<int64_t>(blockIdx.y) * threads + threadIdx.x;
  if (column >= in.columns) return;
  const bool wrong = *in.wrong;
  const int64_t begin = wrong ? 0 : in.offsets[atom], end = wrong ? 0 : in.offsets[atom + 1];
  for (int64_t first = 0; first < in.rows; first += rows_at_once) {
    const int count = static_cast<int>(in.rows - first < rows_at_once ? in.rows - first : rows_at_once);
    Real sums[rows_at_once];
    unroll<rows_at_once>([&](auto m) { sums[m] = wrong ? not_a_number<Real>() : Real(0); });
    for (int64_t e = begin; e < end; e++) {
      const Real r = in.right[e * in.columns + column];
      const Real* l = in.left + e * in.rows + first;
      unroll<rows_at_once>([&](auto m) {
        if (m < count) sums[m] += l[m] * r;
      });
    }
    unroll<rows_at_once>([&](auto m) {
      if (m < count) out[((first + m) * in.atoms + atom) * in.columns + column] = sums[m];
    });
  }
}

// As forward: the derivative of `right`.
template <class Real>
__global__ void backward_right(Outer<Real> in, const Real* grad, Real* grad_right) {
  const int64_t atom = blockIdx.x, column = static_cast<int64_t>(blockIdx.y) * threads + threadIdx.x;
  if (column >= in.columns || *in.wrong) return;
  for (int64_t first = 0; first < in.rows; first += rows_at_once) {
    const int count = static_cast<int>(in.rows - first < rows_at_once ? in.rows - first : rows_at_once);
    Real g[rows_at_once];
    unroll<rows_at_once>([&](auto m) {
      g[m] = m < count ? grad[((first + m) * in.atoms + atom) * in.columns + column] : Real(0);
    });
    for (int64_t e = in.offsets[atom]; e < in.offsets[atom + 1]; e++) {
      const Real* l = in.left + e * in.rows + first;
      Real& to = grad_right[e * in.columns + column];
      Real sum = first == 0 ? Real(0) : to;
      unroll<rows_at_once>([&](auto m) {
        if (m < count) sum += g[m] * l[m];
      });
      to = sum;
    }
  }
}

// A block per center, a warp per edge: the derivative of `left`.
template <class Real>
__global__ void backward_left(Outer<Real> in, const Real* grad, Real* grad_left) {
  constexpr int warps = threads / warp, lanes_each = warp / rows_at_once;
  const int lane = threadIdx.x % warp;
  const int64_t atom = blockIdx.x;
  if (*in.wrong) return;
  for (int64_t e = in.offsets[atom] + threadIdx.x / warp; e < in.offsets[atom + 1]; e += warps) {
    for (int64_t first = 0; first < in.rows; first += rows_at_once) {
      const int count = static_cast<int>(in.rows - first < rows_at_once ? in.rows - first : rows_at_once);
      Real sums[rows_at_once] = {};
      for (int64_t column = lane; column < in.columns; column += warp) {
        const Real r = in.right[e * in.columns + column];
        unroll<rows_at_once>([&](auto m) {
          if (m < count) sums[m] += grad[((first + m) * in.atoms + atom) * in.columns + column] * r;
        });
      }
      const Real sum = lane_sums<rows_at_once, warp / 2>(sums, lane);
      const int row = lane / lanes_each;
      if (lane % lanes_each == 0 && row < count) grad_left[e * in.rows + first + row] = sum;
    }
  }
}

struct Arguments {
  abi::Tensor left, right, offsets;
  int64_t edges = 0, atoms = 0, rows = 0, columns = 0;
  Checks checks;

  Arguments(const char* name, const StableIValue* stack)
      : left(stack[0]), right(stack[1]), offsets(stack[2]), checks(name, left) {
    checks.real(left, "left: expected float32 or float64");
    checks.tensor(left, left.dtype(), {-1, -1}, "left: expected a contiguous tensor (edges, D)");
    edges = left.size(0), rows = left.size(1);
    checks.tensor(right, left.dtype(), {edges, -1}, "right: expected a contiguous tensor (edges, K) of the type of left");
    columns = right.size(1);
    checks.integers(offsets, {-1}, "offsets: expected a contiguous int64 tensor (atoms + 1,)");
    checks.expect(offsets.size(0) > 0, "offsets: expected a contiguous int64 tensor (atoms + 1,)");
    atoms = offsets.size(0) - 1;
  }
  template <class Real>
  Outer<Real> input(const Buffer<int32_t>& wrong) const {
    return {atoms, edges, rows, columns, left.data<Real>(), right.data<Real>(), offsets.data<int64_t>(), wrong.data()};
  }
};

void neighbor_outer(StableIValue* stack, uint64_t, uint64_t) {
  const Arguments args("neighbor_outer", stack);
  const Device device(args.left);
  const cudaStream_t on = stream(args.left);
  const auto wrong = checked_offsets(args.offsets, args.atoms, args.edges, on);
  auto out = args.left.new_empty({args.rows, args.atoms, args.columns}, args.left.dtype());
  for_real(args.left, [&](auto zero) {
    using Real = decltype(zero);
    launch(forward<Real>, atoms_and_parts(args.atoms, args.columns, threads), threads, on,
           args.template input<Real>(wrong), out.template data<Real>());
  });
  stack[0] = out.release();
}

void neighbor_outer_backward(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor grad(stack[0]);
  const Arguments args("neighbor_outer_backward", stack + 1);
  args.checks.tensor(grad, args.left.dtype(), {args.rows, args.atoms, args.columns},
                     "grad: expected a contiguous tensor (D, atoms, K)");
  const Device device(args.left);
  const cudaStream_t on = stream(args.left);
  const auto wrong = checked_offsets(args.offsets, args.atoms, args.edges, on);
  auto grad_left = args.left.new_empty({args.edges, args.rows}, args.left.dtype());
  auto grad_right = args.left.new_empty({args.edges, args.columns}, args.left.dtype());
  for_real(args.left, [&](auto zero) {
    using Real = decltype(zero);
    const auto input = args.template input<Real>(wrong);
    Real *left = grad_left.template data<Real>(), *right = grad_right.template data<Real>();
    launch(backward_left<Real>, blocks_for(args.atoms, 1), threads, on, input, grad.data<Real>(), left);
    launch(backward_right<Real>, atoms_and_parts(args.atoms, args.columns, threads), threads, on, input,
           grad.data<Real>(), right);
    if (args.rows == 0)  // no pass over rows has set it
      MLIP_CUDA(cudaMemsetAsync(right, 0, args.edges * args.columns * sizeof(Real), on));
    mark_where_wrong(wrong, left, args.edges * args.rows, on);
    mark_where_wrong(wrong, right, args.edges * args.columns, on);
  });
  stack[0] = grad_left.release(), stack[1] = grad_right.release();
}

const auto operators = abi::Library("mlip", "CUDA")
                           .impl("neighbor_outer", neighbor_outer)
                           .impl("neighbor_outer_backward", neighbor_outer_backward);

}  // namespace
}  // namespace mlip::cuda
