// Symmetric contraction on CUDA: a thread for an atom and a channel walks through the tree of monomials
// (kernels/contraction.hpp) by Horner's rule, as kernels/contraction.cpp does.
//
// All threads read the same node at the same time. Features and their gradient lie in shared memory, since the tree
// picks them by number.
#pragma once
#include <algorithm>

#include "cuda.hpp"
#include "device.cuh"
#include "kernels/dual.hpp"

namespace mlip::cuda {
namespace {

constexpr int most_threads = 128;
constexpr int shared_bytes = 32768;
constexpr int largest_width = 64;  // components of the features
constexpr int deepest = 4;         // factors of a monomial; the CPU takes more

// A term: its output component, its number of factors, and these.
struct Term {
  int32_t output, size, factor[deepest];
};

template <class Real>
struct Contraction {
  static constexpr int block = 64 / sizeof(Real);
  int64_t n_in, n_out, n_terms, n_atoms, n_channels, n_elements;
  const int32_t* tree;
  const Term* terms;
  const Real *features, *grad, *tangent;  // (n_in or n_out, n_atoms, n_channels)
  const int64_t* species;
  const Real* coefficients;  // (n_elements, n_channels / block, n_terms, block)
  Real *values, *gradient, *term_gradient;

  MLIP_INLINE int64_t place(int64_t component, int64_t atom, int64_t channel) const {
    return (component * n_atoms + atom) * n_channels + channel;
  }
  MLIP_INLINE int64_t term_place(int64_t element, int64_t term, int64_t channel) const {
    return ((element * (n_channels / block) + channel / block) * n_terms + term) * block + channel % block;
  }
};


// The numbers of one thread in shared memory; X is a number, or a dual number in two places.
template <class Real, class X>
struct Column {
  Real* at;
  int stride, size;  // from one number to the next; how many there are

  MLIP_INLINE X get(int k) const {
    if constexpr (std::is_same_v<X, Real>)
      return at[k * stride];
    else
      return {at[k * stride], at[(size + k) * stride]};
  }
  MLIP_INLINE void set(int k, const X& x) {
    if constexpr (std::is_same_v<X, Real>) {
      at[k * stride] = x;
    } else {
      at[k * stride] = x.value;
      at[(size + k) * stride] = x.tangent;
    }
  }
  MLIP_INLINE void add(int k, const X& x) {
    X sum = get(k);
    sum += x;
    set(k, sum);
  }
};

// With q the product of the factors on the way to a node, u its polynomial: see kernels/contraction.cpp.
template <class Real, class X, bool gradient>
struct Walk {
  const int32_t* tree;
  const Real* coefficient;
  Column<Real, X> a, da;

  MLIP_INLINE X next() {
    const Real c = *coefficient;
    coefficient += Contraction<Real>::block;
    if constexpr (std::is_same_v<X, Real>)
      return c;
    else
      return {c, Real(0)};
  }

