// Weights of cubic Hermite interpolation on equidistant knots, and their derivatives of any order.
#include <algorithm>
#include <cmath>

#include "geometry_arguments.hpp"

namespace mlip {
namespace {

constexpr int64_t edges_per_task = 4096;

// Place of r among the knots: row, and 0 <= t <= 1 within it (NaN where r is); outside, r stands for the end it passed.
struct Place {
  int64_t row;
  double t;
  bool inside;
};

inline Place find(double r, double per_spacing, int64_t knots) {
  const double s = r * per_spacing, last = static_cast<double>(knots - 1);
  if (s < 0) return {0, 0.0, false};
  if (s > last) return {knots - 2, 1.0, false};
  const int64_t row = s < last ? static_cast<int64_t>(s) : s == last ? knots - 2 : 0;
  return {row, s - static_cast<double>(row), true};
}

// d^order/dt^order of the weights of the value and spacing · derivative at the left knot, the difference to the value at
// the right knot, and spacing · derivative there.
inline void weights(double t, int64_t order, double* w) {
  switch (order) {
    case 0:
      w[2] = t * t * (3 - 2 * t);
      w[0] = 1 + 0 * t;  // NaN where t is
      w[1] = t * (1 - t) * (1 - t);
      w[3] = t * t * (t - 1);
      return;
    case 1:
      w[2] = 6 * t * (1 - t);
      w[0] = 0;
      w[1] = (1 - t) * (1 - 3 * t);
      w[3] = t * (3 * t - 2);
      return;
    case 2:
      w[2] = 6 - 12 * t;
      w[0] = 0;
      w[1] = 6 * t - 4;
      w[3] = 6 * t - 2;
      return;
    case 3:
      w[0] = 0;
      w[2] = -12;
      w[1] = w[3] = 6;
      return;
    default:
      std::fill(w, w + 4, 0.0);
  }
}

struct Grid {
  double per_spacing, scale;  // scale of the derivative
  int64_t knots, order;

  Grid(const char* operation, const StableIValue* stack)
      : per_spacing(1 / abi::from_stack<double>(stack[0])), scale(1), knots(abi::from_stack<int64_t>(stack[1])),
        order(abi::from_stack<int64_t>(stack[2])) {
    expect(std::isfinite(per_spacing) && per_spacing > 0, operation, "spacing: expected a positive, finite length");
    expect(knots >= 2, operation, "knots: expected at least 2");
    expect(order >= 0, operation, "order: expected 0 or more");
    for (int64_t k = 0; k < std::min<int64_t>(order, 4); k++) scale *= per_spacing;
  }

  // Returns the row. Outside the knots everything is constant.
  int64_t evaluate(double r, double* w) const {
    const Place place = find(r, per_spacing, knots);
    weights(place.t, place.inside || order == 0 ? order : 4, w);
    for (int k = 0; k < 4; k++) w[k] *= scale;
    return place.row;
  }
};

void check_lengths(const char* operation, const abi::Tensor& r) {
  expect(has_shape(r, {-1}) && is_real(r), operation,
         "r: expected a contiguous float32 or float64 tensor of shape (E,) on the CPU");
}

void cubic_weights(StableIValue* stack, uint64_t, uint64_t) {
  constexpr const char* name = "cubic_weights";
  const abi::Tensor r(stack[0]);
  const Grid grid(name, stack + 1);
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
  const Grid grid(name, stack + 2);
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
