// Symmetry functions of one center, their gradient, and the derivatives of both along a direction.
#include "symmetry_functions.hpp"

#include "symmetry_neighbors.hpp"

namespace mlip::MLIP_ISA {
namespace {

// Radial functions: values (or their tangents) are added to `values`, gradients to those of the neighbors.
template <class T, bool gradient>
void radial(const SymmetryPlan& plan, const Neighbors<T>& near, const double* weights, Scratch scratch, double* values) {
  auto* const windows = scratch.vectors<Curve<T>>(plan.windows.size);
  auto* const parts = scratch.vectors<Curve<T>>(plan.parts.size);
  auto* const sums = scratch.vectors<T>(plan.most_terms);
  for (int64_t s = 0; s < near.edges.n_species; s++) {
    const auto& terms = plan.neighbors[s].terms;
    if (near.begin[s] == near.end[s] || terms.size == 0) continue;
    fill(sums, terms.size, constant<T>(0));
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
      for (int64_t n = 0; n < terms.size; n++) values[terms[n].column] += terms[n].weight * wanted(sums[n]);
  }
}

// What angular functions need of the neighbors and of the memory.
template <class T, bool gradient>
struct Angular {
  Angular(const SymmetryPlan& plan, const Neighbors<T>& near, Scratch scratch) : plan(plan), near(near) {
    windows = scratch.vectors<Curve<T>>(plan.windows.size);
    parts = scratch.vectors<Curve<T>>(plan.parts.size);
    angles = scratch.vectors<Curve<T>>(plan.angles.size);
    sums = scratch.vectors<T>(plan.most_terms);
    factors = scratch.vectors<V>(plan.most_terms);
    of_first = scratch.vectors<Curve<T>>(plan.parts.size);
    active = reinterpret_cast<int64_t*>(scratch.vectors<V>(plan.most_terms + 1));
    close = reinterpret_cast<int64_t*>(scratch.vectors<V>(near.size / lanes + 2));
    rows = scratch.vectors<T>(2 * plan.parts.size * (near.filled / lanes + 1)), row_length = near.filled / lanes + 1;
    // Vectors of neighbors that begin anywhere are loaded from rows of numbers.
    for (int64_t k = 0; k < near.filled; k += lanes) {
      distance_parts<gradient>(plan, plan.angular, near.r.load(k), windows, parts);
      for (const int32_t p : plan.angular.parts) {
        value(p).store(k, parts[p].value);
        if (gradient) slope(p).store(k, parts[p].slope);
      }
    }
  }
  MLIP_INLINE Row<T> value(int64_t p) const { return row(2 * p); }
  MLIP_INLINE Row<T> slope(int64_t p) const { return row(2 * p + 1); }

  const SymmetryPlan& plan;
  const Neighbors<T>& near;
  Curve<T> *windows, *parts, *angles;
  T* sums;
  V* factors;
  Curve<T>* of_first;
  int64_t *active, *close;

