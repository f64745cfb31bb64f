// The operator `mlip::neighbor_list` on the CPU: linked cells, O(N).
//
// For each occupied bin the atoms of the surrounding bins that may be in reach are packed once, in float32 relative to
// the bin; two sweeps (count, fill) test them against the atoms of the bin. Pairs too close to the cutoff for float32
// are decided in double from the positions as given. Bins are independent of each other and every center has a row of
// its own to write to, so the result does not depend on the number of threads.
#include "neighbor_list.hpp"

#include <atomic>
#include <limits>

#include "binned_atoms.hpp"
#include "memory.hpp"
#include "simd.hpp"

namespace mlip {

namespace {

constexpr int64_t bins_per_task = 16;
constexpr double usable_memory = 0.9;

// Atoms that may be in reach of the atoms of one bin.
struct Candidates {
  struct Identity {
    int32_t atom, shift[3];  // the shift lacks the wrap of the center
  };
  std::vector<float> x, y, z;
  std::vector<Identity> identity;
  std::vector<int32_t> hits;
  int32_t count = 0;
  int32_t first_center = 0;  // the atoms of the bin itself are first_center, first_center + 1, ...

  Points points() const { return {x.data(), y.data(), z.data(), count}; }

  void make_room(int32_t more) {
    const auto need = static_cast<size_t>(count) + static_cast<size_t>(more) + block;
    if (need <= hits.size()) return;
    for (auto* coordinate : {&x, &y, &z}) coordinate->resize(2 * need);
    identity.resize(2 * need);
    hits.resize(2 * need);
  }

  // Appends the atoms first...last of a bin, moved by `offset`, that come close enough to the box of the centers.
  void append(const BinnedAtoms& atoms, int32_t first, int32_t last, const float* offset, const int32_t* image,
              Box box, float outer) {
    make_room(last - first);
    for (int d = 0; d < 3; d++) {
      box.low[d] -= offset[d];
      box.high[d] -= offset[d];
    }
    const Points bin{atoms.x.data() + first, atoms.y.data() + first, atoms.z.data() + first, last - first};
    const int32_t n_near = find_near(bin, box, outer, hits.data());
    for (int32_t k = 0; k < n_near; k++) {
      const int32_t p = first + hits[k], c = count + k;
      x[c] = atoms.x[p] + offset[0];
      y[c] = atoms.y[p] + offset[1];
      z[c] = atoms.z[p] + offset[2];
      const auto& wrap = atoms.wrap[p];
      identity[c] = {atoms.atom[p], {image[0] - wrap[0], image[1] - wrap[1], image[2] - wrap[2]}};
    }
    count += n_near;
  }

  // Fills the last block with what is never inside.
  void finish() {
    for (auto* coordinate : {&x, &y, &z})
      std::fill_n(coordinate->begin() + count, block, std::numeric_limits<float>::quiet_NaN());
  }
};

template <class Real>
class Search {
 public:
  explicit Search(const Arguments& args)
      : n_atoms_(args.n_atoms), positions_(args.positions.data<Real>()), cutoff_squared_(args.cutoff * args.cutoff),
        free_bytes_(usable_memory * free_memory()), grids_(grids(args)), atoms_(positions_, n_atoms_, grids_) {}

  // The list holds the neighbors of center i in rows[i] to rows[i + 1].
  std::vector<int64_t> rows() const {
    std::vector<int64_t> row(static_cast<size_t>(n_atoms_) + 1, 0);
    std::atomic<int64_t> total{0};
    for_each_bin([&](const Grid& grid, Candidates& near, int32_t first, int32_t last) {
      for (int32_t p = first; p < last; p++) {
        const int64_t found = row[atoms_.atom[p] + 1] = count(grid, near, first, p);
        require_room(static_cast<double>(total += found), free_bytes_);
      }
    });
    std::partial_sum(row.begin(), row.end(), row.begin());
    return row;
  }

