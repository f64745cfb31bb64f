// Straight-line code for the polynomials of contraction_trees.hpp: what contraction.cpp does by tables, unrolled.
#include "contraction.hpp"
#include "contraction_trees.hpp"
#include "vector.hpp"

namespace mlip::MLIP_ISA {
namespace {

// Where a node ends, and how many terms there are below it.
struct Extent {
  int end, terms;
};
constexpr Extent extent(const int32_t* nodes, int place) {
  Extent out{place + 3 + nodes[place + 1], nodes[place] + nodes[place + 1]};
  for (int32_t n = 0; n < nodes[place + 2]; n++) {
    const Extent below = extent(nodes, out.end + 1);
    out = {below.end, out.terms + below.terms};
  }
  return out;
}

template <class Tree, bool gradient, class Real>
struct Unrolled {
  using V = Vector<Real>;

  template <int place, int term>
  MLIP_INLINE static void node(const V* a, const Real* c, const V& q, V& u, V* da) {
    constexpr int own = Tree::nodes[place], leaves = Tree::nodes[place + 1], inner = Tree::nodes[place + 2];
    if constexpr (own) u += load(c + term * block<Real>);
    unroll<leaves>([&](auto n) __attribute__((always_inline)) {
      constexpr int k = Tree::nodes[place + 3 + n];
      const V w = load(c + (term + own + n) * block<Real>);
      u += w * a[k];
      if constexpr (gradient) da[k] += w * q;
    });
    inner_nodes<place + 3 + leaves, term + own + leaves, inner>(a, c, q, u, da);
  }

  template <int place, int term, int count>
  MLIP_INLINE static void inner_nodes(const V* a, const Real* c, const V& q, V& u, V* da) {
    if constexpr (count > 0) {
      constexpr int k = Tree::nodes[place];
      V below{};
      node<place + 1, term>(a, c, gradient ? q * a[k] : q, below, da);
      u += below * a[k];
      if constexpr (gradient) da[k] += below * q;
      constexpr Extent done = extent(Tree::nodes, place + 1);
      inner_nodes<done.end, term + done.terms, count - 1>(a, c, q, u, da);
    }
  }
};

template <class Tree, class Real>
void value(const Real* features, const Real* coefficients, Real* value) {
  Vector<Real> u{};
  const auto* a = reinterpret_cast<const Vector<Real>*>(features);
  Unrolled<Tree, false, Real>::template node<0, 0>(a, coefficients, u, u, nullptr);
  store(value, u);
}

template <class Tree, class Real>
void gradient(const Real* features, const Real* coefficients, const Real* seed, Real* gradient) {
  using V = Vector<Real>;
  V u{};
  const V q = load(seed), *a = reinterpret_cast<const V*>(features);
  V* const sums = reinterpret_cast<V*>(gradient);
  if constexpr (vector_bytes == 64) {  // 32 registers: the gradient stays in some of them
    V da[Tree::n_in];
    for (int k = 0; k < Tree::n_in; k++) da[k] = sums[k];
    Unrolled<Tree, true, Real>::template node<0, 0>(a, coefficients, q, u, da);
    for (int k = 0; k < Tree::n_in; k++) sums[k] = da[k];
  } else {
    Unrolled<Tree, true, Real>::template node<0, 0>(a, coefficients, q, u, sums);
  }
}

template <class Real, class... Trees>
FixedTrees<Real> make(contraction_trees::List<Trees...>) {
  static constexpr FixedTree<Real> all[] = {{Trees::nodes, sizeof Trees::nodes / sizeof *Trees::nodes,
                                             extent(Trees::nodes, 0).terms, Trees::n_in, value<Trees, Real>,
                                             gradient<Trees, Real>}...};
  return {all, sizeof...(Trees)};
}

}  // namespace

extern const FixedTreesTable fixed_trees_table = {make<float>(contraction_trees::All{}),
                                                  make<double>(contraction_trees::All{})};

}  // namespace mlip::MLIP_ISA
