// Exponential, logistic function, sine and cosine of vectors, within about one unit in the last place.
#pragma once
#include <cstring>
#include <limits>

#include "vector.hpp"

namespace mlip::MLIP_ISA {

template <class Real>
using Bits = std::conditional_t<sizeof(Real) == 8, int64_t, int32_t>;
template <class Real>
using BitVector = Vector<Bits<Real>>;

template <class Real>
struct FloatFormat;
template <>
struct FloatFormat<double> {
  static constexpr int mantissa = 52;
  static constexpr double round_to_integer = 0x1.8p52;  // added and taken away again
  static constexpr double smallest_exponent = -708;     // its exponential is a normal number
  // log(2) in two parts; the first has so few bits that multiples of it are exact.
  static constexpr double log_2_high = 6.93147180369123816490e-01, log_2_low = 1.90821492927058770002e-10;
  static constexpr int terms = 13;  // of the Taylor series
};
template <>
struct FloatFormat<float> {
  static constexpr int mantissa = 23;
  static constexpr float round_to_integer = 0x1.8p23f;
  static constexpr float smallest_exponent = -87;
  static constexpr float log_2_high = 0.693359375f, log_2_low = -2.12194440e-4f;
  static constexpr int terms = 7;
};

// The first `present` numbers of a vector; the others are 1.
template <class Real>
MLIP_INLINE Vector<Real> load_part(const Real* from, int64_t present) {
  if (present >= width<Real>) return load(from);
  Vector<Real> out = Vector<Real>{} + Real(1);
  std::memcpy(&out, from, present * sizeof(Real));
  return out;
}
template <class Real>
MLIP_INLINE void store_part(Real* to, Vector<Real> value, int64_t present) {
  if (present >= width<Real>)
    store(to, value);
  else
    std::memcpy(to, &value, present * sizeof(Real));
}

constexpr double inverse_factorial(int n) { return n < 2 ? 1.0 : inverse_factorial(n - 1) / n; }

// -|x|, by its sign bit.
template <class Real>
MLIP_INLINE Vector<Real> negative(Vector<Real> x) {
  return (Vector<Real>)((BitVector<Real>)x | std::numeric_limits<Bits<Real>>::min());
}

// exp(x) of x <= 0; 0 below the smallest exponent, anything for NaN.
template <class Real>
MLIP_INLINE Vector<Real> exp_of_negative(Vector<Real> x) {
  using Format = FloatFormat<Real>;
  constexpr Real limit = Format::smallest_exponent, per_log_2 = 1.44269504088896340736;
  const Vector<Real> bounded = x < limit ? Vector<Real>{} + limit : x;
  const Vector<Real> shifted = bounded * per_log_2 + Format::round_to_integer;
  const Vector<Real> n = shifted - Format::round_to_integer;
  const Vector<Real> rest = (bounded - n * Format::log_2_high) - n * Format::log_2_low;
  Vector<Real> series = Vector<Real>{} + Real(inverse_factorial(Format::terms));
  unroll<Format::terms - 2>([&](auto k) __attribute__((always_inline)) {
    series = series * rest + Real(inverse_factorial(Format::terms - 1 - k));
  });
  series = Real(1) + (rest + rest * rest * series);
  const BitVector<Real> scaled = (BitVector<Real>)series + ((BitVector<Real>)shifted << Format::mantissa);
  return x < limit ? Vector<Real>{} : (Vector<Real>)scaled;
}

// 1 / (1 + exp(-z)) and 1 - that, both without cancellation.
template <class Real>
struct Logistic {
  Vector<Real> value, rest;

  MLIP_INLINE explicit Logistic(Vector<Real> z) {
    const Vector<Real> e = exp_of_negative<Real>(negative<Real>(z));
    const Vector<Real> larger = Real(1) / (Real(1) + e), smaller = e * larger;
    value = z < 0 ? smaller : larger;
    rest = z < 0 ? larger : smaller;
  }
};

struct SineCosine {
  Vector<double> sine, cosine;
};

// Of |r| <= π/4, by fdlibm's polynomials.
MLIP_INLINE SineCosine sine_cosine_of_small(Vector<double> r) {
  const Vector<double> s = r * r;
  Vector<double> sine = s * 1.58969099521155010221e-10 - 2.50507602534068634195e-08;
  sine = sine * s + 2.75573137070700676789e-06;
  sine = sine * s - 1.98412698298579493134e-04;
  sine = sine * s + 8.33333333332248946124e-03;
  sine = sine * s - 1.66666666666666324348e-01;
  Vector<double> cosine = s * -1.13596475577881948265e-11 + 2.08757232129817482790e-09;
  cosine = cosine * s - 2.75573143513906633035e-07;
  cosine = cosine * s + 2.48015872894767294178e-05;
  cosine = cosine * s - 1.38888888888741095749e-03;
  cosine = cosine * s + 4.16666666666666019037e-02;
  return {r + r * s * sine, 1 - (0.5 * s - s * s * cosine)};
}

// Of |x| < 10^6: multiples of π/2 are taken away.
MLIP_INLINE SineCosine sine_cosine(Vector<double> x) {
  using V = Vector<double>;
  constexpr double shift = FloatFormat<double>::round_to_integer;
  const V shifted = x * 0.63661977236758134308 + shift;
  const V n = shifted - shift;
  const V r = ((x - n * 1.57079632673412561417) - n * 6.07710050630396597660e-11) - n * 2.02226624879595063154e-21;
  const SineCosine rest = sine_cosine_of_small(r);
  const BitVector<double> quadrant = (BitVector<double>)shifted;
  const BitVector<double> odd = -(quadrant & 1), lower = -((quadrant >> 1) & 1), left = -(((quadrant + 1) >> 1) & 1);
  const V up = odd ? rest.cosine : rest.sine, right = odd ? rest.sine : rest.cosine;
  return {lower ? -up : up, left ? -right : right};
}

}  // namespace mlip::MLIP_ISA
