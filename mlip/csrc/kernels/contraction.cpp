// Sparse polynomials by Horner's rule on the tree of their monomials, vectorised over channels.
//
// With Q the product of the factors on the way to a node and U the polynomial of what follows it,
//   U = own coefficient + sum over children A_k U_k,   Q_k = Q A_k,   d/dA_k += Q U_k,   d/d(own coefficient) = Q.
// Seeded with the gradient of the output as Q of the root, these are gradients of the loss. Run with dual numbers, they
// are second derivatives.
#include "contraction.hpp"

#include "dual.hpp"
#include "vector.hpp"

namespace mlip::MLIP_ISA {
namespace {

// Vectors of channels that share the decoding of the tree: as many as the registers hold, and whole blocks or a part.
template <class Real>
constexpr int lanes = width<Real> == block<Real> ? 4 : 2;

template <class Real, int P>
struct Lanes {
  Vector<Real> v[P];
};
template <class Real, int P>
MLIP_INLINE Lanes<Real, P> operator*(const Lanes<Real, P>& a, const Lanes<Real, P>& b) {
  Lanes<Real, P> out;
  for (int p = 0; p < P; p++) out.v[p] = a.v[p] * b.v[p];
  return out;
}
template <class Real, int P>
MLIP_INLINE Lanes<Real, P> operator+(const Lanes<Real, P>& a, const Lanes<Real, P>& b) {
  Lanes<Real, P> out;
  for (int p = 0; p < P; p++) out.v[p] = a.v[p] + b.v[p];
  return out;
}
template <class Real, int P>
MLIP_INLINE Lanes<Real, P>& operator+=(Lanes<Real, P>& a, const Lanes<Real, P>& b) {
  for (int p = 0; p < P; p++) a.v[p] += b.v[p];
  return a;
}

template <class Real, int P>
MLIP_INLINE Lanes<Real, P> load_lanes(const Real* from, int64_t stride = width<Real>) {
  Lanes<Real, P> out;
  for (int p = 0; p < P; p++) out.v[p] = load(from + p * stride);
  return out;
}
template <class Real, int P>
MLIP_INLINE void store_lanes(Real* to, const Lanes<Real, P>& x, int64_t stride = width<Real>) {
  for (int p = 0; p < P; p++) store(to + p * stride, x.v[p]);
}

// Goes through the coefficients of some channels. The lanes of a term are `stride` apart: in the same block or the next.
template <class Real, int P>
struct Coefficients {
  const Real* at;
  int64_t stride;
  using Number = Lanes<Real, P>;
  MLIP_INLINE Number next() {
    const Number out = load_lanes<Real, P>(at, stride);
    at += block<Real>;
    return out;
  }
};
template <class Real, int P>
struct ConstantCoefficients : Coefficients<Real, P> {
  using Number = Dual<Lanes<Real, P>>;
  MLIP_INLINE Number next() { return {Coefficients<Real, P>::next(), {}}; }
};

// Adds to the gradient of the coefficients.
template <class Real, int P>
struct Sums {
  Real* at;
  int64_t stride;
  MLIP_INLINE void add(const Lanes<Real, P>& x) {
    store_lanes(at, load_lanes<Real, P>(at, stride) + x, stride);
    at += block<Real>;
  }
  MLIP_INLINE void add(const Dual<Lanes<Real, P>>& x) { add(x.tangent); }
};

constexpr int inlined_depth = 3;

// The polynomial of a node, and its gradient if wanted. Passed and returned by value so that it stays in registers.
template <bool gradient, class C>
struct Evaluation {
  using X = typename C::Number;
  const int32_t* tree;
  C coefficients;

  template <int depth>
  MLIP_INLINE void node(const X* a, X* da, const X& q, X& u) {
    const int32_t own = tree[0], leaves = tree[1], inner = tree[2];
    tree += 3;
    if (own) u += coefficients.next();
    for (int32_t n = 0; n < leaves; n++) {
      const int32_t k = *tree++;
      const X c = coefficients.next();
      u += c * a[k];
      if constexpr (gradient) da[k] += c * q;
    }
    for (int32_t n = 0; n < inner; n++) {
      const int32_t k = *tree++;
      X below{};
      const X q_below = gradient ? q * a[k] : X{};
      if constexpr (depth + 1 < inlined_depth)
        node<depth + 1>(a, da, q_below, below);
      else
        *this = deeper(*this, a, da, q_below, below);
      u += below * a[k];
      if constexpr (gradient) da[k] += below * q;
    }
  }

