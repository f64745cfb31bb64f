// The operator `mlip::cubic_weights` on the CPU, and its derivative.
#include "geometry_arguments.hpp"
#include "interpolation.hpp"

namespace mlip {
namespace {

constexpr int64_t edges_per_task = 4096;

KnotGrid grid_of(const char* operation, const StableIValue* stack) {
  return {operation, abi::from_stack<double>(stack[0]), abi::from_stack<int64_t>(stack[1]),
          abi::from_stack<int64_t>(stack[2])};
}

void check_lengths(const char* operation, const abi::Tensor& r) {
  expect(has_shape(r, {-1}) && is_real(r), operation,
         "r: expected a contiguous float32 or float64 tensor of shape (E,) on the CPU");
}

void cubic_weights(StableIValue* stack, uint64_t, uint64_t) {
  constexpr const char* name = "cubic_weights";
  const abi::Tensor r(stack[0]);
  const KnotGrid grid = grid_of(name, stack + 1);
  check_lengths(name, r);
  auto weight = new_output(r, {r.size(0), 4});
  auto row = r.new_empty({r.size(0)}, aoti_torch_dtype_int64());
  for_real(r, [&](auto zero) {
    using Real = decltype(zero);
    const Real* length = r.data<Real>();
    Real* out = weight.data<Real>();
    auto* rows = row.data<int64_t>();
    abi::parallel_for(0, r.size(0), edges_per_task, [&](int64_t first, int64_t last) {
      for (int64_t e = first; e < last; e++) {
        double w[4];
        rows[e] = grid.evaluate(static_cast<double>(length[e]), w);
        for (int k = 0; k < 4; k++) out[4 * e + k] = static_cast<Real>(w[k]);
      }
    });
  });
  stack[0] = weight.release();
  stack[1] = row.release();
}

// Sum over the four of grad times the derivative of the weights of this order.
void cubic_weights_backward(StableIValue* stack, uint64_t, uint64_t) {
  constexpr const char* name = "cubic_weights_backward";
  const abi::Tensor grad(stack[0]), r(stack[1]);
  const KnotGrid grid = grid_of(name, stack + 2);
  check_lengths(name, r);
  expect(has_shape(grad, {r.size(0), 4}) && grad.dtype() == r.dtype(), name,
         "grad: expected a contiguous tensor of shape (E, 4) and the type of r");
  auto sum = new_output(r, {r.size(0)});
  for_real(r, [&](auto zero) {
    using Real = decltype(zero);
    const Real *length = r.data<Real>(), *g = grad.data<Real>();
    Real* out = sum.data<Real>();
    abi::parallel_for(0, r.size(0), edges_per_task, [&](int64_t first, int64_t last) {
      for (int64_t e = first; e < last; e++) {
        double w[4], total = 0;
        grid.evaluate(static_cast<double>(length[e]), w);
        for (int k = 0; k < 4; k++) total += w[k] * static_cast<double>(g[4 * e + k]);
        out[e] = static_cast<Real>(total);
      }
    });
  });
  stack[0] = sum.release();
}

const auto definition =
    abi::Library("mlip")
        .def("cubic_weights(Tensor r, float spacing, int knots, int order=0) -> (Tensor weights, Tensor row)")
        .def("cubic_weights_backward(Tensor grad, Tensor r, float spacing, int knots, int order) -> Tensor");
const auto cpu = abi::Library("mlip", "CPU")
                     .impl("cubic_weights", cubic_weights)
                     .impl("cubic_weights_backward", cubic_weights_backward);

}  // namespace
}  // namespace mlip
