// The functions of distances and angles that symmetry functions are made of, with their derivatives; for the numbers of
// several lanes, and for dual numbers of these, which give the second derivatives.
//
// Behind `symmetry_numbers.hpp` or, on a CUDA device, `symmetry_numbers.cuh`.
#pragma once
#include "symmetry_functions.hpp"

namespace mlip::MLIP_ISA {

using D = Dual<V>;

MLIP_INLINE D operator+(const D& a, double b) { return {a.value + b, a.tangent}; }
MLIP_INLINE D operator-(const D& a, double b) { return {a.value - b, a.tangent}; }
MLIP_INLINE D operator-(double a, const D& b) { return {a - b.value, -b.tangent}; }
MLIP_INLINE D operator*(V a, const D& b) { return {a * b.value, a * b.tangent}; }

MLIP_INLINE V value_of(V x) { return x; }
MLIP_INLINE V value_of(const D& x) { return x.value; }

// A constant.
template <class T>
MLIP_INLINE T constant(double x) {
  if constexpr (std::is_same_v<T, V>)
    return vector(x);
  else
    return {vector(x), vector(0)};
}

MLIP_INLINE D select(Mask where, const D& a, const D& b) {
  return {select(where, a.value, b.value), select(where, a.tangent, b.tangent)};
}
MLIP_INLINE bool any_nonzero(V x) { return any(x != 0.0); }
MLIP_INLINE bool any_nonzero(const D& x) { return any((x.value != 0.0) | (x.tangent != 0.0)); }

MLIP_INLINE V inverse(V x) { return 1.0 / x; }
MLIP_INLINE D inverse(const D& x) {
  const V y = 1.0 / x.value;
  return {y, -(y * y) * x.tangent};
}
// Of numbers that are not zero, and of those where it has a derivative.
MLIP_INLINE D root(const D& x) {
  const V y = root(x.value);
  return {y, select(y > 0.0, 0.5 * x.tangent / y, vector(0))};
}
MLIP_INLINE D decay(const D& x) {
  const V y = decay(x.value);
  return {y, y * x.tangent};
}
// Of positive numbers.
MLIP_INLINE D power(const D& x, double exponent) {
  const V y = power(x.value, exponent);
  return {y, exponent * y / x.value * x.tangent};
}

template <class T>
struct Turn {
  T sine, cosine;
};
template <class T>
MLIP_INLINE Turn<T> turned(const T& x) {
  const auto at = turn(value_of(x));
  if constexpr (std::is_same_v<T, V>)
    return {at.sine, at.cosine};
  else
    return {{at.sine, at.cosine * x.tangent}, {at.cosine, -(at.sine * x.tangent)}};
}

// A function and its derivative by its argument.
template <class T>
struct Curve {
  T value, slope;
};

// Falls from 1 at x = 0 to 0 at 1.
template <class T>
MLIP_INLINE Curve<T> core_function(Core core, const T& x) {
  if (core == exponential) {
    const T rest = inverse(1.0 - x * x), value = decay(1.0 - rest);
    return {value, -2.0 * (x * rest * rest * value)};
  }
  const T square = x * x, step = x * (1.0 - x);
  if (core == poly1) return {(2.0 * x - 3.0) * square + 1.0, -6.0 * step};
  if (core == poly2) return {((15.0 - 6.0 * x) * x - 10.0) * square * x + 1.0, -30.0 * (step * step)};
  if (core == poly3)
    return {(x * (x * (20.0 * x - 70.0) + 84.0) - 35.0) * square * square + 1.0, -140.0 * (step * step * step)};
  const T fourth = step * step;
  return {(x * (x * ((315.0 - 70.0 * x) * x - 540.0) + 420.0) - 126.0) * square * square * x + 1.0,
          -630.0 * (fourth * fourth)};
}

template <class T>
MLIP_INLINE Curve<T> cutoff_function(const CutoffWindow& window, const T& r) {
  const T zero = constant<T>(0), one = constant<T>(1);
  Mask outside = value_of(r) >= window.cutoff;
  Curve<T> f{one, zero};
  if (window.kind != CutoffWindow::hard) {
    const double scale = 1 / (window.cutoff - window.inner);
    T x = scale * (r - window.inner);
    const Mask within = value_of(x) <= 0.0;
    outside |= value_of(x) >= 1.0;  // by rounding
    x = select(outside | within, zero, x);
    if (window.kind == CutoffWindow::cosine) {
      // (1 + cos 4t) / 2 = (cos 2t)², cos 2t = 1 - 2 (sin t)²
      const Turn<T> at = turned<T>(M_PI / 4 * x);
      const T cosine = 1.0 - 2.0 * (at.sine * at.sine);
      f = {cosine * cosine, -2.0 * M_PI * (at.sine * at.cosine * cosine)};
    } else if (window.kind == CutoffWindow::from_core) {
      f = core_function(window.core, x);
    } else {  // (tanh(1 - x) c)³
      const T e = decay(-2.0 * (1.0 - x)), t = (1.0 - e) * inverse(e + 1.0);
      const double c = window.kind == CutoffWindow::tanh_cubed ? 1.0 : std::pow(std::tanh(1.0), -3);
      f = {c * (t * t * t), -3.0 * c * (t * t * (1.0 - t * t))};
    }
    if (window.inner > 0) f = {select(within, one, f.value), select(within, zero, f.slope)};
    f.slope = scale * f.slope;
  }
  return {select(outside, zero, f.value), select(outside, zero, f.slope)};
}

// The core function of the distance from the middle of an interval, in half lengths of it.
template <class T>
MLIP_INLINE Curve<T> bump(Core core, bool asymmetric, double low, double high, const T& at) {
  const T zero = constant<T>(0);
  const double scale = 2 / (high - low), middle = 0.5 * (low + high);
  const T x = scale * (at - middle);
  const Mask left = value_of(x) < 0.0;
  const Mask outside = (value_of(at) <= low) | (value_of(at) >= high) | (value_of(x) >= 1.0) | (value_of(x) <= -1.0);
  T distance = select(outside, zero, select(left, 0.0 - x, x)), slope = constant<T>(scale);
  if (asymmetric) {
    slope = scale * (2.0 - 2.0 * distance);
    distance = (2.0 - distance) * distance;
  }
  const Curve<T> f = core_function(core, distance);
  slope = slope * f.slope;
  return {select(outside, zero, f.value), select(outside, zero, select(left, 0.0 - slope, slope))};
}

// Keeps what is wanted of a function; the compiler leaves out what leads to the rest.
template <bool slopes, class T>
MLIP_INLINE void keep(Curve<T>& out, const Curve<T>& f) {
  out.value = f.value;
  if constexpr (slopes) out.slope = f.slope;
}

// All parts of a list at distances r: out[part]. `windows` is memory for those of the list.
template <bool slopes, class T>
MLIP_INLINE void distance_parts(const SymmetryPlan& plan, const PartList& list, const T& r,
                                LaneArray<Curve<T>> windows, LaneArray<Curve<T>> out) {
  for (const int32_t w : list.windows) keep<slopes>(windows[w], cutoff_function(plan.windows[w], r));
  for (const int32_t p : list.parts) {
    const DistancePart& part = plan.parts[p];
    if (part.is_bump) {
      keep<slopes>(out[p], bump(part.core, part.asymmetric, part.low, part.high, r));
      continue;
    }
    const Curve<T>& f = windows[part.window];
    const T s = r - part.shift, e = decay(-part.eta * (s * s));
    keep<slopes, T>(out[p], {e * f.value, e * (f.slope - 2.0 * part.eta * (s * f.value))});
  }
}

// Integer powers of one number, made of its squares.
template <class T>
class Powers {
 public:
  MLIP_INLINE explicit Powers(const T& x) { squares_[0] = x; }
  // exponent from 1 to largest_power
  MLIP_INLINE T operator()(int32_t exponent) {
    int place = lowest_bit(static_cast<uint32_t>(exponent));
    const T* out = &squares_[up_to(place)];
    T product = *out;
    for (uint32_t rest = static_cast<uint32_t>(exponent) >> place >> 1; rest; rest >>= 1) {
      place++;
      if (rest & 1) product = product * squares_[up_to(place)];
    }
    return product;
  }

