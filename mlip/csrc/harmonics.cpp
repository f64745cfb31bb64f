// The operator `mlip::spherical_harmonics` on the CPU, with first and second derivatives.
#include <algorithm>

#include "geometry_arguments.hpp"
#include "kernels/harmonics.hpp"

namespace mlip {
namespace {

constexpr int64_t edges_per_task = 512;  // a multiple of every vector's width

template <class Real>
const HarmonicsOf<Real>& functions() {
  if constexpr (sizeof(Real) == 4)
    return MLIP_BEST(harmonics_table).float32;
  else
    return MLIP_BEST(harmonics_table).float64;
}

int checked_degree(const char* operation, StableIValue value) {
  const auto l_max = abi::from_stack<int64_t>(value);
  expect(0 <= l_max && l_max <= largest_harmonic, operation, "l_max: expected 0 to 6");
  return static_cast<int>(l_max);
}

void check_vectors(const char* operation, const abi::Tensor& vectors) {
  expect(has_shape(vectors, {-1, 3}) && is_real(vectors), operation,
         "vectors: expected a contiguous float32 or float64 tensor of shape (E, 3) on the CPU");
}

void check_gradients(const char* operation, const abi::Tensor& harmonics, const abi::Tensor& length,
                     const abi::Tensor& vectors, int l_max) {
  const int64_t count = vectors.size(0), size = (l_max + 1) * (l_max + 1);
  expect(has_shape(harmonics, {count, size}) && harmonics.dtype() == vectors.dtype(), operation,
         "grad_harmonics: expected a contiguous tensor of shape (E, (l_max + 1)^2) and the type of the vectors");
  expect(has_shape(length, {count}) && length.dtype() == vectors.dtype(), operation,
         "grad_length: expected a contiguous tensor of shape (E,) and the type of the vectors");
}

void spherical_harmonics(StableIValue* stack, uint64_t, uint64_t) {
  constexpr const char* name = "spherical_harmonics";
  const abi::Tensor vectors(stack[0]);
  const int l_max = checked_degree(name, stack[1]);
  check_vectors(name, vectors);
  const int64_t count = vectors.size(0), size = (l_max + 1) * (l_max + 1);
  auto harmonics = new_output(vectors, {count, size});
  auto length = new_output(vectors, {count});
  for_real(vectors, [&](auto zero) {
    using Real = decltype(zero);
    const Real* r = vectors.data<Real>();
    Real *y = harmonics.data<Real>(), *norm = length.data<Real>();
    abi::parallel_for(0, (count + edges_per_task - 1) / edges_per_task, 1, [&](int64_t first, int64_t last) {
      const int64_t e = first * edges_per_task, n = std::min(last * edges_per_task, count) - e;
      functions<Real>().forward(l_max, n, r + 3 * e, y + size * e, norm + e);
    });
  });
  stack[0] = harmonics.release();
  stack[1] = length.release();
}

void spherical_harmonics_backward(StableIValue* stack, uint64_t, uint64_t) {
  constexpr const char* name = "spherical_harmonics_backward";
  const abi::Tensor grad_harmonics(stack[0]), grad_length(stack[1]), vectors(stack[2]);
  const int l_max = checked_degree(name, stack[3]);
  check_vectors(name, vectors);
  check_gradients(name, grad_harmonics, grad_length, vectors, l_max);
  const int64_t count = vectors.size(0), size = (l_max + 1) * (l_max + 1);
  auto grad = new_output(vectors, {count, 3});
  for_real(vectors, [&](auto zero) {
    using Real = decltype(zero);
    const Real *r = vectors.data<Real>(), *gy = grad_harmonics.data<Real>(), *gn = grad_length.data<Real>();
    Real* out = grad.data<Real>();
    abi::parallel_for(0, (count + edges_per_task - 1) / edges_per_task, 1, [&](int64_t first, int64_t last) {
      const int64_t e = first * edges_per_task, n = std::min(last * edges_per_task, count) - e;
      functions<Real>().backward(l_max, n, gy + size * e, gn + e, r + 3 * e, out + 3 * e);
    });
  });
  stack[0] = grad.release();
}

void spherical_harmonics_second(StableIValue* stack, uint64_t, uint64_t) {
  constexpr const char* name = "spherical_harmonics_second";
  const abi::Tensor tangent(stack[0]), grad_harmonics(stack[1]), grad_length(stack[2]), vectors(stack[3]);
  const int l_max = checked_degree(name, stack[4]);
  check_vectors(name, vectors);
  check_gradients(name, grad_harmonics, grad_length, vectors, l_max);
  const int64_t count = vectors.size(0), size = (l_max + 1) * (l_max + 1);
  expect(has_shape(tangent, {count, 3}) && tangent.dtype() == vectors.dtype(), name,
         "tangent: expected a contiguous tensor of the shape and type of the vectors");
  auto harmonics = new_output(vectors, {count, size});
  auto length = new_output(vectors, {count});
  auto grad = new_output(vectors, {count, 3});
  for_real(vectors, [&](auto zero) {
    using Real = decltype(zero);
    const Real *r = vectors.data<Real>(), *t = tangent.data<Real>();
    const Real *gy = grad_harmonics.data<Real>(), *gn = grad_length.data<Real>();
    Real *y = harmonics.data<Real>(), *norm = length.data<Real>(), *out = grad.data<Real>();
    abi::parallel_for(0, (count + edges_per_task - 1) / edges_per_task, 1, [&](int64_t first, int64_t last) {
      const int64_t e = first * edges_per_task, n = std::min(last * edges_per_task, count) - e;
      functions<Real>().second(l_max, n, t + 3 * e, gy + size * e, gn + e, r + 3 * e, y + size * e, norm + e,
                               out + 3 * e);
    });
  });
  stack[0] = harmonics.release();
  stack[1] = length.release();
  stack[2] = grad.release();
}

const auto definition =
    abi::Library("mlip")
        .def("spherical_harmonics(Tensor vectors, int l_max) -> (Tensor harmonics, Tensor length)")
        .def("spherical_harmonics_backward(Tensor grad_harmonics, Tensor grad_length, Tensor vectors, int l_max) -> "
             "Tensor")
        .def("spherical_harmonics_second(Tensor tangent, Tensor grad_harmonics, Tensor grad_length, Tensor vectors, "
             "int l_max) -> (Tensor harmonics, Tensor length, Tensor grad_vectors)");
const auto cpu = abi::Library("mlip", "CPU")
                     .impl("spherical_harmonics", spherical_harmonics)
                     .impl("spherical_harmonics_backward", spherical_harmonics_backward)
                     .impl("spherical_harmonics_second", spherical_harmonics_second);

}  // namespace
}  // namespace mlip
