// Real spherical harmonics in e3nn's order and signs, normalised to sum_m Y_lm^2 = 2l + 1, for processors and CUDA.
//
// With y as the polar axis: Y_{l,m} = K_lm Q_lm(y) Re (z + ix)^m and Y_{l,-m} the same with Im, where Q_lm is the m-th
// derivative of the Legendre polynomial P_l, so that dQ_lm/dy = Q_{l,m+1}. The gradient of this extension to all of
// space is projected onto the sphere.
#pragma once
#include "inline.hpp"

namespace mlip::MLIP_ISA {

// Newton's method: std::sqrt is no constant expression.
constexpr double square_root(double x) {
  double root = x > 1 ? x : 1;
  for (int k = 0; k < 60; k++) root = 0.5 * (root + x / root);
  return root;
}

// K_lm = sqrt((2 - [m = 0]) (2l + 1) (l - m)! / (l + m)!)
constexpr double prefactor(int l, int m) {
  double square = (m ? 2.0 : 1.0) * (2 * l + 1);
  for (int k = l - m + 1; k <= l + m; k++) square /= k;
  return square_root(square);
}

// The parts of the harmonics of a unit vector; X is a vector or dual numbers.
template <class Real, int L, class X>
struct Parts {
  X legendre[L + 1][L + 2];  // Q_lm; Q_{l,l+1} = 0
  X cosine[L + 1], sine[L + 1];

  MLIP_INLINE Parts(const X& x, const X& y, const X& z, const X& one) {
    unroll<L + 1>([&](auto m_) __attribute__((always_inline)) {
      constexpr int m = m_;
      if constexpr (m == 0) {
        cosine[0] = one;
        sine[0] = X{};
        legendre[0][0] = one;
      } else {
        cosine[m] = m == 1 ? z : z * cosine[m - 1] - x * sine[m - 1];
        sine[m] = m == 1 ? x : z * sine[m - 1] + x * cosine[m - 1];
        legendre[m][m] = Real(2 * m - 1) * legendre[m - 1][m - 1];
      }
      legendre[m][m + 1] = X{};
      unroll<L - m>([&](auto k_) __attribute__((always_inline)) {
        constexpr int l = m + 1 + k_;
        const X first = Real((2 * l - 1.0) / (l - m)) * (y * legendre[l - 1][m]);
        if constexpr (l == m + 1)
          legendre[l][m] = first;
        else
          legendre[l][m] = first - Real((l + m - 1.0) / (l - m)) * legendre[l - 2][m];
      });
    });
  }

  MLIP_INLINE void harmonics(X* out) const {
    unroll<L + 1>([&](auto l_) __attribute__((always_inline)) {
      constexpr int l = l_;
      constexpr Real k_0 = static_cast<Real>(prefactor(l, 0));
      out[l * l + l] = k_0 * legendre[l][0];
      unroll<l>([&](auto k_) __attribute__((always_inline)) {
        constexpr int m = k_ + 1;
        constexpr Real k_m = static_cast<Real>(prefactor(l, m));
        const X q = k_m * legendre[l][m];
        out[l * l + l + m] = q * cosine[m];
        out[l * l + l - m] = q * sine[m];
      });
    });
  }

  // Gradient of sum_lm grad_lm Y_lm in space.
  MLIP_INLINE void gradient(const X* grad, X& gx, X& gy, X& gz) const {
    gx = gy = gz = X{};
    unroll<L>([&](auto k_) __attribute__((always_inline)) {
      constexpr int l = k_ + 1;
      constexpr Real k_0 = static_cast<Real>(prefactor(l, 0));
      gy += k_0 * (grad[l * l + l] * legendre[l][1]);
      unroll<l>([&](auto j_) __attribute__((always_inline)) {
        constexpr int m = j_ + 1;
        constexpr Real k_m = static_cast<Real>(prefactor(l, m));
        const X c = k_m * grad[l * l + l + m], s = k_m * grad[l * l + l - m];
        const X q = Real(m) * legendre[l][m];
        if constexpr (m < l) gy += legendre[l][m + 1] * (c * cosine[m] + s * sine[m]);
        gz += q * (c * cosine[m - 1] + s * sine[m - 1]);
        gx += q * (s * cosine[m - 1] - c * sine[m - 1]);
      });
    });
  }
};

// Gradient of sum_lm grad_lm Y_lm(r / |r|) + grad_length |r|.
template <class Real, int L, class X>
MLIP_INLINE void vector_gradient(const X* grad, const X& grad_length, const X* unit, const X& scale, const X& one,
                                 X* out) {
  X g[3];
  Parts<Real, L, X>(unit[0], unit[1], unit[2], one).gradient(grad, g[0], g[1], g[2]);
  const X radial = grad_length - scale * (unit[0] * g[0] + unit[1] * g[1] + unit[2] * g[2]);
  for (int d = 0; d < 3; d++) out[d] = scale * g[d] + radial * unit[d];
}

}  // namespace mlip::MLIP_ISA
