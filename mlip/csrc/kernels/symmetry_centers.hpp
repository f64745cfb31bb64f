// Symmetry functions of one center, their gradient, and the derivatives of both along a direction; for processors and
// CUDA devices, whose lanes are those of a vector or of a warp. All lanes take the same way.
#pragma once
#include "symmetry_neighbors.hpp"

namespace mlip::MLIP_ISA {

// Radial functions: values (or their tangents) are added to `values`, gradients to those of the neighbors.
template <class T, bool gradient>
MLIP_INLINE void radial(const SymmetryPlan& plan, const Neighbors<T>& near, const double* weights, Memory memory,
                        double* values) {
  const auto windows = memory.array<Curve<T>>(plan.windows.size), parts = memory.array<Curve<T>>(plan.parts.size);
  const auto sums = memory.array<T>(plan.most_terms);
  for (int64_t s = 0; s < near.edges.n_species; s++) {
    const auto& terms = plan.neighbors[s].terms;
    if (near.begin[s] == near.end[s] || terms.size == 0) continue;
    fill<T>(sums, terms.size, constant<T>(0));
    for (int64_t k = near.begin[s]; k < near.end[s]; k += lanes) {
      distance_parts<gradient>(plan, plan.radial, near.r.load(k), windows, parts);
      T slope = constant<T>(0);
      for (int64_t n = 0; n < terms.size; n++) {
        const RadialTerm& term = terms[n];
        if constexpr (gradient) slope += (term.weight * weights[term.column]) * parts[term.part].slope;
        sums[n] += parts[term.part].value;
      }
      if constexpr (gradient) near.gr.add(k, slope);
    }
    if (values)
      for (int64_t n = 0; n < terms.size; n++) add_once(values[terms[n].column], terms[n].weight * wanted(sums[n]));
  }
}

// What angular functions need of the neighbors and of the memory.
template <class T, bool gradient>
struct Angular {
  MLIP_INLINE Angular(const SymmetryPlan& plan, const Neighbors<T>& near, Scratch scratch)
      : plan(plan),
        near(near),
        windows(scratch.functions.template array<Curve<T>>(plan.windows.size)),
        parts(scratch.functions.template array<Curve<T>>(plan.parts.size)),
        angles(scratch.functions.template array<Curve<T>>(plan.angles.size)),
        of_first(scratch.functions.template array<Curve<T>>(plan.parts.size)),
        sums(scratch.functions.template array<T>(plan.most_terms)),
        factors(scratch.functions.template array<V>(plan.most_terms)),
        active(scratch.functions.integers(plan.most_terms)),
        close(scratch.neighbors.integers(near.size)),
        rows(scratch.neighbors.template row<T>(2 * plan.parts.size * near.size).at) {
    // Of neighbors that begin anywhere, or lie anywhere, they are loaded from rows.
    for (int64_t k = 0; k < near.filled; k += lanes) {
      distance_parts<gradient>(plan, plan.angular, near.r.load(k), windows, parts);
      for (const int32_t p : plan.angular.parts) {
        value(p).store(k, parts[p].value);
        if (gradient) slope(p).store(k, parts[p].slope);
      }
    }
    settle();
  }
  MLIP_INLINE Row<T> value(int64_t p) const { return row(2 * p); }
  MLIP_INLINE Row<T> slope(int64_t p) const { return row(2 * p + 1); }

  const SymmetryPlan& plan;
  const Neighbors<T>& near;
  const LaneArray<Curve<T>> windows, parts, angles, of_first;
  const LaneArray<T> sums;
  const LaneArray<V> factors;
  int64_t *const active, *const close;

