// Dual numbers, a + b ε with ε² = 0: code written for numbers gives directional derivatives when run with them.
#pragma once
#include "inline.hpp"

namespace mlip::MLIP_ISA {

template <class T>
struct Dual {
  T value, tangent;
};

template <class T>
MLIP_INLINE Dual<T> operator+(const Dual<T>& a, const Dual<T>& b) {
  return {a.value + b.value, a.tangent + b.tangent};
}
template <class T>
MLIP_INLINE Dual<T> operator-(const Dual<T>& a, const Dual<T>& b) {
  return {a.value - b.value, a.tangent - b.tangent};
}
template <class T>
MLIP_INLINE Dual<T> operator*(const Dual<T>& a, const Dual<T>& b) {
  return {a.value * b.value, a.value * b.tangent + a.tangent * b.value};
}
template <class T, class Scalar, class = std::enable_if_t<std::is_arithmetic_v<Scalar>>>
MLIP_INLINE Dual<T> operator*(Scalar s, const Dual<T>& a) {
  return {s * a.value, s * a.tangent};
}
template <class T>
MLIP_INLINE Dual<T>& operator+=(Dual<T>& a, const Dual<T>& b) {
  a.value += b.value;
  a.tangent += b.tangent;
  return a;
}

}  // namespace mlip::MLIP_ISA