  void fill(const std::vector<int64_t>& row, int64_t* centers, int64_t* neighbors, int64_t* shifts) const {
    for_each_bin([&](const Grid& grid, Candidates& near, int32_t first, int32_t last) {
      for (int32_t p = first; p < last; p++) {
        const int32_t i = atoms_.atom[p], self = near.first_center + (p - first), n_hits = find(grid, near, self);
        const bool decided = n_hits - 1 == row[i + 1] - row[i];
        const auto& wrap = atoms_.wrap[p];
        int64_t k = row[i];
        for (int32_t h = 0; h < n_hits; h++) {
          const int32_t hit = near.hits[h];
          if (hit == self || !(decided || inside(grid, near.identity[hit], p))) continue;
          const auto& [neighbor, shift] = near.identity[hit];
          centers[k] = i;
          neighbors[k] = neighbor;
          for (int d = 0; d < 3; d++) shifts[3 * k + d] = shift[d] + wrap[d];
          k++;
        }
      }
    });
  }

 private:
  Grids grids(const Arguments& args) const {
    const auto lattices = args.lattices();
    std::vector<Extent> extents;
    for (size_t b = 0; b < lattices.size(); b++) {
      const int64_t* offset = args.offsets.data<int64_t>() + b;
      extents.push_back(extent(lattices[b], offset[0], offset[1]));
    }
    return make_grids(args, lattices, extents, free_bytes_);
  }

  Extent extent(const Lattice& lattice, int64_t first, int64_t last) const {
    Extent out{};
    double not_finite = 0;  // becomes NaN
    for (int64_t i = first; i < last; i++) {
      const Real* r = positions_ + 3 * i;
      for (int a = 0; a < 3; a++) {
        const double* m = lattice.inverse + a;
        const double fractional = r[0] * m[0] + r[1] * m[3] + r[2] * m[6];
        out.low[a] = i == first ? fractional : std::min(out.low[a], fractional);
        out.high[a] = i == first ? fractional : std::max(out.high[a], fractional);
        out.largest = std::max(out.largest, std::fabs(static_cast<double>(r[a])));
        not_finite += r[a] * 0.0;
      }
    }
    require(not_finite == 0, "positions: expected finite numbers");
    return out;
  }

  // body(grid, candidates, first, last) for each occupied bin, whose atoms are first...last.
  template <class Body>
  void for_each_bin(const Body& body) const {
    abi::parallel_for(0, static_cast<int64_t>(atoms_.bin.size()), bins_per_task, [&](int64_t begin, int64_t end) {
      Candidates near;
      for (int64_t k = begin; k < end; k++) {
        const Grid& grid = grids_.of[atoms_.owner[k]];
        gather(grid, k, near);
        body(grid, near, atoms_.start[k], atoms_.start[k + 1]);
      }
    });
  }

  void gather(const Grid& grid, int64_t occupied, Candidates& near) const {
    const Box box = bounding_box(atoms_.start[occupied], atoms_.start[occupied + 1]);
    const int64_t local = atoms_.bin[occupied] - grid.first_bin;
    const auto z_bin = static_cast<int32_t>(local % grid.n[2]);
    const auto y_bin = static_cast<int32_t>(local / grid.n[2] % grid.n[1]);
    const auto x_bin = static_cast<int32_t>(local / grid.n[2] / grid.n[1]);
    near.count = 0;
    for (int64_t k = grid.first_row; k < grid.last_row; k++) {
      const StencilRow& row = grids_.rows[k];
      int32_t x = x_bin + row.dx, y = y_bin + row.dy, image[3];
      if (!fold(grid, 0, x, image[0]) || !fold(grid, 1, y, image[1])) continue;
      for (int32_t dz = row.z_first; dz <= row.z_last; dz++) {
        int32_t z = z_bin + dz;
        if (!fold(grid, 2, z, image[2])) continue;
        const int32_t found = atoms_.find(bin_number(grid, x, y, z));
        if (found < 0) continue;
        if (row.dx == 0 && row.dy == 0 && dz == 0) near.first_center = near.count;
        float offset[3];
        for (int d = 0; d < 3; d++) {
          const double* v = grid.bin_vectors + d;
          offset[d] = static_cast<float>(row.dx * v[0] + row.dy * v[3] + dz * v[6]);
        }
        int32_t shift[3];
        cell_image(grid, image, shift);
        near.append(atoms_, atoms_.start[found], atoms_.start[found + 1], offset, shift, box, grid.outer);
      }
    }
    near.finish();
  }

