// Products of tall matrices with small ones, faster than the BLAS of common torch builds on processors with AVX-512:
// torch.ops.mlip.matmul and its derivatives.
#include <vector>

#include "gemm.hpp"
#include "geometry_arguments.hpp"

namespace mlip {
namespace {

constexpr int64_t rows_per_task = 96;

// C (m, n) = A (m, k) B (k, n), each with the strides given.
template <class Real>
void multiply(int64_t m, int64_t n, int64_t k, const Real* a, int64_t m_stride, int64_t k_stride, const Real* b,
              int64_t b_k_stride, int64_t b_n_stride, Real* c) {
  const auto& gemm = gemm_kernels<Real>();
  std::vector<Real> packed(packed_size<Real>(k, n));
  gemm.pack(b, k, n, b_k_stride, b_n_stride, packed.data());
  abi::parallel_for(0, (m + rows_per_task - 1) / rows_per_task, 1, [&](int64_t first, int64_t last) {
    const int64_t begin = first * rows_per_task, end = last * rows_per_task < m ? last * rows_per_task : m;
    if (end > begin)
      gemm.multiply(end - begin, n, k, a + begin * m_stride, m_stride, k_stride, packed.data(), c + begin * n, n, false);
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
  auto out = a.new_empty({m, n}, a.dtype());
  for_real(a, [&](auto real) {
    using Real = decltype(real);
    multiply<Real>(m, n, k, a.data<Real>(), k, 1, b.data<Real>(), n, 1, out.template data<Real>());
  });
  stack[0] = out.release();
}

void matmul_backward(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor grad(stack[0]), a(stack[1]), b(stack[2]);
  const bool need_a = abi::from_stack<bool>(stack[3]), need_b = abi::from_stack<bool>(stack[4]);
  check(a, b);
  const int64_t m = a.size(0), k = a.size(1), n = b.size(1);
  expect(grad.dtype() == a.dtype() && has_shape(grad, {m, n}), "matmul", "grad: expected a contiguous tensor (m, n)");
  auto grad_a = need_a ? a.new_empty({m, k}, a.dtype()) : a.new_empty({0}, a.dtype());
  auto grad_b = need_b ? a.new_empty({k, n}, a.dtype()) : a.new_empty({0}, a.dtype());
  for_real(a, [&](auto real) {
    using Real = decltype(real);
    if (need_a)
      multiply<Real>(m, k, n, grad.data<Real>(), n, 1, b.data<Real>(), 1, n, grad_a.template data<Real>());
    if (need_b)
      multiply<Real>(k, n, m, a.data<Real>(), 1, k, grad.data<Real>(), n, 1, grad_b.template data<Real>());
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