  __attribute__((noinline)) static Evaluation deeper(Evaluation here, const X* a, X* da, const X& q, X& u) {
    X sum{};
    here.template node<inlined_depth - 1>(a, da, q, sum);
    u = sum;
    return here;
  }
};

// The products of the factors of every term.
template <class X, class S>
struct Products {
  const int32_t* tree;
  S sums;

  template <int depth>
  MLIP_INLINE void node(const X* a, const X& q) {
    const int32_t own = tree[0], leaves = tree[1], inner = tree[2];
    tree += 3;
    if (own) sums.add(q);
    for (int32_t n = 0; n < leaves; n++) sums.add(q * a[*tree++]);
    for (int32_t n = 0; n < inner; n++) {
      const int32_t k = *tree++;
      if constexpr (depth + 1 < inlined_depth)
        node<depth + 1>(a, q * a[k]);
      else
        *this = deeper(*this, a, q * a[k]);
    }
  }

  __attribute__((noinline)) static Products deeper(Products here, const X* a, const X& q) {
    here.template node<inlined_depth - 1>(a, q);
    return here;
  }
};

// One atom and P vectors of channels from `channel` on.
template <class Real, int P>
struct Site {
  const Contraction<Real>& all;
  int64_t atom, channel;
  using Number = Lanes<Real, P>;

  MLIP_INLINE int64_t place(int64_t component) const {
    return (component * all.n_atoms + atom) * all.n_channels + channel;
  }
  MLIP_INLINE int64_t term_place() const {
    constexpr int64_t size = block<Real>;
    const int64_t row = all.species[atom] * (all.n_channels / size) + channel / size;
    return row * all.n_terms * size + channel % size;
  }
  // From one lane of a term to the next.
  MLIP_INLINE int64_t term_stride() const {
    return width<Real> == block<Real> ? all.n_terms * block<Real> : width<Real>;
  }
  MLIP_INLINE Number at(const Real* from, int64_t component) const {
    return load_lanes<Real, P>(from + place(component));
  }
  MLIP_INLINE void set(Real* to, int64_t component, const Number& x) const { store_lanes(to + place(component), x); }