  Box bounding_box(int32_t first, int32_t last) const {
    const std::vector<float>* coordinates[3] = {&atoms_.x, &atoms_.y, &atoms_.z};
    Box box;
    for (int d = 0; d < 3; d++) {
      const auto range = std::minmax_element(coordinates[d]->begin() + first, coordinates[d]->begin() + last);
      box.low[d] = *range.first;
      box.high[d] = *range.second;
    }
    return box;
  }

  int32_t find(const Grid& grid, Candidates& near, int32_t self) const {
    const float center[3] = {near.x[self], near.y[self], near.z[self]};
    return find_within(near.points(), center, grid.outer, near.hits.data());
  }

  int64_t count(const Grid& grid, Candidates& near, int32_t first, int32_t p) const {
    const int32_t self = near.first_center + (p - first);
    const float center[3] = {near.x[self], near.y[self], near.z[self]};
    int32_t n_inner, n_outer;
    count_within(near.points(), center, grid.inner, grid.outer, &n_inner, &n_outer);
    if (n_inner == n_outer) return n_outer - 1;
    int64_t n_inside = 0;
    const int32_t n_hits = find(grid, near, self);
    for (int32_t h = 0; h < n_hits; h++)
      n_inside += near.hits[h] != self && inside(grid, near.identity[near.hits[h]], p);
    return n_inside;
  }

  bool inside(const Grid& grid, const Candidates::Identity& candidate, int32_t p) const {
    int64_t shift[3];
    for (int d = 0; d < 3; d++) shift[d] = int64_t{candidate.shift[d]} + atoms_.wrap[p][d];
    const Real *ri = positions_ + 3 * int64_t{atoms_.atom[p]}, *rj = positions_ + 3 * int64_t{candidate.atom};
    return squared_distance(ri, rj, shift, grid.cell) < cutoff_squared_;
  }

  int64_t n_atoms_;
  const Real* positions_;
  double cutoff_squared_, free_bytes_;
  Grids grids_;
  BinnedAtoms atoms_;
};

template <class Real>
void run(const Arguments& args, StableIValue* stack) {
  const Search<Real> search(args);
  const auto rows = search.rows();
  const int64_t n_pairs = rows.back();
  auto edge_index = args.positions.new_empty({2, n_pairs}, aoti_torch_dtype_int64());
  auto edge_shift = args.positions.new_empty({n_pairs, 3}, aoti_torch_dtype_int64());
  auto* index = edge_index.data<int64_t>();
  auto* shift = edge_shift.data<int64_t>();
  prefer_huge_pages(index, 2 * n_pairs * static_cast<int64_t>(sizeof *index));
  prefer_huge_pages(shift, 3 * n_pairs * static_cast<int64_t>(sizeof *shift));
  search.fill(rows, index, index + n_pairs, shift);
  stack[0] = edge_index.release();
  stack[1] = edge_shift.release();
}

void neighbor_list(StableIValue* stack, uint64_t, uint64_t) {
  const Arguments args(stack);
  const int32_t dtype = args.positions.dtype();
  if (dtype == aoti_torch_dtype_float64()) return run<double>(args, stack);
  require(dtype == aoti_torch_dtype_float32(), "positions: expected float32 or float64");
  run<float>(args, stack);
}

const auto definition = abi::Library("mlip").def(neighbor_list_schema);
const auto cpu = abi::Library("mlip", "CPU").impl("neighbor_list", neighbor_list);

}  // namespace
}  // namespace mlip
