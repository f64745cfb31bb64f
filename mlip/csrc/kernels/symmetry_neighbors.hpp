// The neighbors of a center in rows of numbers, for symmetry functions.
//
// They lie sorted by element, one coordinate after the other; several are loaded at once, one into each lane. Behind those
// of an element there are dummies for all lanes, beyond all cutoffs, so that no lane needs a mask.
#pragma once
#include "symmetry_parts.hpp"

namespace mlip::MLIP_ISA {

constexpr double far_away = 1e6;  // Å, of dummies

template <class T>
constexpr int64_t numbers_of = std::is_same_v<T, V> ? 1 : 2;  // for each lane

// Numbers that lie one after the other; of dual numbers the values, then the tangents.
template <class T>
struct Row {
  double* at;
  int64_t size;

  MLIP_INLINE T load(int64_t k) const {
    if constexpr (std::is_same_v<T, V>)
      return load_lanes(at + k);
    else
      return {load_lanes(at + k), load_lanes(at + size + k)};
  }
  // The k-th number in all lanes.
  MLIP_INLINE T broadcast(int64_t k) const {
    if constexpr (std::is_same_v<T, V>)
      return vector(at[k]);
    else
      return {vector(at[k]), vector(at[size + k])};
  }
  MLIP_INLINE void store(int64_t k, const T& x) const {
    store_lanes(at + k, value_of(x));
    if constexpr (!std::is_same_v<T, V>) store_lanes(at + size + k, x.tangent);
  }
  MLIP_INLINE void add(int64_t k, const T& x) const { store(k, load(k) + x); }

  // The same of numbers that lie anywhere.
  MLIP_INLINE T gather_from(const int64_t* places) const {
    if constexpr (std::is_same_v<T, V>)
      return gather(at, places);
    else
      return {gather(at, places), gather(at + size, places)};
  }
  MLIP_INLINE void add_to(const int64_t* places, const T& x) const {
    scatter_add(at, places, value_of(x));
    if constexpr (!std::is_same_v<T, V>) scatter_add(at + size, places, x.tangent);
  }
  // The sum over the lanes of x, to the k-th number.
  MLIP_INLINE void add_sum(int64_t k, const T& x) const {
    add_once(at[k], sum_of_lanes(value_of(x)));
    if constexpr (!std::is_same_v<T, V>) add_once(at[size + k], sum_of_lanes(x.tangent));
  }
};

template <class T>
MLIP_INLINE void fill(LaneArray<T> to, int64_t count, const T& value) {
  for (int64_t k = 0; k < count; k++) to[k] = value;
}
// What is wanted of a number: itself, or its tangent.
MLIP_INLINE double wanted(V x) { return sum_of_lanes(x); }
MLIP_INLINE double wanted(const D& x) { return sum_of_lanes(x.tangent); }

// Hands out parts of some memory, aligned to vectors.
class Memory {
 public:
  MLIP_INLINE explicit Memory(double* at) : at_(at) {}
  template <class T>
  MLIP_INLINE Row<T> row(int64_t size) {
    return {take(numbers_of<T> * size), size};
  }
  template <class T>
  MLIP_INLINE LaneArray<T> array(int64_t count) {
    return lane_array<T>(take(count * lanes * static_cast<int64_t>(sizeof(T) / sizeof(V))));
  }
  MLIP_INLINE int64_t* integers(int64_t count) { return reinterpret_cast<int64_t*>(take(count)); }

 private:
  MLIP_INLINE double* take(int64_t numbers) {
    double* const from = at_;
    at_ += (numbers + 7) / 8 * 8;
    return from;
  }
  double* at_;
};

// The memory of a center: for what belongs to functions, and for what belongs to neighbors.
struct Scratch {
  Memory functions, neighbors;
};

// Numbers in a row of neighbors.
MLIP_HOST_DEVICE int64_t row_size(int64_t count, int64_t n_species) {
  return (count + (n_species + 1) * lanes + 7) / 8 * 8;
}

// Neighbors within reach, and the gradient by them: by their vectors, and by their distances on its own.
template <class T>
struct Neighbors {
  static constexpr int64_t rows = 9 * numbers_of<T> + 1;  // of memory

