// Radial basis functions, and perceptrons of them with derivatives by the distance (dual numbers).
//
// What is computed for an edge does not depend on the edges beside it: every lane and every row does the same.
#include "radial.hpp"

#include <algorithm>
#include <cstring>

#include "../gemm.hpp"
#include "vector_math.hpp"

namespace mlip::MLIP_ISA {
namespace {

constexpr int doubles = width<double>;

struct Function {
  Vector<double> value, slope;
};

// sin(x) / x and its derivative: by their series around 0, where the quotients cancel.
MLIP_INLINE Function sinc(Vector<double> x) {
  constexpr int terms = 9;
  const Vector<double> square = x * x;
  Vector<double> value{}, slope{};
  unroll<terms>([&](auto k) __attribute__((always_inline)) {
    constexpr int n = terms - k;
    constexpr double sign = n % 2 ? -1 : 1;
    value = (value + sign * inverse_factorial(2 * n + 1)) * square;
    slope = slope * square + sign * 2 * n * inverse_factorial(2 * n + 1);
  });
  const SineCosine direct = sine_cosine(x);
  const Vector<double> quotient = direct.sine / x;
  const auto small = negative<double>(x) > -1;
  return {small ? 1 + value : quotient, small ? slope * x : (direct.cosine - quotient) / x};
}

// 1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2) = (1 - x)³ Σ_{k<p} (k+1)(k+2)/2 x^k, without cancellation.
MLIP_INLINE Function envelope_of(Vector<double> r, double cutoff, int64_t p) {
  const Vector<double> x = r / cutoff, rest = (cutoff - r) / cutoff;
  Vector<double> sum{}, power = Vector<double>{} + 1.0;
  for (int64_t k = p - 1; k >= 0; k--) sum = sum * x + 0.5 * static_cast<double>((k + 1) * (k + 2));
  for (int64_t k = 1; k < p; k++) power *= x;
  const double factor = -0.5 * static_cast<double>(p * (p + 1) * (p + 2)) / cutoff;
  const auto outside = r >= cutoff;
  return {outside ? Vector<double>{} : rest * rest * rest * sum,
          outside ? Vector<double>{} : factor * rest * rest * power};
}

template <class Real>
MLIP_INLINE void scatter(Vector<double> values, int64_t present, Real* to, int64_t stride) {
  double lanes[doubles];
  std::memcpy(lanes, &values, sizeof lanes);
  for (int64_t e = 0; e < present; e++) to[e * stride] = static_cast<Real>(lanes[e]);
}

template <class Real>
void bessel(const BesselBasis& basis, int64_t count, const double* distance, const double* transformed,
            const double* slope, Real* values, Real* derivatives, Real* envelope, Real* envelope_slope) {
  const int64_t size = basis.size;
  for (int64_t e = 0; e < count; e += doubles) {
    const int64_t present = std::min<int64_t>(doubles, count - e);
    const Vector<double> r = load_part(distance + e, present);
    const Vector<double> t = transformed ? load_part(transformed + e, present) : r;
    const Vector<double> dt = transformed ? load_part(slope + e, present) : Vector<double>{} + 1.0;
    const Function f = envelope_of(r, basis.cutoff, basis.p);
    const auto outside = r >= basis.cutoff;
    for (int64_t n = 0; n < size; n++) {
      const double omega = basis.frequencies[n], scale = basis.prefactor * omega;
      const Function b = sinc(omega * t);
      Vector<double> value = scale * b.value, derivative = (scale * omega) * b.slope * dt;
      if (basis.apply_cutoff) {
        derivative = outside ? Vector<double>{} : derivative * f.value + value * f.slope;
        value = outside ? Vector<double>{} : value * f.value;
      }
      scatter(value, present, values + e * size + n, size);
      scatter(derivative, present, derivatives + e * size + n, size);
    }
    if (!basis.apply_cutoff) {
      scatter(f.value, present, envelope + e, 1);
      scatter(f.slope, present, envelope_slope + e, 1);
    }
  }
}

template <class Real>
struct Activation {
  Vector<Real> value, slope;

