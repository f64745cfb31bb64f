// silu(z) = z σ(z) and its derivatives, z σ^(k) + k σ^(k-1).
#include "silu.hpp"

#include "vector_math.hpp"

namespace mlip::MLIP_ISA {
namespace {

// Derivatives of the logistic function: polynomials of u = σ (1 - σ) and 1 - 2 σ.
template <int order, class Real>
MLIP_INLINE Vector<Real> sigma(const Logistic<Real>& logistic) {
  const Vector<Real> u = logistic.value * logistic.rest, odd = logistic.rest - logistic.value;
  if constexpr (order == 0)
    return logistic.value;
  else if constexpr (order == 1)
    return u;
  else if constexpr (order == 2)
    return u * odd;
  else if constexpr (order == 3)
    return u * (Real(1) - Real(6) * u);
  else if constexpr (order == 4)
    return u * odd * (Real(1) - Real(12) * u);
  else
    return u * (Real(1) - Real(30) * u * (Real(1) - Real(4) * u));
}

template <int order, class Real>
MLIP_INLINE Vector<Real> derivative(Vector<Real> z, const Logistic<Real>& logistic) {
  static_assert(order <= highest_silu);
  if constexpr (order == 0)
    return z * logistic.value;
  else
    return z * sigma<order, Real>(logistic) + Real(order) * sigma<order - 1, Real>(logistic);
}

// body(order as a constant)
template <int orders, class Body>
MLIP_INLINE void with_order(int order, const Body& body) {
  unroll<orders>([&](auto k) {
    if (k == order) body(k);
  });
}

template <class Real>
void value(int order, int64_t count, const Real* z, const Real* factor, Real* out) {
  with_order<highest_silu + 1>(order, [=](auto k) {
    for (int64_t i = 0; i < count; i += width<Real>) {
      const Vector<Real> x = load_part(z + i, count - i);
      Vector<Real> y = derivative<k, Real>(x, Logistic<Real>(x));
      if (factor) y *= load_part(factor + i, count - i);
      store_part(out + i, y, count - i);
    }
  });
}

template <class Real>
void gradients(int order, int64_t count, const Real* grad, const Real* z, const Real* factor, Real* grad_z,
               Real* grad_factor) {
  with_order<highest_silu + 1>(order, [=](auto k) {
    for (int64_t i = 0; i < count; i += width<Real>) {
      const Vector<Real> x = load_part(z + i, count - i), g = load_part(grad + i, count - i);
      const Logistic<Real> logistic(x);
      if (grad_factor) store_part(grad_factor + i, g * derivative<k, Real>(x, logistic), count - i);
      if constexpr (k < highest_silu) {
        if (!grad_z) continue;
        const Vector<Real> by_z = g * derivative<k + 1, Real>(x, logistic);
        store_part(grad_z + i, factor ? by_z * load_part(factor + i, count - i) : by_z, count - i);
      }
    }
  });
}

}  // namespace

extern const SiluTable silu_table = {{value<float>, gradients<float>}, {value<double>, gradients<double>}};

}  // namespace mlip::MLIP_ISA