  // Sorts those of the edges that are closer than `reach`; `direction` are the tangents of their vectors.
  MLIP_INLINE Neighbors(const CenterNeighbors& edges, double reach, const double* direction, Scratch& scratch,
                        bool gradient)
      : edges(edges), size(row_size(edges.count, edges.n_species)) {
    begin = scratch.functions.integers(edges.n_species);
    end = scratch.functions.integers(edges.n_species);
    edge = scratch.neighbors.integers(size);
    for (Row<T>* const row : {&x, &y, &z, &r, &inverse_r}) *row = scratch.neighbors.template row<T>(size);
    if (gradient)
      for (Row<T>* const row : {&gx, &gy, &gz, &gr}) {
        *row = scratch.neighbors.template row<T>(size);
        double* const at = row->at;
        for_each(numbers_of<T> * size, [=](int64_t k) { at[k] = 0; });
      }
    sort(reach * reach * (1 + 1e-12), direction);
    settle();
    for (int64_t k = 0; k < filled; k += lanes) {
      const T a = x.load(k), b = y.load(k), c = z.load(k), distance = root(a * a + b * b + c * c);
      r.store(k, distance);
      inverse_r.store(k, inverse(distance));
    }
    settle();
  }

  // Adds the gradients by the vectors, or their tangents, to those of the edges.
  MLIP_INLINE void add_gradient(double* out) const {
    settle();
    for (int64_t k = 0; k < filled; k += lanes) {
      const T along = gr.load(k) * inverse_r.load(k);
      gx.add(k, along * x.load(k));
      gy.add(k, along * y.load(k));
      gz.add(k, along * z.load(k));
    }
    settle();
    const int64_t from = (numbers_of<T> - 1) * size;
    for (int64_t s = 0; s < edges.n_species; s++)
      for_each(end[s] - begin[s], [&](int64_t n) {
        const int64_t k = begin[s] + n;
        out[3 * edge[k]] += gx.at[from + k];
        out[3 * edge[k] + 1] += gy.at[from + k];
        out[3 * edge[k] + 2] += gz.at[from + k];
      });
    settle();
  }

  CenterNeighbors edges;
  int64_t size, filled = 0;
  int64_t *begin, *end;  // of the neighbors of each element
  int64_t* edge;         // which one each is
  Row<T> x, y, z, r, inverse_r;
  Row<T> gx, gy, gz, gr;

 private:
  MLIP_INLINE void sort(double limit, const double* direction) {
    for (int64_t s = 0; s < edges.n_species; s++) {
      begin[s] = filled;
      filled = choose(
          edges.count, filled,
          [&](int64_t e) {
            const double* v = edges.vectors + 3 * e;
            return edges.species[e] == s && !(v[0] * v[0] + v[1] * v[1] + v[2] * v[2] >= limit);
          },
          [&](int64_t e, int64_t k) { place(k, e, edges.vectors + 3 * e, direction ? direction + 3 * e : nullptr); });
      end[s] = filled;
      if (begin[s] < end[s]) add_dummies(filled), filled += lanes;
    }
    add_dummies(filled);  // vectors of all neighbors may end behind them
  }
  MLIP_INLINE void add_dummies(int64_t first) {
    for_each(lanes, [&](int64_t lane) { place(first + lane, -1, nullptr, nullptr); });
  }
  MLIP_INLINE void place(int64_t k, int64_t e, const double* vector, const double* tangent) {
    edge[k] = e;
    for (int d = 0; d < 3; d++) {
      const Row<T>& row = d == 0 ? x : d == 1 ? y : z;
      row.at[k] = vector ? vector[d] : far_away;
      if constexpr (!std::is_same_v<T, V>) row.at[size + k] = tangent ? tangent[d] : 0.0;
    }
  }
};

}  // namespace mlip::MLIP_ISA
