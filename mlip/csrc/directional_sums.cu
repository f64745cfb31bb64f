// The operator `mlip::directional_sums` on CUDA, and its derivative (directional_sums.cpp says what it is).
#include "offsets.cuh"

namespace mlip::cuda {
namespace {

constexpr int threads = 64;
constexpr int components_at_once = 16;

// weights (degrees, edges, channels), harmonics (edges, degrees²), density (degrees², atoms, channels)
template <class Real>
struct Directed {
  int64_t atoms, edges, degrees, channels;
  const Real *weights, *harmonics, *density;
  const int64_t* offsets;
  const int32_t* wrong;

  MLIP_INLINE int64_t components() const { return degrees * degrees; }
  MLIP_INLINE int64_t weight(int64_t l, int64_t e, int64_t c) const { return (l * edges + e) * channels + c; }
  MLIP_INLINE int64_t component(int64_t m, int64_t atom, int64_t c) const { return (m * atoms + atom) * channels + c; }
  // Σ_m Y[e, lm] density[lm] of one degree
  MLIP_INLINE Real along(int64_t l, int64_t e, int64_t atom, int64_t c) const {
    const Real* y = harmonics + e * components();
    Real sum = 0;
    for (int64_t m = l * l; m < (l + 1) * (l + 1); m++) sum += y[m] * density[component(m, atom, c)];
    return sum;
  }
};

// Block (x, y): center x, channels from y * threads on, a thread for each; without `grad` the sums, with it the
// derivatives of the weights.
template <class Real>
__global__ void along_edges(Directed<Real> in, const Real* grad, Real* out) {
  const int64_t atom = blockIdx.x, c = static_cast<int64_t>(blockIdx.y) * threads + threadIdx.x;
  if (c >= in.channels || *in.wrong) return;
  for (int64_t e = in.offsets[atom]; e < in.offsets[atom + 1]; e++) {
    Real sum = 0;
    for (int64_t l = 0; l < in.degrees; l++) {
      const Real of_degree = in.along(l, e, atom, c);
      if (grad)
        out[in.weight(l, e, c)] = grad[e * in.channels + c] * of_degree;
      else
        sum += in.weights[in.weight(l, e, c)] * of_degree;
    }
    if (!grad) out[e * in.channels + c] = sum;
  }
}

// As along_edges: the derivative of the density, components_at_once in registers.
template <class Real>
__global__ void sum_density(Directed<Real> in, const Real* grad, Real* out) {
  const int64_t atom = blockIdx.x, c = static_cast<int64_t>(blockIdx.y) * threads + threadIdx.x;
  if (c >= in.channels) return;
  const bool wrong = *in.wrong;
  const int64_t begin = wrong ? 0 : in.offsets[atom], end = wrong ? 0 : in.offsets[atom + 1];
  for (int64_t l = 0; l < in.degrees; l++)
    for (int64_t first = l * l; first < (l + 1) * (l + 1); first += components_at_once) {
      const int64_t rest = (l + 1) * (l + 1) - first;
      Real sums[components_at_once];
      unroll<components_at_once>([&](auto k) { sums[k] = wrong ? not_a_number<Real>() : Real(0); });
      for (int64_t e = begin; e < end; e++) {
        const Real weighted = in.weights[in.weight(l, e, c)] * grad[e * in.channels + c];
        const Real* y = in.harmonics + e * in.components() + first;
        unroll<components_at_once>([&](auto k) {
          if (k < rest) sums[k] += y[k] * weighted;
        });
      }
      unroll<components_at_once>([&](auto k) {
        if (k < rest) out[in.component(first + k, atom, c)] = sums[k];
      });
    }
}

// A block per center, a warp per edge: the derivative of the harmonics.
template <class Real>
__global__ void sum_channels(Directed<Real> in, const Real* grad, Real* out) {
  constexpr int warps = threads / warp, lanes_each = warp / components_at_once;
  const int lane = static_cast<int>(threadIdx.x) % warp;
  const int64_t atom = blockIdx.x;
  if (*in.wrong) return;
  for (int64_t e = in.offsets[atom] + threadIdx.x / warp; e < in.offsets[atom + 1]; e += warps)
    for (int64_t l = 0; l < in.degrees; l++)
      for (int64_t first = l * l; first < (l + 1) * (l + 1); first += components_at_once) {
        const int64_t rest = (l + 1) * (l + 1) - first;
        Real sums[components_at_once] = {};
        for (int64_t c = lane; c < in.channels; c += warp) {
          const Real weighted = in.weights[in.weight(l, e, c)] * grad[e * in.channels + c];
          unroll<components_at_once>([&](auto k) {
            if (k < rest) sums[k] += in.density[in.component(first + k, atom, c)] * weighted;
          });
        }
        const Real sum = lane_sums<components_at_once, warp / 2>(sums, lane);
        const int k = lane / lanes_each;
        if (lane % lanes_each == 0 && k < rest) out[e * in.components() + first + k] = sum;
      }
}

struct Arguments {
  Arguments(const char* name, const StableIValue* stack)
      : weights(stack[0]), harmonics(stack[1]), density(stack[2]), offsets(stack[3]), checks(name, weights) {
    const int32_t dtype = weights.dtype();
    checks.real(weights, "weights: expected float32 or float64");
    checks.tensor(weights, dtype, {-1, -1, -1}, "weights: expected a contiguous tensor (degrees, edges, channels)");
    degrees = weights.size(0), edges = weights.size(1), channels = weights.size(2);
    checks.expect(degrees > 0 && channels > 0, "weights: expected at least one degree and one channel");
    checks.tensor(harmonics, dtype, {edges, degrees * degrees},
                  "harmonics: expected a contiguous tensor (edges, degrees^2) of the type of weights");
    checks.integers(offsets, {-1}, "offsets: expected a contiguous int64 tensor (atoms + 1,)");
    checks.expect(offsets.size(0) > 0, "offsets: expected a contiguous int64 tensor (atoms + 1,)");
    atoms = offsets.size(0) - 1;
    checks.tensor(density, dtype, {degrees * degrees, atoms, channels},
                  "density: expected a contiguous tensor (degrees^2, atoms, channels) of the type of weights");
  }
  template <class Real>
  Directed<Real> input(const Buffer<int32_t>& wrong) const {
    return {atoms, edges, degrees, channels, weights.data<Real>(), harmonics.data<Real>(), density.data<Real>(),
            offsets.data<int64_t>(), wrong.data()};
  }

