// Products of rows of channels with a matrix, faster than the BLAS of common torch builds on processors with AVX-512:
// torch.ops.mlip.matmul and its derivatives.
#include "gemm_matrix.hpp"
#include "geometry_arguments.hpp"

namespace mlip {
namespace {

// C (m, n) = A (m, k) B (k, n), or with the transposed of B (n, k).
template <class Real>
void multiply(int64_t m, int64_t n, int64_t k, const Real* a, const Real* b, bool transposed, Real* c) {
  const Matrix<Real> matrix(b, k, n, transposed, m);
  const int64_t tasks = (m + rows_at_once - 1) / rows_at_once;
  abi::parallel_for(0, tasks, worth_threads(m * n * k) ? 1 : tasks, [&](int64_t first, int64_t last) {
    for (int64_t row = first * rows_at_once; row < std::min(m, last * rows_at_once); row += rows_at_once)
      matrix.multiply(std::min(rows_at_once, m - row), a + row * k, c + row * n, false);
  });
}

// C (k, n) = A^T B of A (m, k) and B (m, n).
template <class Real>
void multiply_transposed(int64_t m, int64_t n, int64_t k, const Real* a, const Real* b, Real* c) {
  const int64_t parts = worth_threads(m * n * k) ? abi::num_threads() : 1;
  abi::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
    TransposedProduct<Real> add_product(k, n, part_of<Real>(k, n, first, last, parts));
    add_product(std::min(rows_of_sum, m), a, b, c, false);
    for (int64_t row = rows_of_sum; row < m; row += rows_of_sum)
      add_product(std::min(rows_of_sum, m - row), a + row * k, b + row * n, c, true);
  });
}

void check(const abi::Tensor& a, const abi::Tensor& b) {
  expect(is_real(a) && a.dtype() == b.dtype(), "matmul", "expected two tensors of float32 or of float64");
  expect(has_shape(a, {-1, -1}) && has_shape(b, {a.size(1), -1}), "matmul",
         "expected contiguous tensors (m, k) and (k, n) on the CPU");
}

void matmul(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor a(stack[0]), b(stack[1]);
  check(a, b);
  const int64_t m = a.size(0), k = a.size(1), n = b.size(1);
  auto out = new_output(a, {m, n});
  for_real(a, [&](auto real) {
    using Real = decltype(real);
    multiply<Real>(m, n, k, a.data<Real>(), b.data<Real>(), false, out.template data<Real>());
  });
  stack[0] = out.release();
}

void matmul_backward(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor grad(stack[0]), a(stack[1]), b(stack[2]);
  const bool need_a = abi::from_stack<bool>(stack[3]), need_b = abi::from_stack<bool>(stack[4]);
  check(a, b);
  const int64_t m = a.size(0), k = a.size(1), n = b.size(1);
  expect(grad.dtype() == a.dtype() && has_shape(grad, {m, n}), "matmul", "grad: expected a contiguous tensor (m, n)");
  auto grad_a = need_a ? new_output(a, {m, k}) : a.new_empty({0}, a.dtype());
  auto grad_b = need_b ? a.new_empty({k, n}, a.dtype()) : a.new_empty({0}, a.dtype());
  for_real(a, [&](auto real) {
    using Real = decltype(real);
    const Real* from = grad.data<Real>();
    if (need_a) multiply<Real>(m, k, n, from, b.data<Real>(), true, grad_a.template data<Real>());
    if (need_b) multiply_transposed<Real>(m, n, k, a.data<Real>(), from, grad_b.template data<Real>());
  });
  stack[0] = grad_a.release();
  stack[1] = grad_b.release();
}

const auto definitions =
    abi::Library("mlip")
        .def("matmul(Tensor a, Tensor b) -> Tensor")
        .def("matmul_backward(Tensor grad, Tensor a, Tensor b, bool need_a, bool need_b) -> (Tensor, Tensor)");
const auto cpu = abi::Library("mlip", "CPU").impl("matmul", matmul).impl("matmul_backward", matmul_backward);

}  // namespace
}  // namespace mlip