 private:
  MLIP_INLINE int up_to(int place) {
    for (; highest_ < place; highest_++) squares_[highest_ + 1] = squares_[highest_] * squares_[highest_];
    return place;
  }
  int highest_ = 0;
  T squares_[8];
};

// θ in degrees and its derivative by the cosine. Where the cosine is 1 or -1 there is none, but that of functions which
// are smooth there has a limit, which is taken from nearby: second derivatives need it.
template <class T>
MLIP_INLINE Curve<T> angle_of(const T& cosine) {
  constexpr double limit = 1 - 1e-14, degrees = 180 / M_PI;
  const Mask high = value_of(cosine) > limit, low = value_of(cosine) < -limit;
  const T c = select(high, constant<T>(limit), select(low, constant<T>(-limit), cosine));
  const V theta = degrees * arc_cosine(value_of(c));
  const T slope = -degrees * inverse(root(1.0 - c * c));
  if constexpr (std::is_same_v<T, V>)
    return {theta, slope};
  else
    return {{theta, slope.value * cosine.tangent}, slope};
}

// Powers of 1 + λ cos and its inverse; all zero where it is not positive: most powers of zero have no derivatives.
template <class T>
struct PowersOfAngle {
  MLIP_INLINE PowersOfAngle(double lambda, const T& cosine) : lambda(lambda), powers(constant<T>(0)) {
    const T zero = constant<T>(0);
    base = lambda * cosine + 1.0;
    first = base;
    positive = value_of(base) > 0.0;
    inverse_base = select(positive, inverse(select(positive, base, constant<T>(1))), zero);
    base = select(positive, base, zero);
    powers = Powers<T>(base);
  }
  // Times norm, with the derivative by the cosine.
  MLIP_INLINE Curve<T> operator()(const AnglePart& part) {
    if (part.power == 1) return {part.norm * first, constant<T>(part.norm * lambda)};
    const T raised = part.power ? powers(part.power)
                                : select(positive, power(select(positive, base, constant<T>(1)), part.zeta), base);
    const T value = part.norm * raised;
    return {value, (part.zeta * lambda) * (value * inverse_base)};
  }

  double lambda;
  T first, base, inverse_base;
  Mask positive;
  Powers<T> powers;
};

// All parts of angles in the list: out[part], with derivatives by the cosine.
template <bool slopes, class T>
MLIP_INLINE void angle_parts(const SymmetryPlan& plan, const View<int32_t>& list, const T& cosine,
                             LaneArray<Curve<T>> out) {
  Curve<T> theta{};
  if (plan.bump_of_angle) theta = angle_of(cosine);
  PowersOfAngle<T> one(1, cosine), other(-1, cosine);
  for (const int32_t a : list) {
    const AnglePart& part = plan.angles[a];
    if (part.is_bump) {
      const Curve<T> f = bump(part.core, false, part.low, part.high, theta.value);
      keep<slopes, T>(out[a], {f.value, f.slope * theta.slope});
    } else if (part.lambda == 1) {
      keep<slopes>(out[a], one(part));
    } else if (part.lambda == -1) {
      keep<slopes>(out[a], other(part));
    } else {
      keep<slopes>(out[a], PowersOfAngle<T>(part.lambda, cosine)(part));
    }
  }
}

}  // namespace mlip::MLIP_ISA