  abi::Tensor weights, harmonics, density, offsets;
  int64_t degrees = 0, edges = 0, channels = 0, atoms = 0;
  Checks checks;
};

void directional_sums(StableIValue* stack, uint64_t, uint64_t) {
  const Arguments given("directional_sums", stack);
  const Device device(given.weights);
  const cudaStream_t on = stream(given.weights);
  const auto wrong = checked_offsets(given.offsets, given.atoms, given.edges, on);
  auto out = given.weights.new_empty({given.edges, given.channels}, given.weights.dtype());
  for_real(given.weights, [&](auto zero) {
    using Real = decltype(zero);
    Real* to = out.template data<Real>();
    launch(along_edges<Real>, atoms_and_parts(given.atoms, given.channels, threads), threads, on,
           given.template input<Real>(wrong), nullptr, to);
    mark_where_wrong(wrong, to, given.edges * given.channels, on);
  });
  stack[0] = out.release();
}

void directional_sums_backward(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor grad(stack[0]);
  const Arguments given("directional_sums_backward", stack + 1);
  const int64_t degrees = given.degrees, edges = given.edges, atoms = given.atoms, channels = given.channels;
  const int32_t dtype = given.weights.dtype();
  given.checks.tensor(grad, dtype, {edges, channels}, "grad: expected a contiguous tensor (edges, channels)");
  const Device device(given.weights);
  const cudaStream_t on = stream(given.weights);
  const auto wrong = checked_offsets(given.offsets, atoms, edges, on);
  const auto make = [&](const StableIValue& needed, std::initializer_list<int64_t> shape) {
    return abi::from_stack<bool>(needed) ? given.weights.new_empty(shape, dtype) : given.weights.new_empty({0}, dtype);
  };
  auto weights = make(stack[5], {degrees, edges, channels});
  auto harmonics = make(stack[6], {edges, degrees * degrees});
  auto density = make(stack[7], {degrees * degrees, atoms, channels});
  for_real(given.weights, [&](auto zero) {
    using Real = decltype(zero);
    const auto input = given.template input<Real>(wrong);
    const Real* by = grad.data<Real>();
    const dim3 of_channels = atoms_and_parts(atoms, channels, threads);
    if (weights.ndim() == 3) {
      launch(along_edges<Real>, of_channels, threads, on, input, by, weights.template data<Real>());
      mark_where_wrong(wrong, weights.template data<Real>(), degrees * edges * channels, on);
    }
    if (harmonics.ndim() == 2) {
      launch(sum_channels<Real>, blocks_for(atoms, 1), threads, on, input, by, harmonics.template data<Real>());
      mark_where_wrong(wrong, harmonics.template data<Real>(), edges * degrees * degrees, on);
    }
    if (density.ndim() == 3)
      launch(sum_density<Real>, of_channels, threads, on, input, by, density.template data<Real>());
  });
  stack[0] = weights.release(), stack[1] = harmonics.release(), stack[2] = density.release();
}

const auto operators = abi::Library("mlip", "CUDA")
                           .impl("directional_sums", directional_sums)
                           .impl("directional_sums_backward", directional_sums_backward);

}  // namespace
}  // namespace mlip::cuda
