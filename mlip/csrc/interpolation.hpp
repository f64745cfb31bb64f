// Weights of cubic Hermite interpolation on equidistant knots, and their derivatives of any order; for CPU and CUDA.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "host_device.hpp"

namespace mlip {

// Place of r among the knots: row, and 0 <= t <= 1 within it (NaN where r is); outside, r stands for the end it passed.
struct Place {
  int64_t row;
  double t;
  bool inside;
};

MLIP_HOST_DEVICE Place find(double r, double per_spacing, int64_t knots) {
  const double s = r * per_spacing, last = static_cast<double>(knots - 1);
  if (s < 0) return {0, 0.0, false};
  if (s > last) return {knots - 2, 1.0, false};
  const int64_t row = s < last ? static_cast<int64_t>(s) : s == last ? knots - 2 : 0;
  return {row, s - static_cast<double>(row), true};
}

// d^order/dt^order of the weights of the value and spacing · derivative at the left knot, the difference to the value at
// the right knot, and spacing · derivative there.
MLIP_HOST_DEVICE void weights(double t, int64_t order, double* w) {
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
      w[0] = w[1] = w[2] = w[3] = 0;
  }
}

// Knot k lies at k / per_spacing; weights of the derivative of this order.
struct KnotGrid {
  double per_spacing = 1, scale = 1;  // scale of the derivative
  int64_t knots = 2, order = 0;

  // Of the arguments (float spacing, int knots, int order) of an operator.
  KnotGrid(const char* operation, double spacing, int64_t knots_, int64_t order_)
      : per_spacing(1 / spacing), knots(knots_), order(order_) {
    const auto expect = [operation](bool condition, const char* message) {
      if (!condition) throw std::invalid_argument(std::string(operation) + ": " + message);
    };
    expect(std::isfinite(per_spacing) && per_spacing > 0, "spacing: expected a positive, finite length");
    expect(knots >= 2, "knots: expected at least 2");
    expect(order >= 0, "order: expected 0 or more");
    for (int64_t k = 0; k < std::min<int64_t>(order, 4); k++) scale *= per_spacing;
  }

  // Returns the row. Outside the knots everything is constant.
  MLIP_HOST_DEVICE int64_t evaluate(double r, double* w) const {
    const Place place = find(r, per_spacing, knots);
    weights(place.t, place.inside || order == 0 ? order : 4, w);
    for (int k = 0; k < 4; k++) w[k] *= scale;
    return place.row;
  }
};

}  // namespace mlip
