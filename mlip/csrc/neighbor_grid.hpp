// The linked-cell grid of one structure: bins, stencil, and the distance that decides. Shared by CPU and CUDA.
#pragma once
#include <cmath>
#include <cstdint>
#include <vector>

#include "host_device.hpp"
#include "lattice.hpp"

namespace mlip {

// Where the atoms of a structure are: extremes of the fractional coordinates, largest |coordinate|.
struct Extent {
  double low[3], high[3], largest;
};

// Neighboring bins (dx, dy, z_first...z_last) relative to a bin.
struct StencilRow {
  int32_t dx, dy, z_first, z_last;
};

struct Grid {
  int64_t first_atom, last_atom;
  int64_t first_bin, n_bins;      // bins are virtual: only occupied ones take memory
  int64_t first_row, last_row;    // of the stencil
  int32_t n[3], reach[3];         // bins and reach of the stencil along each axis
  int32_t periodic[3];
  int32_t transform[9];           // image counts of the reduced lattice -> of the cell
  double cell[9];                 // rows of open axes are zero
  double inverse[9], low[3], scale[3];  // bin coordinate = (position · inverse - low - wraps) * scale
  double bin_vectors[9];          // edges of a bin
  float inner, outer;             // squared float32 distances below `inner` are inside, above `outer` outside
  bool narrow;                    // all shifts and wraps are within -127...127
};

// |r_j - r_i + S·cell|². Every intermediate result changes its sign exactly with (i, j, S) -> (j, i, -S), so the list
// is symmetric; this file is compiled without fused multiply-add so that all devices and backends agree.
template <class Real>
MLIP_HOST_DEVICE double squared_distance(const Real* ri, const Real* rj, const int64_t* shift, const double* cell) {
  double sum = 0;
  for (int d = 0; d < 3; d++) {
    const double image = (static_cast<double>(shift[0]) * cell[d] + static_cast<double>(shift[1]) * cell[3 + d]) +
                         static_cast<double>(shift[2]) * cell[6 + d];
    const double along = (static_cast<double>(rj[d]) - static_cast<double>(ri[d])) + image;
    sum = d == 0 ? along * along : sum + along * along;
  }
  return sum;
}

// Image counts along the reduced lattice -> along the cell.
MLIP_HOST_DEVICE void cell_image(const Grid& grid, const int32_t* image, int32_t* out) {
  for (int d = 0; d < 3; d++) {
    const int32_t* t = grid.transform + d;
    out[d] = image[0] * t[0] + image[1] * t[3] + image[2] * t[6];
  }
}

// Bin of an atom (three numbers), its place inside the bin (0 to 1) and how often it was wrapped into the cell.
template <class Real>
MLIP_HOST_DEVICE void locate(const Grid& grid, const Real* r, int32_t* bin, double* inside, int32_t* wrap) {
  int32_t reduced[3];
  for (int a = 0; a < 3; a++) {
    const double* m = grid.inverse + a;
    const double fractional = static_cast<double>(r[0]) * m[0] + static_cast<double>(r[1]) * m[3] +
                              static_cast<double>(r[2]) * m[6] - grid.low[a];
    reduced[a] = 0;
    if (grid.periodic[a]) {
      const auto truncated = static_cast<int32_t>(fractional);
      reduced[a] = truncated - (fractional < truncated);
    }
    const double place = (fractional - reduced[a]) * grid.scale[a];
    const auto whole = static_cast<int32_t>(place);
    bin[a] = whole < 0 ? 0 : whole < grid.n[a] ? whole : grid.n[a] - 1;  // rounding may reach beyond the ends
    inside[a] = place - bin[a];
  }
  cell_image(grid, reduced, wrap);
}

MLIP_HOST_DEVICE int64_t bin_number(const Grid& grid, int32_t x, int32_t y, int32_t z) {
  return grid.first_bin + (static_cast<int64_t>(x) * grid.n[1] + y) * grid.n[2] + z;
}

// Brings a bin coordinate back into the grid: number of images crossed, or false outside an open axis.
MLIP_HOST_DEVICE bool fold(const Grid& grid, int axis, int32_t& bin, int32_t& image) {
  const int32_t n = grid.n[axis];
  image = 0;
  if (bin >= 0 && bin < n) return true;
  if (!grid.periodic[axis]) return false;
  image = bin / n - (bin % n < 0);
  bin -= image * n;
  return true;
}

// All grids of a batch and the stencil rows they use.
struct Grids {
  std::vector<Grid> of;
  std::vector<StencilRow> rows;
  int64_t n_bins = 0;

  void add(const Lattice& lattice, const Extent& extent, int64_t first_atom, int64_t last_atom, double cutoff);

 private:
  void add_stencil(Grid& grid, double slack);
};

// Number of pairs that a batch has if its atoms are spread evenly; a lower limit is enough to refuse absurd input.
double expected_pairs(const Lattice& lattice, int64_t n_atoms, double cutoff);

}  // namespace mlip
