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

  // `count` nodes one after the other, the first at `place`, each below a factor where `factors` says so.
  template <int place, int term, bool factors, int count>
  MLIP_INLINE static void nodes(const V* a, const Real* c, const V& q, V& u, V* da) {
    constexpr int k = factors ? Tree::nodes[place] : 0, at = place + factors;
    constexpr int own = Tree::nodes[at], leaves = Tree::nodes[at + 1], inner = Tree::nodes[at + 2];
    const V here = factors && gradient ? q * a[k] : q;
    V below{};
    V& sum = factors ? below : u;
    if constexpr (own) sum += load(c + term * block<Real>);
    MLIP_UNROLL
    for (int n = 0; n < leaves; n++) {
      const int leaf = Tree::nodes[at + 3 + n];
      const V w = load(c + (term + own + n) * block<Real>);
      sum += w * a[leaf];
      if constexpr (gradient) da[leaf] += w * here;
    }
    if constexpr (inner > 0) nodes<at + 3 + leaves, term + own + leaves, true, inner>(a, c, here, sum, da);
    if constexpr (factors) {
      u += sum * a[k];
      if constexpr (gradient) da[k] += sum * q;
    }
    if constexpr (count > 1) {
      constexpr Extent done = extent(Tree::nodes, at);
      nodes<done.end, term + done.terms, true, count - 1>(a, c, q, u, da);
    }
  }
};

template <class Tree, class Real>
void value(const Real* features, const Real* coefficients, Real* value) {
  Vector<Real> u{};
  const auto* a = reinterpret_cast<const Vector<Real>*>(features);
  Unrolled<Tree, false, Real>::template nodes<0, 0, false, 1>(a, coefficients, u, u, nullptr);
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
    Unrolled<Tree, true, Real>::template nodes<0, 0, false, 1>(a, coefficients, q, u, da);
    for (int k = 0; k < Tree::n_in; k++) sums[k] = da[k];
  } else {
    Unrolled<Tree, true, Real>::template nodes<0, 0, false, 1>(a, coefficients, q, u, sums);
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
