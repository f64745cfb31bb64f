// Sums of outer products over the edges of a center: torch.ops.mlip.neighbor_outer and its derivative.
#include "gemm.hpp"
#include "message_operator.hpp"

namespace mlip {
namespace {

constexpr const char* schema = "neighbor_outer(Tensor left, Tensor right, Tensor offsets) -> Tensor";
constexpr const char* backward_schema =
    "neighbor_outer_backward(Tensor grad, Tensor left, Tensor right, Tensor offsets) -> (Tensor, Tensor)";

struct Arguments {
  explicit Arguments(const StableIValue* stack) : left(stack[0]), right(stack[1]), offsets(stack[2]) {}
  abi::Tensor left, right, offsets;
};

template <class Real>
struct Outer {
  const Arguments& given;
  int64_t edges = 0, atoms = 0, rows = 0, columns = 0;
  const Real *left = nullptr, *right = nullptr;
  const int64_t* offsets = nullptr;
  const GemmKernels<Real>& gemm = gemm_kernels<Real>();

  explicit Outer(const Arguments& arguments) : given(arguments) {
    check_tensor(given.left, dtype_of<Real>(), {-1, -1}, "left: expected a contiguous tensor (edges, D) on the CPU");
    edges = given.left.size(0), rows = given.left.size(1);
    check_tensor(given.right, dtype_of<Real>(), {edges, -1},
                 "right: expected a contiguous tensor (edges, K) of the type of left");
    columns = given.right.size(1);
    check_tensor(given.offsets, aoti_torch_dtype_int64(), {-1}, "offsets: expected a contiguous int64 tensor (atoms + 1,)");
    atoms = given.offsets.size(0) - 1;
    left = given.left.data<Real>(), right = given.right.data<Real>(), offsets = given.offsets.data<int64_t>();
    check_offsets(offsets, atoms, edges);
  }

  void forward(StableIValue* stack) {
    auto out = given.left.new_empty({rows, atoms, columns}, given.left.dtype());
    Real* to = out.template data<Real>();
    abi::parallel_for(0, atoms, 16, [&](int64_t begin, int64_t end) {
      std::vector<Real> packed;
      for (int64_t i = begin; i < end; i++) {
        const int64_t e = offsets[i], count = offsets[i + 1] - e;
        packed.resize(std::max<int64_t>(packed.size(), packed_size<Real>(count, columns)));
        gemm.pack(right + e * columns, count, columns, columns, 1, packed.data());
        gemm.multiply(rows, columns, count, left + e * rows, 1, rows, packed.data(), to + i * columns, atoms * columns,
                      false);
      }
    });
    stack[0] = out.release();
  }

  void backward(const abi::Tensor& grad, StableIValue* stack) {
    check_tensor(grad, given.left.dtype(), {rows, atoms, columns}, "grad: expected a contiguous tensor (D, atoms, K)");
    auto grad_left = given.left.new_empty({edges, rows}, given.left.dtype());
    auto grad_right = given.left.new_empty({edges, columns}, given.left.dtype());
    Real *to_left = grad_left.template data<Real>(), *to_right = grad_right.template data<Real>();
    const Real* from = grad.data<Real>();
    abi::parallel_for(0, atoms, 16, [&](int64_t begin, int64_t end) {
      std::vector<Real> packed(std::max(packed_size<Real>(columns, rows), packed_size<Real>(rows, columns)));
      for (int64_t i = begin; i < end; i++) {
        const int64_t e = offsets[i], count = offsets[i + 1] - e;
        gemm.pack(from + i * columns, columns, rows, 1, atoms * columns, packed.data());
        gemm.multiply(count, rows, columns, right + e * columns, columns, 1, packed.data(), to_left + e * rows, rows,
                      false);
        gemm.pack(from + i * columns, rows, columns, atoms * columns, 1, packed.data());
        gemm.multiply(count, columns, rows, left + e * rows, rows, 1, packed.data(), to_right + e * columns, columns,
                      false);
      }
    });
    stack[0] = grad_left.release(), stack[1] = grad_right.release();
  }
};

void neighbor_outer(StableIValue* stack, uint64_t, uint64_t) {
  const Arguments args(stack);
  if (args.left.dtype() == aoti_torch_dtype_float64()) return Outer<double>(args).forward(stack);
  expect_message(args.left.dtype() == aoti_torch_dtype_float32(), "left: expected float32 or float64");
  Outer<float>(args).forward(stack);
}

void neighbor_outer_backward(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor grad(stack[0]);
  const Arguments args(stack + 1);
  if (args.left.dtype() == aoti_torch_dtype_float64()) return Outer<double>(args).backward(grad, stack);
  expect_message(args.left.dtype() == aoti_torch_dtype_float32(), "left: expected float32 or float64");
  Outer<float>(args).backward(grad, stack);
}

const auto definitions = abi::Library("mlip").def(schema).def(backward_schema);
const auto cpu = abi::Library("mlip", "CPU")
                     .impl("neighbor_outer", neighbor_outer)
                     .impl("neighbor_outer_backward", neighbor_outer_backward);

}  // namespace
}  // namespace mlip
