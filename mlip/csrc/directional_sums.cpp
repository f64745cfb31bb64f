// Sums over the directions of the edges of a center: torch.ops.mlip.directional_sums and its derivative.
//
//   out[e, c] = Σ_l weights[l, e, c] Σ_m Y[e, lm] density[lm, center(e), c]
#include "kernels/directional_sums.hpp"

#include <algorithm>

#include "geometry_arguments.hpp"
#include "memory.hpp"
#include "message_operator.hpp"

namespace mlip {
namespace {

constexpr int64_t atoms_per_task = 8;
constexpr const char* operation = "directional_sums";

template <class Real>
const DirectionalKernels<Real>& kernels() {
  if constexpr (sizeof(Real) == 4)
    return MLIP_BEST(directional_table).float32;
  else
    return MLIP_BEST(directional_table).float64;
}

struct Arguments {
  explicit Arguments(const StableIValue* stack)
      : weights(stack[0]), harmonics(stack[1]), density(stack[2]), offsets(stack[3]) {}

  void check() {
    expect(is_real(weights) && has_shape(weights, {-1, -1, -1}), operation,
           "weights: expected a contiguous float32 or float64 tensor (degrees, edges, channels) on the CPU");
    degrees = weights.size(0), edges = weights.size(1), channels = weights.size(2);
    const int64_t bytes = weights.dtype() == aoti_torch_dtype_float64() ? 8 : 4;
    expect(degrees > 0 && channels > 0 && channels * bytes % 64 == 0, operation,
           "weights: expected at least one degree and whole multiples of 64 bytes of channels");
    expect(harmonics.dtype() == weights.dtype() && has_shape(harmonics, {edges, degrees * degrees}), operation,
           "harmonics: expected a contiguous tensor (edges, degrees^2) of the type of weights");
    expect(is_integer(offsets) && has_shape(offsets, {-1}) && offsets.size(0) > 0, operation,
           "offsets: expected a contiguous int64 tensor (atoms + 1,)");
    atoms = offsets.size(0) - 1;
    expect(density.dtype() == weights.dtype() && has_shape(density, {degrees * degrees, atoms, channels}), operation,
           "density: expected a contiguous tensor (degrees^2, atoms, channels) of the type of weights");
    check_offsets(offsets.data<int64_t>(), atoms, edges);
  }

  // body(edges of the center, its number, its first edge, scratch of one thread) for all centers, by several threads.
  template <class Real, class Body>
  void for_centers(int64_t scratch_size, const Body& body) const {
    const int64_t* begin = offsets.data<int64_t>();
    const int64_t components = degrees * degrees, size = components * channels;
    abi::parallel_for(0, atoms, atoms_per_task, [&](int64_t first, int64_t last) {
      Buffer<Real> memory;
      Real* own = memory.reset(size + scratch_size);
      for (int64_t i = first; i < last; i++) {
        const int64_t e = begin[i], count = begin[i + 1] - e;
        gather(density.data<Real>(), i, own);
        const DirectedEdges<Real> center{count,          degrees, channels, weights.data<Real>() + e * channels,
                                         edges * channels, harmonics.data<Real>() + e * components, own};
        body(center, i, e, own + size);
      }
    });
  }

  // The components of one atom lie far apart, often at the same place of the caches.
  template <class Real>
  void gather(const Real* from, int64_t atom, Real* to) const {
    for (int64_t k = 0; k < degrees * degrees; k++)
      std::copy_n(from + (k * atoms + atom) * channels, channels, to + k * channels);
  }
  template <class Real>
  void scatter(const Real* from, int64_t atom, Real* to) const {
    for (int64_t k = 0; k < degrees * degrees; k++)
      std::copy_n(from + k * channels, channels, to + (k * atoms + atom) * channels);
  }

  abi::Tensor weights, harmonics, density, offsets;
  int64_t degrees = 0, edges = 0, channels = 0, atoms = 0;
};

void directional_sums(StableIValue* stack, uint64_t, uint64_t) {
  Arguments given(stack);
  given.check();
  for_real(given.weights, [&](auto zero) {
    using Real = decltype(zero);
    auto out = new_output(given.weights, {given.edges, given.channels});
    Real* to = out.template data<Real>();
    given.template for_centers<Real>(0, [&](const DirectedEdges<Real>& center, int64_t, int64_t first, Real*) {
      kernels<Real>().forward(center, to + first * given.channels);
    });
    stack[0] = out.release();
  });
}

// directional_sums_backward(grad, ..., which are needed) -> gradients, empty where not needed
void directional_sums_backward(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor grad(stack[0]);
  Arguments given(stack + 1);
  const bool by_weights = abi::from_stack<bool>(stack[5]), by_harmonics = abi::from_stack<bool>(stack[6]),
             by_density = abi::from_stack<bool>(stack[7]);
  given.check();
  const int64_t degrees = given.degrees, edges = given.edges, channels = given.channels;
  expect(grad.dtype() == given.weights.dtype() && has_shape(grad, {edges, channels}), operation,
         "grad: expected a contiguous tensor (edges, channels) of the type of weights");
  for_real(given.weights, [&](auto zero) {
    using Real = decltype(zero);
    const auto make = [&](bool needed, std::initializer_list<int64_t> shape) {
      return needed ? new_output(given.weights, shape) : new_output(given.weights, {0});
    };
    auto weights = make(by_weights, {degrees, edges, channels});
    auto harmonics = make(by_harmonics, {edges, degrees * degrees});
    auto density = make(by_density, {degrees * degrees, given.atoms, channels});
    Real *to_weights = weights.template data<Real>(), *to_harmonics = harmonics.template data<Real>(),
         *to_density = density.template data<Real>();
    const auto& kernel = kernels<Real>();
    const int64_t size = degrees * degrees * channels, scratch = kernel.scratch(degrees, channels);
    given.template for_centers<Real>(
        size + scratch, [&](const DirectedEdges<Real>& center, int64_t i, int64_t first, Real* own) {
          if (by_density) std::fill_n(own, size, Real(0));
          kernel.backward(center, grad.data<Real>() + first * channels, own + size,
                          {by_weights ? to_weights + first * channels : nullptr,
                           by_harmonics ? to_harmonics + first * degrees * degrees : nullptr,
                           by_density ? own : nullptr});
          if (by_density) given.scatter(own, i, to_density);
        });
    stack[0] = weights.release();
    stack[1] = harmonics.release();
    stack[2] = density.release();
  });
}

#define MLIP_DIRECTIONAL_ARGUMENTS "Tensor weights, Tensor harmonics, Tensor density, Tensor offsets"

const auto definition =
    abi::Library("mlip")
        .def("directional_sums(" MLIP_DIRECTIONAL_ARGUMENTS ") -> Tensor")
        .def("directional_sums_backward(Tensor grad, " MLIP_DIRECTIONAL_ARGUMENTS
             ", bool need_weights, bool need_harmonics, bool need_density) -> "
             "(Tensor grad_weights, Tensor grad_harmonics, Tensor grad_density)");
const auto cpu = abi::Library("mlip", "CPU")
                     .impl("directional_sums", directional_sums)
                     .impl("directional_sums_backward", directional_sums_backward);

}  // namespace
}  // namespace mlip