 private:
  MLIP_INLINE Row<T> row(int64_t k) const {
    return {reinterpret_cast<double*>(rows + k * row_length), row_length * lanes};
  }
  T* rows;
  int64_t row_length;
};

// Those from `begin` to `end` that are closer than `reach` to the neighbor j; a vector of dummies follows.
template <class T>
int64_t find_close(const Neighbors<T>& near, double reach, int64_t j, int64_t begin, int64_t end, int64_t* out) {
  const V x = vector(near.x.at[j]), y = vector(near.y.at[j]), z = vector(near.z.at[j]);
  int64_t count = 0;
  for (int64_t k = begin; k < end; k += lanes) {
    const V dx = load(near.x.at + k) - x, dy = load(near.y.at + k) - y, dz = load(near.z.at + k) - z;
    count += append_places(!(dx * dx + dy * dy + dz * dz >= reach * reach), k, out + count);
  }
  for (int lane = 0; lane < lanes; lane++) out[count + lane] = end + lane;
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
    const auto take = [&](const Row<T>& row) __attribute__((always_inline)) {
      if constexpr (packed)
        return row.gather(at.close + n);
      else
        return row.load(begin + n);
    };
    const auto give = [&](const Row<T>& row, const T& x) __attribute__((always_inline)) {
      if constexpr (packed)
        row.scatter_add(at.close + n, x);
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
      T* const sum = at.sums + group.first;
      const V* const factor = at.factors + group.first;
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
    const auto add = [&](const Row<T>& row, const T& x) {
      if constexpr (std::is_same_v<T, V>) {
        row.at[j] += sum_of_lanes(x);
      } else {
        row.at[j] += sum_of_lanes(x.value);
        row.at[row.size + j] += sum_of_lanes(x.tangent);
      }
    };
    add(near.gx, gx);
    add(near.gy, gy);
    add(near.gz, gz);
    add(near.gr, gr);
  }
}

// Angular functions: values (or their tangents) are added to `values`, gradients to those of the neighbors.
template <class T, bool gradient, bool sums>
void angular(const SymmetryPlan& plan, const Neighbors<T>& near, const double* weights, Scratch scratch,
             double* values) {
  const Angular<T, gradient> at(plan, near, scratch);
  for (const PairClass& pairs : plan.pairs) {
    const int64_t begin = near.begin[pairs.second], end = near.end[pairs.second];
    if (begin == end) continue;
    const View<Term>& terms = pairs.terms;
    if constexpr (sums) fill(at.sums, terms.size, constant<T>(0));
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
      for (int64_t n = 0; n < terms.size; n++) values[terms[n].column] += terms[n].weight * wanted(at.sums[n]);
  }
}

template <class T, bool gradient, bool sums>
void evaluate(const SymmetryPlan& plan, const CenterNeighbors& edges, const double* weights, const double* direction,
              double* memory, double* values, double* by_vectors) {
  if (plan.neighbors.size && plan.radial.parts.size) {
    Scratch scratch(memory);
    const Neighbors<T> near(edges, plan.radial_reach, direction, scratch, gradient);
    radial<T, gradient>(plan, near, weights, scratch, sums ? values : nullptr);
    if (gradient) near.add_gradient(by_vectors);
  }
  if (plan.pairs.size) {
    Scratch scratch(memory);
    const Neighbors<T> near(edges, plan.angular_reach, direction, scratch, gradient);
    angular<T, gradient, sums>(plan, near, weights, scratch, values);
    if (gradient) near.add_gradient(by_vectors);
  }
}

int64_t scratch(const SymmetryPlan& plan, int64_t count, int64_t n_species) {
  constexpr int64_t curve = sizeof(Curve<D>) / sizeof(double);
  const int64_t vectors = (count + (n_species + 1) * lanes) / lanes + 2;
  const int64_t parts = plan.windows.size + 2 * plan.parts.size + plan.angles.size;
  return memory_of_neighbors(count, n_species, 2) + curve * (parts + plan.parts.size * vectors) +
         (2 * lanes + lanes + lanes) * (plan.most_terms + 8) + lanes * vectors + 256;
}

void values(const SymmetryPlan& plan, const CenterNeighbors& neighbors, double* scratch, double* out) {
  evaluate<V, false, true>(plan, neighbors, nullptr, nullptr, scratch, out, nullptr);
}
void gradient(const SymmetryPlan& plan, const CenterNeighbors& neighbors, const double* weights, double* scratch,
              double* out) {
  evaluate<V, true, false>(plan, neighbors, weights, nullptr, scratch, nullptr, out);
}
void tangents(const SymmetryPlan& plan, const CenterNeighbors& neighbors, const double* weights,
              const double* direction, double* scratch, double* values, double* gradient) {
  if (gradient)
    evaluate<D, true, true>(plan, neighbors, weights, direction, scratch, values, gradient);
  else
    evaluate<D, false, true>(plan, neighbors, weights, direction, scratch, values, nullptr);
}

}  // namespace

extern const SymmetryKernels symmetry_kernels = {scratch, values, gradient, tangents};

}  // namespace mlip::MLIP_ISA
