// Spherical harmonics on CUDA, with first and second derivatives: a thread per vector.
//
// Compiled for two degrees only, to keep the library small; those of a lower degree are the first ones of a higher.
#include "cuda.hpp"
#include "device.cuh"
#include "kernels/dual.hpp"
#include "kernels/harmonics_parts.hpp"

namespace mlip::cuda {
namespace {

constexpr int threads = 128;
constexpr int usual_degree = 3, largest_degree = 6;

// A vector as length and direction; a vector of length zero has no direction, and all that depends on it is zero.
template <class Real>
struct Direction {
  Real length, scale, unit[3];  // scale: one over the length

  explicit MLIP_INLINE Direction(const Real* r) {
    length = sqrt(r[0] * r[0] + r[1] * r[1] + r[2] * r[2]);
    scale = length > 0 ? 1 / length : length - length;  // NaN where the length is
    for (int d = 0; d < 3; d++) unit[d] = r[d] * scale;
  }
};

// The first `size` of the numbers of an edge; the others are zero.
template <int all, class Real>
MLIP_INLINE void load_row(const Real* from, int size, Real* to) {
  unroll<all>([&](auto m) { to[m] = m < size ? from[m] : Real(0); });
}

template <class Real, int L>
__global__ void forward(int64_t count, int size, const Real* vectors, Real* harmonics, Real* lengths) {
  constexpr int all = (L + 1) * (L + 1);
  const int64_t e = thread_number();
  if (e >= count) return;
  const Direction<Real> r(vectors + 3 * e);
  Real y[all];
  Parts<Real, L, Real>(r.unit[0], r.unit[1], r.unit[2], Real(1)).harmonics(y);
  // The polynomials of degree 2, 4, ... do not vanish for the zero vector by themselves.
  unroll<all>([&](auto m) {
    if (m < size) harmonics[e * size + m] = m == 0 || r.length > 0 ? y[m] : Real(0);
  });
  lengths[e] = r.length;
}

template <class Real, int L>
__global__ void backward(int64_t count, int size, const Real* grad_harmonics, const Real* grad_lengths,
                         const Real* vectors, Real* grad_vectors) {
  constexpr int all = (L + 1) * (L + 1);
  const int64_t e = thread_number();
  if (e >= count) return;
  const Direction<Real> r(vectors + 3 * e);
  Real grad[all], out[3];
  load_row<all>(grad_harmonics + e * size, size, grad);
  vector_gradient<Real, L, Real>(grad, grad_lengths[e], r.unit, r.scale, Real(1), out);
  for (int d = 0; d < 3; d++) grad_vectors[3 * e + d] = out[d];
}

template <class Real, int L>
__global__ void second(int64_t count, int size, const Real* tangents, const Real* grad_harmonics,
                       const Real* grad_lengths, const Real* vectors, Real* harmonics, Real* lengths,
                       Real* grad_vectors) {
  using X = Dual<Real>;
  constexpr int all = (L + 1) * (L + 1);
  const int64_t e = thread_number();
  if (e >= count) return;
  const Direction<Real> r(vectors + 3 * e);
  const Real* t = tangents + 3 * e;
  const Real length_tangent = r.unit[0] * t[0] + r.unit[1] * t[1] + r.unit[2] * t[2];
  X unit[3], gradient[all], y[all], out[3];
  for (int d = 0; d < 3; d++) unit[d] = {r.unit[d], r.scale * (t[d] - length_tangent * r.unit[d])};
  unroll<all>([&](auto m) { gradient[m] = {m < size ? grad_harmonics[e * size + m] : Real(0), Real(0)}; });
  const X one{Real(1), Real(0)};
  Parts<Real, L, X>(unit[0], unit[1], unit[2], one).harmonics(y);
  vector_gradient<Real, L, X>(gradient, X{grad_lengths[e], Real(0)}, unit,
                              X{r.scale, -(r.scale * r.scale) * length_tangent}, one, out);
  unroll<all>([&](auto m) {
    if (m < size) harmonics[e * size + m] = y[m].tangent;
  });
  lengths[e] = length_tangent;
  for (int d = 0; d < 3; d++) grad_vectors[3 * e + d] = out[d].tangent;
}

// Calls body(real, degree as a constant).
template <class Body>
void with_degree(const abi::Tensor& vectors, int l_max, const Body& body) {
  for_real(vectors, [&](auto real) {
    if (l_max <= usual_degree)
      body(real, std::integral_constant<int, usual_degree>{});
    else
      body(real, std::integral_constant<int, largest_degree>{});
  });
}

struct Arguments {
  const Checks checks;
  const abi::Tensor& vectors;
  int l_max, size;
  int64_t count = 0;