  // silu(z) and its derivative along dz.
  MLIP_INLINE Activation(Vector<Real> z, Vector<Real> dz) {
    const Logistic<Real> logistic(z);
    value = z * logistic.value;
    slope = (logistic.value + value * logistic.rest) * dz;
  }
};

int64_t tiles(int64_t size, int64_t tile) { return (size + tile - 1) / tile * tile; }

template <class Real>
constexpr const GemmKernels<Real>& products() {
  if constexpr (sizeof(Real) == 4)
    return gemm.float32;
  else
    return gemm.float64;
}

template <class Real>
int64_t row_length(const Perceptron<Real>& network) {
  return tiles(*std::max_element(network.widths, network.widths + network.layers), products<Real>().tile);
}

template <class Real>
int64_t scratch(const Perceptron<Real>& network, int64_t count) {
  return 4 * count * row_length(network);
}

template <class Real>
void activations(const Perceptron<Real>& network, int64_t count, const Real* basis, const Real* tangent,
                 const Real* envelope, const Real* envelope_slope, Real* scratch, Real* out, Real* slopes) {
  const auto& product = products<Real>();
  const int64_t stride = row_length(network);
  Real *x = scratch, *z = scratch + 2 * count * stride;  // values of all edges, then their tangents
  for (int layer = 0; layer < network.layers; layer++) {
    const int64_t width_out = network.widths[layer], filled = tiles(width_out, product.tile);
    if (layer == 0) {
      product.multiply(count, filled, network.inputs, basis, network.inputs, 1, network.packed[0], z, stride, false);
      product.multiply(count, filled, network.inputs, tangent, network.inputs, 1, network.packed[0], z + count * stride,
                       stride, false);
    } else {
      product.multiply(2 * count, filled, network.widths[layer - 1], x, stride, 1, network.packed[layer], z, stride,
                       false);
    }
    if (layer + 1 < network.layers) {
      for (int64_t e = 0; e < count; e++) {
        Real *value = z + e * stride, *slope = z + (count + e) * stride;
        for (int64_t k = 0; k < filled; k += width<Real>) {
          const Activation<Real> a(load(value + k), load(slope + k));
          store(value + k, a.value);
          store(slope + k, a.slope);
        }
      }
      std::swap(x, z);
      continue;
    }
    for (int64_t e = 0; e < count; e++) {
      const Real *value = z + e * stride, *slope = z + (count + e) * stride;
      const Real f = envelope ? envelope[e] : Real(1), df = envelope ? envelope_slope[e] : Real(0);
      for (int64_t k = 0; k < width_out; k += width<Real>) {
        Activation<Real> a(load(value + k), load(slope + k));
        if (envelope) a.slope = a.slope * f + a.value * df, a.value *= f;
        store_part(out + e * width_out + k, a.value, width_out - k);
        store_part(slopes + e * width_out + k, a.slope, width_out - k);
      }
    }
  }
}

template <class Real>
void dot(int64_t count, int64_t size, const Real* a, const Real* all, const int64_t* rows, Real* out) {
  constexpr int lanes = width<Real>;
  for (int64_t e = 0; e < count; e++, a += size) {
    const Real* b = all + size * (rows ? rows[e] : e);
    Vector<Real> first{}, second{};
    int64_t k = 0;
    for (; k + 2 * lanes <= size; k += 2 * lanes) {
      first += load(a + k) * load(b + k);
      second += load(a + k + lanes) * load(b + k + lanes);
    }
    first += second;
    Real sum = 0;
    for (int lane = 0; lane < lanes; lane++) sum += first[lane];
    for (; k < size; k++) sum += a[k] * b[k];
    out[e] = sum;
  }
}

template <class Real>
constexpr RadialFunctions<Real> functions() {
  return {bessel<Real>, scratch<Real>, activations<Real>, dot<Real>};
}

}  // namespace

extern const RadialTable radial_table = {functions<float>(), functions<double>()};

}  // namespace mlip::MLIP_ISA