  MLIP_INLINE void load_features(Number* a) const {
    for (int64_t k = 0; k < all.n_in; k++) a[k] = at(all.features, k);
  }
  MLIP_INLINE void load_features(Dual<Number>* a) const {
    for (int64_t k = 0; k < all.n_in; k++) a[k] = {at(all.features, k), at(all.tangent, k)};
  }
};

template <class Real>
MLIP_INLINE Real* numbers(Lanes<Real, 1>* lanes) {
  return reinterpret_cast<Real*>(lanes);
}

struct Forward {
  template <class Real, int P>
  MLIP_INLINE static void run(const Site<Real, P>& site) {
    using X = Lanes<Real, P>;
    X a[largest_width];
    site.load_features(a);
    Evaluation<false, Coefficients<Real, P>> walk{
        site.all.tree, {site.all.coefficients + site.term_place(), site.term_stride()}};
    for (int64_t m = 0; m < site.all.n_out; m++) {
      X u{};
      walk.template node<0>(a, nullptr, X{}, u);
      site.set(site.all.values, m, u);
    }
  }
};

struct Backward {
  template <class Real, int P>
  MLIP_INLINE static void run(const Site<Real, P>& site) {
    using X = Lanes<Real, P>;
    X a[largest_width], da[largest_width];
    site.load_features(a);
    for (int64_t k = 0; k < site.all.n_in; k++) da[k] = X{};
    Evaluation<true, Coefficients<Real, P>> walk{
        site.all.tree, {site.all.coefficients + site.term_place(), site.term_stride()}};
    for (int64_t m = 0; m < site.all.n_out; m++) {
      X u{};
      walk.template node<0>(a, da, site.at(site.all.grad, m), u);
    }
    for (int64_t k = 0; k < site.all.n_in; k++) site.set(site.all.gradient, k, da[k]);
  }
};

struct FixedForward {
  template <class Real>
  MLIP_INLINE static void run(const Site<Real, 1>& site) {
    Lanes<Real, 1> a[largest_width], u;
    site.load_features(a);
    const Real* coefficients = site.all.coefficients + site.term_place();
    for (int64_t m = 0; m < site.all.n_out; m++) {
      const FixedTree<Real>& tree = *site.all.fixed[m];
      tree.value(numbers<Real>(a), coefficients, numbers<Real>(&u));
      coefficients += tree.n_terms * block<Real>;
      site.set(site.all.values, m, u);
    }
  }
};

struct FixedBackward {
  template <class Real>
  MLIP_INLINE static void run(const Site<Real, 1>& site) {
    Lanes<Real, 1> a[largest_width], da[largest_width];
    site.load_features(a);
    for (int64_t k = 0; k < site.all.n_in; k++) da[k] = {};
    const Real* coefficients = site.all.coefficients + site.term_place();
    for (int64_t m = 0; m < site.all.n_out; m++) {
      const FixedTree<Real>& tree = *site.all.fixed[m];
      Lanes<Real, 1> q = site.at(site.all.grad, m);
      tree.gradient(numbers<Real>(a), coefficients, numbers<Real>(&q), numbers<Real>(da));
      coefficients += tree.n_terms * block<Real>;
    }
    for (int64_t k = 0; k < site.all.n_in; k++) site.set(site.all.gradient, k, da[k]);
  }
};

struct Second {
  template <class Real, int P>
  MLIP_INLINE static void run(const Site<Real, P>& site) {
    using X = Dual<Lanes<Real, P>>;
    X a[largest_width], da[largest_width];
    site.load_features(a);
    for (int64_t k = 0; k < site.all.n_in; k++) da[k] = X{};
    Evaluation<true, ConstantCoefficients<Real, P>> walk{
        site.all.tree, {site.all.coefficients + site.term_place(), site.term_stride()}};
    for (int64_t m = 0; m < site.all.n_out; m++) {
      X u{};
      walk.template node<0>(a, da, X{site.at(site.all.grad, m), {}}, u);
      site.set(site.all.values, m, u.tangent);
    }
    for (int64_t k = 0; k < site.all.n_in; k++) site.set(site.all.gradient, k, da[k].tangent);
  }
};

template <bool second>
struct Terms {
  template <class Real, int P>
  MLIP_INLINE static void run(const Site<Real, P>& site) {
    using X = std::conditional_t<second, Dual<Lanes<Real, P>>, Lanes<Real, P>>;
    X a[largest_width];
    site.load_features(a);
    Products<X, Sums<Real, P>> walk{site.all.tree, {site.all.term_gradient + site.term_place(), site.term_stride()}};
    for (int64_t m = 0; m < site.all.n_out; m++) {
      X q{};
      if constexpr (second)
        q.value = site.at(site.all.grad, m);
      else
        q = site.at(site.all.grad, m);
      walk.template node<0>(a, q);
    }
  }
};

// Runs over channels from `first_channel` to `last_channel`, which are whole blocks, and atoms.
template <class Real, class Task>
void over_channels(const Contraction<Real>& all, int64_t first_atom, int64_t last_atom, int64_t first_channel,
                   int64_t last_channel) {
  constexpr int64_t step = lanes<Real> * width<Real>;
  int64_t channel = first_channel;
  for (; channel + step <= last_channel; channel += step)
    for (int64_t atom = first_atom; atom < last_atom; atom++) Task::run(Site<Real, lanes<Real>>{all, atom, channel});
  if constexpr (step > block<Real>)
    for (; channel < last_channel; channel += block<Real>)
      for (int64_t atom = first_atom; atom < last_atom; atom++) Task::run(Site<Real, 1>{all, atom, channel});
}

template <class Real, class Task>
void over_atoms(const Contraction<Real>& all, int64_t first, int64_t last) {
  for (int64_t atom = first; atom < last; atom++) over_channels<Real, Task>(all, atom, atom + 1, 0, all.n_channels);
}

// The same by straight-line code where there is some.
template <class Real, class Task, class Fixed>
void over_atoms(const Contraction<Real>& all, int64_t first, int64_t last) {
  if (!all.fixed) return over_atoms<Real, Task>(all, first, last);
  for (int64_t atom = first; atom < last; atom++)
    for (int64_t channel = 0; channel < all.n_channels; channel += width<Real>)
      Fixed::run(Site<Real, 1>{all, atom, channel});
}

template <class Real, class Task>
void over_blocks(const Contraction<Real>& all, int64_t first, int64_t last) {
  over_channels<Real, Task>(all, 0, all.n_atoms, first * block<Real>, last * block<Real>);
}

template <class Real>
constexpr ContractionOf<Real> functions = {
    over_atoms<Real, Forward, FixedForward>,
    over_atoms<Real, Backward, FixedBackward>,
    over_atoms<Real, Second>,
    over_blocks<Real, Terms<false>>,
    over_blocks<Real, Terms<true>>};

}  // namespace

extern const ContractionTable contraction_table = {functions<float>, functions<double>};

}  // namespace mlip::MLIP_ISA