  Arguments(const char* name, const abi::Tensor& vectors_, int64_t degree)
      : checks(name, vectors_), vectors(vectors_), l_max(static_cast<int>(degree)), size((l_max + 1) * (l_max + 1)) {
    checks.expect(0 <= degree && degree <= largest_degree, "l_max: expected 0 to 6");
    checks.real(vectors, "vectors: expected float32 or float64");
    checks.tensor(vectors, vectors.dtype(), {-1, 3}, "vectors: expected a contiguous tensor of shape (E, 3)");
    count = vectors.size(0);
  }
  void check_gradients(const abi::Tensor& harmonics, const abi::Tensor& length) const {
    checks.tensor(harmonics, vectors.dtype(), {count, size},
                  "grad_harmonics: expected a contiguous tensor (E, (l_max + 1)^2) of the type of the vectors");
    checks.tensor(length, vectors.dtype(), {count},
                  "grad_length: expected a contiguous tensor (E,) of the type of the vectors");
  }
  abi::Tensor like_harmonics() const { return vectors.new_empty({count, size}, vectors.dtype()); }
  abi::Tensor like_lengths() const { return vectors.new_empty({count}, vectors.dtype()); }
  abi::Tensor like_vectors() const { return vectors.new_empty({count, 3}, vectors.dtype()); }
};

void spherical_harmonics(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor vectors(stack[0]);
  const Arguments args("spherical_harmonics", vectors, abi::from_stack<int64_t>(stack[1]));
  const Device device(vectors);
  auto harmonics = args.like_harmonics(), length = args.like_lengths();
  with_degree(vectors, args.l_max, [&](auto real, auto degree) {
    using Real = decltype(real);
    launch(forward<Real, degree()>, blocks_for(args.count, threads), threads, stream(vectors), args.count, args.size,
           vectors.data<Real>(), harmonics.template data<Real>(), length.template data<Real>());
  });
  stack[0] = harmonics.release();
  stack[1] = length.release();
}

void spherical_harmonics_backward(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor grad_harmonics(stack[0]), grad_length(stack[1]), vectors(stack[2]);
  const Arguments args("spherical_harmonics_backward", vectors, abi::from_stack<int64_t>(stack[3]));
  args.check_gradients(grad_harmonics, grad_length);
  const Device device(vectors);
  auto grad = args.like_vectors();
  with_degree(vectors, args.l_max, [&](auto real, auto degree) {
    using Real = decltype(real);
    launch(backward<Real, degree()>, blocks_for(args.count, threads), threads, stream(vectors), args.count, args.size,
           grad_harmonics.data<Real>(), grad_length.data<Real>(), vectors.data<Real>(), grad.template data<Real>());
  });
  stack[0] = grad.release();
}

void spherical_harmonics_second(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor tangent(stack[0]), grad_harmonics(stack[1]), grad_length(stack[2]), vectors(stack[3]);
  const Arguments args("spherical_harmonics_second", vectors, abi::from_stack<int64_t>(stack[4]));
  args.check_gradients(grad_harmonics, grad_length);
  args.checks.tensor(tangent, vectors.dtype(), {args.count, 3},
                     "tangent: expected a contiguous tensor of the shape and type of the vectors");
  const Device device(vectors);
  auto harmonics = args.like_harmonics(), length = args.like_lengths(), grad = args.like_vectors();
  with_degree(vectors, args.l_max, [&](auto real, auto degree) {
    using Real = decltype(real);
    launch(second<Real, degree()>, blocks_for(args.count, threads), threads, stream(vectors), args.count, args.size,
           tangent.data<Real>(), grad_harmonics.data<Real>(), grad_length.data<Real>(), vectors.data<Real>(),
           harmonics.template data<Real>(), length.template data<Real>(), grad.template data<Real>());
  });
  stack[0] = harmonics.release();
  stack[1] = length.release();
  stack[2] = grad.release();
}

const auto operators = abi::Library("mlip", "CUDA")
                           .impl("spherical_harmonics", spherical_harmonics)
                           .impl("spherical_harmonics_backward", spherical_harmonics_backward)
                           .impl("spherical_harmonics_second", spherical_harmonics_second);

}  // namespace
}  // namespace mlip::cuda
