// Spherical harmonics, vectorised over vectors.
#include "harmonics.hpp"

#include <cmath>

#include "dual.hpp"
#include "harmonics_parts.hpp"
#include "vector.hpp"

namespace mlip::MLIP_ISA {
namespace {

template <class Real>
MLIP_INLINE Vector<Real> square_root(Vector<Real> x) {
  for (int k = 0; k < width<Real>; k++) x[k] = std::sqrt(x[k]);
  return x;
}

// One over the length; zero for a vector of length zero, whose direction, and all that depends on it, is then zero.
template <class Real>
MLIP_INLINE Vector<Real> inverse(Vector<Real> length) {
  const Vector<Real> one = Vector<Real>{} + Real(1);
  return length > 0 ? one / length : Vector<Real>{};
}

// `size` numbers of each of up to `width` rows, a vector per number; what is not there is zero.
template <class Real, int size>
MLIP_INLINE void load_rows(const Real* from, int rows, Vector<Real>* to) {
  alignas(64) Real columns[size][width<Real>] = {};
  for (int k = 0; k < rows; k++)
    for (int d = 0; d < size; d++) columns[d][k] = from[k * size + d];
  for (int d = 0; d < size; d++) to[d] = load(columns[d]);
}
template <class Real, int size>
MLIP_INLINE void store_rows(Real* to, int rows, const Vector<Real>* from) {
  alignas(64) Real columns[size][width<Real>];
  for (int d = 0; d < size; d++) store(columns[d], from[d]);
  for (int k = 0; k < rows; k++)
    for (int d = 0; d < size; d++) to[k * size + d] = columns[d][k];
}

template <class Real>
MLIP_INLINE int rows_from(int64_t first, int64_t count) {
  return static_cast<int>(count - first < width<Real> ? count - first : width<Real>);
}

template <class Real, int L>
void forward(int64_t count, const Real* vectors, Real* harmonics, Real* lengths) {
  constexpr int size = (L + 1) * (L + 1);
  for (int64_t e = 0; e < count; e += width<Real>) {
    const int rows = rows_from<Real>(e, count);
    Vector<Real> r[3], out[size];
    load_rows<Real, 3>(vectors + 3 * e, rows, r);
    const Vector<Real> length = square_root<Real>(r[0] * r[0] + r[1] * r[1] + r[2] * r[2]);
    const Vector<Real> scale = inverse<Real>(length), one = Vector<Real>{} + Real(1);
    Parts<Real, L, Vector<Real>>(r[0] * scale, r[1] * scale, r[2] * scale, one).harmonics(out);
    // The polynomials of degree 2, 4, ... do not vanish for the zero vector by themselves.
    for (int m = 1; m < size; m++) out[m] = length > 0 ? out[m] : Vector<Real>{};
    store_rows<Real, size>(harmonics + size * e, rows, out);
    store_rows<Real, 1>(lengths + e, rows, &length);
  }
}

template <class Real, int L>
void backward(int64_t count, const Real* grad_harmonics, const Real* grad_lengths, const Real* vectors,
              Real* grad_vectors) {
  constexpr int size = (L + 1) * (L + 1);
  for (int64_t e = 0; e < count; e += width<Real>) {
    const int rows = rows_from<Real>(e, count);
    Vector<Real> r[3], grad[size], grad_length, out[3];
    load_rows<Real, 3>(vectors + 3 * e, rows, r);
    load_rows<Real, size>(grad_harmonics + size * e, rows, grad);
    load_rows<Real, 1>(grad_lengths + e, rows, &grad_length);
    const Vector<Real> scale = inverse<Real>(square_root<Real>(r[0] * r[0] + r[1] * r[1] + r[2] * r[2]));
    for (auto& x : r) x *= scale;
    vector_gradient<Real, L>(grad, grad_length, r, scale, Vector<Real>{} + Real(1), out);
    store_rows<Real, 3>(grad_vectors + 3 * e, rows, out);
  }
}

template <class Real, int L>
void second(int64_t count, const Real* tangent, const Real* grad_harmonics, const Real* grad_lengths,
            const Real* vectors, Real* harmonics, Real* lengths, Real* grad_vectors) {
  using X = Dual<Vector<Real>>;
  constexpr int size = (L + 1) * (L + 1);
  for (int64_t e = 0; e < count; e += width<Real>) {
    const int rows = rows_from<Real>(e, count);
    Vector<Real> r[3], t[3], grad[size], grad_length, tangents[size], out_tangents[3];
    load_rows<Real, 3>(vectors + 3 * e, rows, r);
    load_rows<Real, 3>(tangent + 3 * e, rows, t);
    load_rows<Real, size>(grad_harmonics + size * e, rows, grad);
    load_rows<Real, 1>(grad_lengths + e, rows, &grad_length);
    const Vector<Real> scale = inverse<Real>(square_root<Real>(r[0] * r[0] + r[1] * r[1] + r[2] * r[2]));
    for (auto& x : r) x *= scale;
    const Vector<Real> length_tangent = r[0] * t[0] + r[1] * t[1] + r[2] * t[2];
    X unit[3], gradient[size], y[size], out[3];
    for (int d = 0; d < 3; d++) unit[d] = {r[d], scale * (t[d] - length_tangent * r[d])};
    for (int m = 0; m < size; m++) gradient[m] = X{grad[m], {}};
    const X one{Vector<Real>{} + Real(1), {}};
    Parts<Real, L, X>(unit[0], unit[1], unit[2], one).harmonics(y);
    vector_gradient<Real, L, X>(gradient, X{grad_length, {}}, unit, X{scale, -(scale * scale) * length_tangent}, one,
                                out);
    for (int m = 0; m < size; m++) tangents[m] = y[m].tangent;
    for (int d = 0; d < 3; d++) out_tangents[d] = out[d].tangent;
    store_rows<Real, size>(harmonics + size * e, rows, tangents);
    store_rows<Real, 1>(lengths + e, rows, &length_tangent);
    store_rows<Real, 3>(grad_vectors + 3 * e, rows, out_tangents);
  }
}

// body(l_max as a constant)
template <class Body>
MLIP_INLINE void with_degree(int l_max, const Body& body) {
  unroll<largest_harmonic + 1>([&](auto l) {
    if (l == l_max) body(l);
  });
}

template <class Real>
constexpr HarmonicsOf<Real> functions() {
  return {[](int l_max, int64_t count, const Real* vectors, Real* harmonics, Real* lengths) {
            with_degree(l_max, [&](auto l) { forward<Real, l>(count, vectors, harmonics, lengths); });
          },
          [](int l_max, int64_t count, const Real* grad_harmonics, const Real* grad_lengths, const Real* vectors,
             Real* grad_vectors) {
            with_degree(l_max,
                        [&](auto l) { backward<Real, l>(count, grad_harmonics, grad_lengths, vectors, grad_vectors); });
          },
          [](int l_max, int64_t count, const Real* tangent, const Real* grad_harmonics, const Real* grad_lengths,
             const Real* vectors, Real* harmonics, Real* lengths, Real* grad_vectors) {
            with_degree(l_max, [&](auto l) {
              second<Real, l>(count, tangent, grad_harmonics, grad_lengths, vectors, harmonics, lengths, grad_vectors);
            });
          }};
}

}  // namespace

extern const HarmonicsTable harmonics_table = {functions<float>(), functions<double>()};

}  // namespace mlip::MLIP_ISA
