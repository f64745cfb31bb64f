// Symmetry functions of one center, their gradient, and the derivatives of both along a direction.
//
// Neighbors lie sorted by element, one coordinate after the other; a vector holds several of them. Behind those of an
// element there is a vector of dummies beyond all cutoffs, so that no lane needs a mask.
#include "symmetry_functions.hpp"

#include "symmetry_parts.hpp"

namespace mlip::MLIP_ISA {
namespace {

constexpr int lanes = width<double>;
constexpr double far_away = 1e6;  // Å, of dummies

// Numbers that lie one after the other; of dual numbers the values, then the tangents.
template <class T>
struct Row {
  double* at;
  int64_t size;

  MLIP_INLINE T load(int64_t k) const {
    if constexpr (std::is_same_v<T, V>)
      return mlip::MLIP_ISA::load(at + k);
    else
      return {mlip::MLIP_ISA::load(at + k), mlip::MLIP_ISA::load(at + size + k)};
  }
  // The k-th number in all lanes.
  MLIP_INLINE T broadcast(int64_t k) const {
    if constexpr (std::is_same_v<T, V>)
      return vector(at[k]);
    else
      return {vector(at[k]), vector(at[size + k])};
  }
  MLIP_INLINE void store(int64_t k, const T& x) const {
    if constexpr (std::is_same_v<T, V>) {
      mlip::MLIP_ISA::store(at + k, x);
    } else {
      mlip::MLIP_ISA::store(at + k, x.value);
      mlip::MLIP_ISA::store(at + size + k, x.tangent);
    }
  }
  MLIP_INLINE void add(int64_t k, const T& x) const { store(k, load(k) + x); }

  // The same of numbers that lie anywhere.
  MLIP_INLINE T gather(const int64_t* places) const {
    T out{};
    for (int lane = 0; lane < lanes; lane++) {
      if constexpr (std::is_same_v<T, V>) {
        out[lane] = at[places[lane]];
      } else {
        out.value[lane] = at[places[lane]];
        out.tangent[lane] = at[size + places[lane]];
      }
    }
    return out;
  }
  MLIP_INLINE void scatter_add(const int64_t* places, const T& x) const {
    for (int lane = 0; lane < lanes; lane++) {
      if constexpr (std::is_same_v<T, V>) {
        at[places[lane]] += x[lane];
      } else {
        at[places[lane]] += x.value[lane];
        at[size + places[lane]] += x.tangent[lane];
      }
    }
  }
};

template <class T>
constexpr int64_t numbers_of = sizeof(T) / sizeof(double) / lanes;  // for each lane

template <class Number>
MLIP_INLINE void fill(Number* to, int64_t count, const Number& value) {
  for (int64_t k = 0; k < count; k++) to[k] = value;
}
MLIP_INLINE double sum_of_lanes(V x) {
  double sum = 0;
  for (int k = 0; k < lanes; k++) sum += x[k];
  return sum;
}
// What is wanted of a number: itself, or its tangent.
MLIP_INLINE double wanted(V x) { return sum_of_lanes(x); }
MLIP_INLINE double wanted(const D& x) { return sum_of_lanes(x.tangent); }

// Hands out parts of the memory of a center, aligned to vectors.
class Scratch {
 public:
  MLIP_INLINE explicit Scratch(double* at) : at_(at) {}
  template <class T>
  MLIP_INLINE Row<T> row(int64_t size) {
    return {take(numbers_of<T> * size), size};
  }
  template <class T>
  MLIP_INLINE T* vectors(int64_t count) {
    return reinterpret_cast<T*>(take(count * static_cast<int64_t>(sizeof(T) / sizeof(double))));
  }

