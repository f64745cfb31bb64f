// The neighbors of a center in rows of numbers, for symmetry functions.
//
// They lie sorted by element, one coordinate after the other; a vector holds several of them. Behind those of an element
// there is a vector of dummies beyond all cutoffs, so that no lane needs a mask.
#pragma once
#include "symmetry_parts.hpp"

namespace mlip::MLIP_ISA {

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
inline int64_t memory_of_neighbors(int64_t count, int64_t n_species, int64_t numbers) {
  const int64_t size = count + (n_species + 1) * lanes + 16;
  return 9 * numbers * (size + 8) + 2 * size + 2 * n_species + 8 * lanes;
}

}  // namespace mlip::MLIP_ISA