 private:
  MLIP_INLINE Row<T> row(int64_t k) const { return {rows + k * numbers_of<T> * near.size, near.size}; }
  double* const rows;
};

// Those from `begin` to `end` that are closer than `reach` to the neighbor j; a vector of dummies follows.
template <class T>
MLIP_INLINE int64_t find_close(const Neighbors<T>& near, double reach, int64_t j, int64_t begin, int64_t end,
                               int64_t* out) {
  const V x = vector(near.x.at[j]), y = vector(near.y.at[j]), z = vector(near.z.at[j]);
  int64_t count = 0;
  for (int64_t k = begin; k < end; k += lanes) {
    const V dx = load_lanes(near.x.at + k) - x, dy = load_lanes(near.y.at + k) - y, dz = load_lanes(near.z.at + k) - z;
    count += append_places(!(dx * dx + dy * dy + dz * dz >= reach * reach), k, out + count);
  }
  for_each(lanes, [&](int64_t lane) { out[count + lane] = end + lane; });
  settle();
  return count;
}

// Pairs of the neighbor j and `count` others: those from `begin` on, or, if packed, those listed in at.close.
template <class T, bool gradient, bool sums, bool packed>
MLIP_INLINE void pairs_of(const Angular<T, gradient>& at, const PairClass& pairs, int64_t n_active, int64_t j,
                          int64_t begin, int64_t count) {
  const Neighbors<T>& near = at.near;
  const T zero = constant<T>(0);
  const T xj = near.x.broadcast(j), yj = near.y.broadcast(j), zj = near.z.broadcast(j), ij = near.inverse_r.broadcast(j);
  T gx = zero, gy = zero, gz = zero, gr = zero;  // by j
  for (int64_t n = 0; n < count; n += lanes) {
    const auto take = [&](const Row<T>& row) MLIP_INLINE_LAMBDA {
      if constexpr (packed)
        return row.gather_from(at.close + n);
      else
        return row.load(begin + n);
    };
    const auto give = [&](const Row<T>& row, const T& x) MLIP_INLINE_LAMBDA {
      if constexpr (packed)
        row.add_to(at.close + n, x);
      else
        row.add(begin + n, x);
    };
    const T xk = take(near.x), yk = take(near.y), zk = take(near.z), ik = take(near.inverse_r);
    const T both = ij * ik, cosine = (xj * xk + yj * yk + zj * zk) * both;
    const T dx = xk - xj, dy = yk - yj, dz = zk - zj;
    T inverse_between = zero;
    bool narrow = false;
    if (pairs.narrow) {
      const T between = root(dx * dx + dy * dy + dz * dz);
      narrow = packed || any(value_of(between) < pairs.narrow_reach);
      if (narrow) {
        distance_parts<gradient>(at.plan, at.plan.narrow, between, at.windows, at.parts);
        if constexpr (gradient) {
          const Mask apart = value_of(between) > 0.0;
          inverse_between = select(apart, inverse(select(apart, between, constant<T>(1))), zero);
        }
      }
    }
    bool have_angles = false;
    T by_cosine = zero, by_first = zero, by_second = zero, by_between = zero;
    for (int64_t a = 0; a < n_active; a++) {
      const Group& group = pairs.groups[at.active[a]];
      if (group.narrow && !narrow) continue;
      const int64_t p = group.part;
      const T second = take(at.value(p));
      if (!any_nonzero(second)) continue;
      if (!have_angles) {
        angle_parts<gradient>(at.plan, pairs.angles, cosine, at.angles);
        have_angles = true;
      }
      const Curve<T>& first = at.of_first[p];
      T rest = second;
      if (group.narrow) rest = second * at.parts[p].value;
      const T product = first.value * rest;
      T by_product = zero, by_angle = zero;
      const LaneArray<T> sum = at.sums + group.first;
      const LaneArray<V> factor = at.factors + group.first;
      for (int64_t k = 0; k < group.terms.size; k++) {
        const Curve<T>& angle = at.angles[group.terms[k].angle];
        if constexpr (sums) sum[k] += angle.value * product;
        if constexpr (gradient) {
          by_product += factor[k] * angle.value;
          by_angle += factor[k] * angle.slope;
        }
      }
      if constexpr (gradient) {
        by_cosine += by_angle * product;
        by_first += by_product * first.slope * rest;
        const T others = by_product * first.value, slope = take(at.slope(p));
        if (group.narrow) {
          by_second += others * slope * at.parts[p].value;
          by_between += others * second * at.parts[p].slope;
        } else {
          by_second += others * slope;
        }
      }
    }
    if constexpr (gradient) {
      if (!have_angles) continue;
      // Of the cosine as a function of the scalar product and both distances.
      const T cross = by_cosine * both, apart = by_between * inverse_between, turned = by_cosine * cosine;
      gr += by_first - turned * ij;
      give(near.gr, by_second - turned * ik);
      gx += cross * xk - apart * dx;
      gy += cross * yk - apart * dy;
      gz += cross * zk - apart * dz;
      give(near.gx, cross * xj + apart * dx);
      give(near.gy, cross * yj + apart * dy);
      give(near.gz, cross * zj + apart * dz);
    }
  }
  if constexpr (gradient) {
    near.gx.add_sum(j, gx);
    near.gy.add_sum(j, gy);
    near.gz.add_sum(j, gz);
    near.gr.add_sum(j, gr);
    settle();
  }
}

// Angular functions: values (or their tangents) are added to `values`, gradients to those of the neighbors.
template <class T, bool gradient, bool sums>
MLIP_INLINE void angular(const SymmetryPlan& plan, const Neighbors<T>& near, const double* weights,
                         Scratch scratch, double* values) {
  const Angular<T, gradient> at(plan, near, scratch);
  for (const PairClass& pairs : plan.pairs) {
    const int64_t begin = near.begin[pairs.second], end = near.end[pairs.second];
    if (begin == end) continue;
    const View<Term>& terms = pairs.terms;
    if constexpr (sums) fill<T>(at.sums, terms.size, constant<T>(0));
    if constexpr (gradient)
      for (int64_t n = 0; n < terms.size; n++) at.factors[n] = vector(terms[n].weight * weights[terms[n].column]);
    for (int64_t j = near.begin[pairs.first]; j < near.end[pairs.first]; j++) {
      int64_t n_active = 0;
      for (int64_t g = 0; g < pairs.groups.size; g++) {
        const int64_t p = pairs.groups[g].part;
        at.of_first[p].value = at.value(p).broadcast(j);
        if (gradient) at.of_first[p].slope = at.slope(p).broadcast(j);
        if (any_nonzero(at.of_first[p].value)) at.active[n_active++] = g;
      }
      if (!n_active) continue;
      const int64_t from = pairs.first == pairs.second ? j + 1 : begin;
      if (pairs.all_narrow)
        pairs_of<T, gradient, sums, true>(at, pairs, n_active, j, from,
                                          find_close(near, pairs.narrow_reach, j, from, end, at.close));
      else
        pairs_of<T, gradient, sums, false>(at, pairs, n_active, j, from, end - from);
    }
    if constexpr (sums)
      for (int64_t n = 0; n < terms.size; n++) add_once(values[terms[n].column], terms[n].weight * wanted(at.sums[n]));
  }
}

// All functions: values (or, of dual numbers, tangents) and gradients (or their tangents) are added to.
template <class T, bool gradient, bool sums>
MLIP_INLINE void evaluate(const SymmetryPlan& plan, const CenterNeighbors& edges, const double* weights,
                          const double* direction, const Scratch& memory, double* values, double* by_vectors) {
  if (plan.neighbors.size && plan.radial.parts.size) {
    Scratch scratch(memory);
    const Neighbors<T> near(edges, plan.radial_reach, direction, scratch, gradient);
    radial<T, gradient>(plan, near, weights, scratch.functions, sums ? values : nullptr);
    if (gradient) near.add_gradient(by_vectors);
  }
  if (plan.pairs.size) {
    Scratch scratch(memory);
    const Neighbors<T> near(edges, plan.angular_reach, direction, scratch, gradient);
    angular<T, gradient, sums>(plan, near, weights, scratch, values);
    if (gradient) near.add_gradient(by_vectors);
  }
}

// Numbers of memory that belong to functions, and rows that belong to neighbors.
template <class T>
MLIP_HOST_DEVICE int64_t memory_of_functions(const SymmetryPlan& plan, int64_t n_species) {
  constexpr int64_t curve = sizeof(Curve<T>) / sizeof(V), arrays = 9;
  const int64_t curves = plan.windows.size + 2 * plan.parts.size + plan.angles.size;
  const int64_t numbers =
      lanes * (curve * curves + 3 * plan.most_terms) + plan.most_terms + 2 * n_species + 8 * arrays;
  return (numbers + 7) / 8 * 8;
}
template <class T>
MLIP_HOST_DEVICE int64_t rows_of_neighbors(const SymmetryPlan& plan) {
  return Neighbors<T>::rows + 1 + 2 * numbers_of<T> * plan.parts.size;
}

}  // namespace mlip::MLIP_ISA
