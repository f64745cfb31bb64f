#include "neighbor_grid.hpp"

#include <limits>

namespace mlip {
namespace {

constexpr double atoms_per_bin = 12;           // enough to fill vectors, few enough to skip most of the far atoms
constexpr double largest_bin_count = 1 << 20;  // along one axis
constexpr double largest_stencil = 1 << 26;    // bins; more means about as many pairs for each atom
constexpr int64_t largest_shift = 1 << 29;     // sums of a few stay within int32
constexpr double rounding = 32 * std::numeric_limits<double>::epsilon() / 2;

[[noreturn]] void refuse_shift() {
  throw std::invalid_argument("neighbor_list: positions lie too far outside the cell, or the cell is too sheared");
}

// Width of a bin in Å: about the cutoff, or what holds `atoms_per_bin` on average.
double bin_width(const double* extents, const Lattice& lattice, int64_t n_atoms, double cutoff) {
  double volume = 1;
  for (int a = 0; a < 3; a++) volume *= lattice.periodic[a] ? extents[a] : std::max(extents[a], 0.5 * cutoff);
  const double in_cutoff_cube = static_cast<double>(n_atoms) / volume * cutoff * cutoff * cutoff;
  double factor = std::cbrt(atoms_per_bin / in_cutoff_cube);
  if (factor < 1 && in_cutoff_cube < 5 * atoms_per_bin) factor = 1;  // bins a little below the cutoff do not pay
  return cutoff * std::min(2.5, std::max(0.25, factor)) * (1 + 1e-6);
}

// Bound of the shifts and of the wraps, which are counted from the cell of the lowest atom.
double largest_shift_of(const Grid& grid, const Lattice& lattice, const Extent& extent) {
  double largest = 0;
  for (int d = 0; d < 3; d++) {
    double sum = 0;
    for (int a = 0; a < 3; a++) {
      if (!lattice.periodic[a]) continue;
      const double wraps = extent.high[a] - grid.low[a] + 2;
      const double images = (grid.reach[a] + grid.n[a]) / grid.n[a] + 1;
      sum += std::fabs(static_cast<double>(lattice.transform[3 * a + d])) * (wraps + images);
    }
    largest = std::max(largest, sum);
  }
  if (!(largest < static_cast<double>(largest_shift))) refuse_shift();
  return largest;
}

}  // namespace

double expected_pairs(const Lattice& lattice, int64_t n_atoms, double cutoff) {
  if (!lattice.periodic[0] || !lattice.periodic[1] || !lattice.periodic[2]) return 0;
  const double density = static_cast<double>(n_atoms) / (lattice.height[0] * lattice.length[1] * lattice.length[2]);
  return static_cast<double>(n_atoms) * density * 4.18879 * cutoff * cutoff * cutoff;
}

void Grids::add(const Lattice& lattice, const Extent& extent, int64_t first_atom, int64_t last_atom, double cutoff) {
  Grid grid{};
  grid.first_atom = first_atom;
  grid.last_atom = last_atom;
  grid.first_bin = n_bins;
  const double largest = extent.largest * std::sqrt(3.0);
  double extents[3];
  for (int a = 0; a < 3; a++)
    extents[a] = (lattice.periodic[a] ? 1.0 : extent.high[a] - extent.low[a]) * lattice.height[a];
  const double width = bin_width(extents, lattice, std::max<int64_t>(1, last_atom - first_atom), cutoff);

  double float_span = 0, slack = 0;  // sizes of the numbers kept in float32; error of a distance along one axis
  double stencil = 1;
  grid.n_bins = 1;
  for (int a = 0; a < 3; a++) {
    const double height = lattice.height[a], length = lattice.length[a];
    grid.periodic[a] = lattice.periodic[a];
    grid.n[a] = static_cast<int32_t>(std::min(largest_bin_count, std::max(1.0, std::floor(extents[a] / width))));
    grid.n_bins *= grid.n[a];
    grid.low[a] = lattice.periodic[a] ? std::floor(extent.low[a]) : extent.low[a];
    grid.scale[a] = lattice.periodic[a] ? grid.n[a] : grid.n[a] * height / std::max(extents[a], 1e-3 * cutoff);
    const double relative_error = rounding * (largest / height + 1);  // of a fractional coordinate
    const double bins_in_reach = (cutoff / height * (1 + 1e-7) + 2 * relative_error) * grid.scale[a];
    double reach = std::ceil(bins_in_reach);
    if (!lattice.periodic[a]) reach = std::min(reach, grid.n[a] - 1.0);
    stencil *= 2 * reach + 1;
    if (!(stencil < largest_stencil))
      throw std::invalid_argument("neighbor_list: the cutoff gives more pairs than memory can hold in so small a cell");
    grid.reach[a] = static_cast<int32_t>(reach);
    for (int d = 0; d < 3; d++) grid.bin_vectors[3 * a + d] = lattice.vectors[3 * a + d] / grid.scale[a];
    const double bin_length = length / grid.scale[a];
    float_span += bin_length * (8 * reach + 6);
    slack += relative_error * length;
    for (int b = 0; b < 3; b++) {
      const double vector = norm(lattice.cell + 3 * b), count = static_cast<double>(lattice.transform[3 * a + b]);
      slack += rounding * std::fabs(count) * vector * (reach + 3 + 2 * largest / height);
    }
  }
  grid.narrow = largest_shift_of(grid, lattice, extent) <= 127;
  for (int k = 0; k < 9; k++) {
    grid.cell[k] = lattice.cell[k];
    grid.inverse[k] = lattice.inverse[k];
    grid.transform[k] = static_cast<int32_t>(lattice.transform[k]);
  }
  slack += float_span * std::numeric_limits<float>::epsilon() / 2;
  const double far = cutoff + std::sqrt(3.0) * slack, near = std::max(0.0, cutoff - std::sqrt(3.0) * slack);
  grid.outer = std::max(static_cast<float>(far * far * (1 + 1e-6)), std::numeric_limits<float>::min());
  grid.inner = static_cast<float>(near * near * (1 - 1e-6));
  if (n_bins > (int64_t{1} << 62) - grid.n_bins)
    throw std::invalid_argument("neighbor_list: the structures of the batch extend too far");
  n_bins += grid.n_bins;
  add_stencil(grid, slack);
  of.push_back(grid);
}

// Keeps the bins whose bounding boxes come within the cutoff of each other.
void Grids::add_stencil(Grid& grid, double slack) {
  const double* v = grid.bin_vectors;
  double box[3];
  for (int d = 0; d < 3; d++) box[d] = (std::fabs(v[d]) + std::fabs(v[3 + d]) + std::fabs(v[6 + d])) * (1 + 1e-6) + slack;
  grid.first_row = static_cast<int64_t>(rows.size());
  for (int32_t dx = -grid.reach[0]; dx <= grid.reach[0]; dx++) {
    for (int32_t dy = -grid.reach[1]; dy <= grid.reach[1]; dy++) {
      StencilRow row{dx, dy, 1, 0};
      for (int32_t dz = -grid.reach[2]; dz <= grid.reach[2]; dz++) {
        double gap = 0;
        for (int d = 0; d < 3; d++) {
          const double apart = std::max(0.0, std::fabs(dx * v[d] + dy * v[3 + d] + dz * v[6 + d]) - box[d]);
          gap += apart * apart;
        }
        if (!(gap < grid.outer)) continue;
        if (row.z_first > row.z_last) row.z_first = dz;
        row.z_last = dz;
      }
      if (row.z_first <= row.z_last) rows.push_back(row);
    }
  }
  grid.last_row = static_cast<int64_t>(rows.size());
}

}  // namespace mlip