  template <int depth>
  MLIP_INLINE void node(const X& q, X& u) {
    const int32_t own = tree[0], leaves = tree[1], inner = tree[2];
    tree += 3;
    if (own) u += next();
    for (int32_t n = 0; n < leaves; n++) {
      const int32_t k = *tree++;
      const X c = next();
      u += c * a.get(k);
      if constexpr (gradient) da.add(k, c * q);
    }
    if constexpr (depth + 1 < deepest) {
      for (int32_t n = 0; n < inner; n++) {
        const int32_t k = *tree++;
        X below{};
        const X factor = a.get(k);
        node<depth + 1>(gradient ? q * factor : q, below);
        u += below * factor;
        if constexpr (gradient) da.add(k, below * q);
      }
    }
  }
};

enum class Task { value, gradient, second };

// Numbers in shared memory for each component.
constexpr int arrays_of(Task task) { return task == Task::value ? 1 : task == Task::gradient ? 2 : 4; }
template <class Real>
int threads_of(Task task, int64_t n_in) {
  const auto fits = static_cast<int>(shared_bytes / (n_in * arrays_of(task) * static_cast<int64_t>(sizeof(Real))));
  return fits >= warp ? std::min(fits / warp * warp, most_threads) : fits;
}

template <class Real, Task task>
__global__ void __launch_bounds__(most_threads) contract(Contraction<Real> all) {
  constexpr bool gradient = task != Task::value;
  using X = std::conditional_t<task == Task::second, Dual<Real>, Real>;
  __shared__ Real memory[shared_bytes / sizeof(Real)];
  const int64_t number = thread_number(), atom = number / all.n_channels, channel = number % all.n_channels;
  if (atom >= all.n_atoms) return;
  const int stride = static_cast<int>(blockDim.x), n_in = static_cast<int>(all.n_in);
  const bool right = below(all.species[atom], all.n_elements);
  Walk<Real, X, gradient> walk{
      all.tree,
      all.coefficients + all.term_place(right ? all.species[atom] : 0, 0, channel),
      {memory + threadIdx.x, stride, n_in},
      {memory + threadIdx.x + (task == Task::second ? 2 : 1) * n_in * stride, stride, n_in}};
  for (int k = 0; k < n_in; k++) {
    const int64_t place = all.place(k, atom, channel);
    const Real feature = right ? all.features[place] : not_a_number<Real>();
    if constexpr (task == Task::second)
      walk.a.set(k, {feature, all.tangent[place]});
    else
      walk.a.set(k, feature);
    if constexpr (gradient) walk.da.set(k, X{});
  }
  for (int64_t m = 0; m < all.n_out; m++) {
    const int64_t place = all.place(m, atom, channel);
    X q{}, u{};
    if constexpr (task == Task::gradient) q = all.grad[place];
    if constexpr (task == Task::second) q.value = all.grad[place];
    walk.template node<0>(q, u);
    if constexpr (task == Task::value) all.values[place] = right ? u : not_a_number<Real>();
    if constexpr (task == Task::second) all.values[place] = right ? u.tangent : not_a_number<Real>();
  }
  if constexpr (gradient)
    for (int k = 0; k < n_in; k++) {
      const X sum = walk.da.get(k);
      Real& to = all.gradient[all.place(k, atom, channel)];
      if constexpr (task == Task::second)
        to = right ? sum.tangent : not_a_number<Real>();
      else
        to = right ? sum : not_a_number<Real>();
    }
}

// The gradient of the coefficients, a thread for each term and channel, over the atoms in their order.
template <class Real, bool second>
__global__ void sum_terms(Contraction<Real> all) {
  using X = std::conditional_t<second, Dual<Real>, Real>;
  const int64_t number = thread_number(), t = number / all.n_channels, channel = number % all.n_channels;
  if (t >= all.n_terms) return;
  const Term term = all.terms[t];
  bool right = true;
  for (int64_t z = 0; z < all.n_elements; z++) all.term_gradient[all.term_place(z, t, channel)] = 0;
  for (int64_t atom = 0; atom < all.n_atoms; atom++) {
    const int64_t z = all.species[atom];
    if (!below(z, all.n_elements)) {
      right = false;
      continue;
    }
    X product{};
    const Real g = all.grad[all.place(term.output, atom, channel)];
    if constexpr (second)
      product.value = g;
    else
      product = g;
    unroll<deepest>([&](auto n) {
      if (n < term.size) {
        const int64_t place = all.place(term.factor[n], atom, channel);
        if constexpr (second)
          product = product * X{all.features[place], all.tangent[place]};
        else
          product = product * all.features[place];
      }
    });
    Real& sum = all.term_gradient[all.term_place(z, t, channel)];
    if constexpr (second)
      sum += product.tangent;
    else
      sum += product;
  }
  if (right) return;
  for (int64_t z = 0; z < all.n_elements; z++)
    all.term_gradient[all.term_place(z, t, channel)] = not_a_number<Real>();
}

}  // namespace
}  // namespace mlip::cuda
