// Lattice vectors as the neighbor search wants them: reduced, complete and inverted.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>

namespace mlip {

inline double dot(const double* a, const double* b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }
inline double norm(const double* a) { return std::sqrt(dot(a, a)); }
inline void cross(const double* a, const double* b, double* out) {
  out[0] = a[1] * b[2] - a[2] * b[1];
  out[1] = a[2] * b[0] - a[0] * b[2];
  out[2] = a[0] * b[1] - a[1] * b[0];
}
inline void normalize(double* a) {
  const double length = norm(a);
  for (int d = 0; d < 3; d++) a[d] /= length;
}

// Rows of `vectors` span the same lattice as the periodic rows of the cell, but are as short as pairwise reduction
// makes them (so that a sheared cell needs few images): vectors = transform · cell. Open axes are completed by unit
// vectors orthogonal to the rest.
struct Lattice {
  double cell[9];  // rows of open axes are zero
  double vectors[9];
  double inverse[9];  // fractional coordinates are position · inverse
  int64_t transform[9];
  double height[3];  // distance between the lattice planes of each axis
  double length[3];
  bool periodic[3];
};

constexpr double largest_transform = 1e8;
constexpr double smallest_relative_volume = 1e-13;

[[noreturn]] inline void refuse_lattice() {
  throw std::invalid_argument(
      "neighbor_list: expected linearly independent, finite lattice vectors along the periodic axes");
}

// Subtracts integer multiples of the periodic vectors from each other while that shortens them.
inline void reduce(Lattice& lattice) {
  double* v = lattice.vectors;
  bool changed = true;
  for (int sweep = 0; changed && sweep < 200; sweep++) {
    changed = false;
    for (int a = 0; a < 3; a++) {
      for (int b = 0; b < 3; b++) {
        if (a == b || !lattice.periodic[a] || !lattice.periodic[b]) continue;
        const double multiple = std::nearbyint(dot(v + 3 * a, v + 3 * b) / dot(v + 3 * b, v + 3 * b));
        if (multiple == 0 || !(std::fabs(multiple) < largest_transform)) continue;
        double shorter[3];
        for (int d = 0; d < 3; d++) shorter[d] = v[3 * a + d] - multiple * v[3 * b + d];
        if (!(dot(shorter, shorter) < dot(v + 3 * a, v + 3 * a) * (1 - 1e-9))) continue;
        for (int d = 0; d < 3; d++) {
          v[3 * a + d] = shorter[d];
          lattice.transform[3 * a + d] -= static_cast<int64_t>(multiple) * lattice.transform[3 * b + d];
          if (std::fabs(static_cast<double>(lattice.transform[3 * a + d])) > largest_transform) refuse_lattice();
        }
        changed = true;
      }
    }
  }
  for (int a = 0; a < 3; a++) {  // again from the transform, free of accumulated rounding
    if (!lattice.periodic[a]) continue;
    for (int d = 0; d < 3; d++) {
      v[3 * a + d] = 0;
      for (int b = 0; b < 3; b++)
        v[3 * a + d] += static_cast<double>(lattice.transform[3 * a + b]) * lattice.cell[3 * b + d];
    }
  }
}

// Gives each open axis a unit vector orthogonal to all others.
inline void complete(Lattice& lattice) {
  double* v = lattice.vectors;
  const int n_periodic = lattice.periodic[0] + lattice.periodic[1] + lattice.periodic[2];
  if (n_periodic == 0) {
    for (int k = 0; k < 9; k++) v[k] = k % 4 == 0;
  } else if (n_periodic == 1) {
    const int axis = lattice.periodic[0] ? 0 : lattice.periodic[1] ? 1 : 2;
    const double* along = v + 3 * axis;
    int smallest = 0;
    for (int d = 1; d < 3; d++) smallest = std::fabs(along[d]) < std::fabs(along[smallest]) ? d : smallest;
    double unit[3] = {0, 0, 0};
    unit[smallest] = 1;
    double* second = v + 3 * ((axis + 1) % 3);
    double* third = v + 3 * ((axis + 2) % 3);
    cross(along, unit, second);
    normalize(second);
    cross(along, second, third);
    normalize(third);
  } else if (n_periodic == 2) {
    const int axis = !lattice.periodic[0] ? 0 : !lattice.periodic[1] ? 1 : 2;
    cross(v + 3 * ((axis + 1) % 3), v + 3 * ((axis + 2) % 3), v + 3 * axis);
    if (!(norm(v + 3 * axis) > 0)) refuse_lattice();
    normalize(v + 3 * axis);
  }
}

inline Lattice make_lattice(const double* cell, const bool* pbc) {
  Lattice lattice{};
  for (int a = 0; a < 3; a++) {
    lattice.periodic[a] = pbc[a];
    lattice.transform[4 * a] = 1;
    if (!pbc[a]) continue;
    for (int d = 0; d < 3; d++) lattice.cell[3 * a + d] = lattice.vectors[3 * a + d] = cell[3 * a + d];
    const double squared = dot(cell + 3 * a, cell + 3 * a);
    if (!(squared > 0 && std::isfinite(squared))) refuse_lattice();
  }
  reduce(lattice);
  complete(lattice);
  const double *a = lattice.vectors, *b = a + 3, *c = a + 6;
  double planes[3][3];
  cross(b, c, planes[0]);
  cross(c, a, planes[1]);
  cross(a, b, planes[2]);
  const double volume = dot(a, planes[0]);
  if (!(std::fabs(volume) > smallest_relative_volume * norm(a) * norm(b) * norm(c))) refuse_lattice();
  for (int k = 0; k < 3; k++) {
    for (int d = 0; d < 3; d++) lattice.inverse[3 * d + k] = planes[k][d] / volume;
    lattice.height[k] = std::fabs(volume) / norm(planes[k]);
    lattice.length[k] = norm(lattice.vectors + 3 * k);
  }
  return lattice;
}

}  // namespace mlip