 private:
  MLIP_INLINE double* take(int64_t numbers) {
    double* const from = at_;
    at_ += (numbers + 7) / 8 * 8;
    return from;
  }
  double* at_;
};

// Neighbors within reach, and the gradient by them: by their vectors, and by their distances on its own.
template <class T>
struct Neighbors {
  // Sorts those of the edges that are closer than `reach`; `direction` are the tangents of their vectors.
  Neighbors(const CenterNeighbors& edges, double reach, const double* direction, Scratch& scratch, bool gradient)
      : edges(edges) {
    size = (edges.count + (edges.n_species + 1) * lanes + 7) / 8 * 8;
    begin = reinterpret_cast<int64_t*>(scratch.vectors<V>((2 * edges.n_species + lanes) / lanes + 1));
    end = begin + edges.n_species;
    edge = reinterpret_cast<int64_t*>(scratch.vectors<V>(size / lanes + 1));
    for (auto* const row : {&x, &y, &z, &r, &inverse_r}) *row = scratch.row<T>(size);
    if (gradient)
      for (auto* const row : {&gx, &gy, &gz, &gr}) {
        *row = scratch.row<T>(size);
        fill(row->at, numbers_of<T> * size, 0.0);
      }
    sort(reach * reach, direction);
    for (int64_t k = 0; k < filled; k += lanes) {
      const T a = x.load(k), b = y.load(k), c = z.load(k), distance = root(a * a + b * b + c * c);
      r.store(k, distance);
      inverse_r.store(k, inverse(distance));
    }
  }

  void sort(double limit, const double* direction) {
    const auto is_near = [&](int64_t e) {
      const double* v = edges.vectors + 3 * e;
      return !(v[0] * v[0] + v[1] * v[1] + v[2] * v[2] >= limit * (1 + 1e-12));
    };
    fill(begin, edges.n_species, int64_t{0});
    for (int64_t e = 0; e < edges.count; e++) begin[edges.species[e]] += is_near(e);
    filled = 0;
    for (int64_t s = 0; s < edges.n_species; s++) {
      const int64_t count = begin[s];
      begin[s] = end[s] = filled;
      filled += count ? count + lanes : 0;
    }
    for (int64_t k = 0; k < filled + lanes && k < size; k++) place(k, -1, nullptr, nullptr);
    for (int64_t e = 0; e < edges.count; e++)
      if (is_near(e))
        place(end[edges.species[e]]++, e, edges.vectors + 3 * e, direction ? direction + 3 * e : nullptr);
  }

  void place(int64_t k, int64_t e, const double* vector, const double* tangent) {
    edge[k] = e;
    for (int d = 0; d < 3; d++) {
      const Row<T>& row = d == 0 ? x : d == 1 ? y : z;
      row.at[k] = vector ? vector[d] : far_away;
      if constexpr (!std::is_same_v<T, V>) row.at[size + k] = tangent ? tangent[d] : 0.0;
    }
  }

  // Adds the gradients by the vectors, or their tangents, to those of the edges.
  void add_gradient(double* out) const {
    for (int64_t k = 0; k < filled; k += lanes) {
      const T along = gr.load(k) * inverse_r.load(k);
      gx.add(k, along * x.load(k));
      gy.add(k, along * y.load(k));
      gz.add(k, along * z.load(k));
    }
    const int64_t from = (numbers_of<T> - 1) * size;
    for (int64_t s = 0; s < edges.n_species; s++)
      for (int64_t k = begin[s]; k < end[s]; k++) {
        out[3 * edge[k]] += gx.at[from + k];
        out[3 * edge[k] + 1] += gy.at[from + k];
        out[3 * edge[k] + 2] += gz.at[from + k];
      }
  }

  CenterNeighbors edges;
  int64_t size, filled = 0;
  int64_t *begin, *end;  // of the neighbors of each element
  int64_t* edge;         // which one each is
  Row<T> x, y, z, r, inverse_r;
  Row<T> gx, gy, gz, gr;
};

// Numbers of memory that neighbors take.
int64_t memory_of_neighbors(int64_t count, int64_t n_species, int64_t numbers) {
  const int64_t size = count + (n_species + 1) * lanes + 16;
  return 9 * numbers * (size + 8) + 2 * size + 2 * n_species + 8 * lanes;
}

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
