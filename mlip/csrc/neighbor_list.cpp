// The operator `mlip::neighbor_list` on the CPU: linked cells, O(N), every pair tested once.
//
// For each occupied bin the atoms of the surrounding bins that may be in reach are packed in float32 relative to the
// bin, then tested against each atom of the bin. What is found goes into compact rows, from which the outputs, whose
// size is then known, are written in the order of the centers: a second search would cost more, and so would writing
// the outputs in the order of the bins. Pairs too close to the cutoff for float32 are decided here, in double from the
// positions as given. Bins are independent of each other, so the result does not depend on the number of threads.
#include "neighbor_list.hpp"

#include <atomic>
#include <memory>

#include "binned_atoms.hpp"
#include "found_rows.hpp"
#include "memory.hpp"

namespace mlip {

namespace {

constexpr int64_t bins_per_task = 16, atoms_per_task = 1024;
constexpr double usable_memory = 0.75;           // the compact rows take some beside the outputs
constexpr int64_t most_kept_bytes = int64_t{512} << 20;  // between calls
constexpr int64_t most_cached_pairs = int64_t{1} << 20;  // 29 MB: longer lists will not be found in a cache
constexpr int64_t most_candidates = INT32_MAX - 1024;

double usable_bytes() { return usable_memory * free_memory(); }

// What a search needs beside its outputs. One is kept for the next call: fresh memory costs more than the search.
struct Workspace {
  BinnedAtoms atoms;
  Buffer<Row> rows;         // of each center
  Buffer<int64_t> offsets;  // the row of center i begins at offsets[i] in the outputs
  SlabPool slabs;

  static std::unique_ptr<Workspace> take() {
    const std::lock_guard<std::mutex> lock(mutex);
    return kept ? std::move(kept) : std::make_unique<Workspace>();
  }
  static void keep(std::unique_ptr<Workspace> used) {
    if (used->rows.bytes() > most_kept_bytes / 2) return;
    used->slabs.recycle();
    used->slabs.shrink(most_kept_bytes);
    const std::lock_guard<std::mutex> lock(mutex);
    kept = std::move(used);
  }

 private:
  static std::mutex mutex;
  static std::unique_ptr<Workspace> kept;
};
std::mutex Workspace::mutex;
std::unique_ptr<Workspace> Workspace::kept;

// Atoms that may be in reach of the atoms of one bin; those of the bin itself come first.
struct Candidates {
  std::vector<Run> runs;
  int32_t count = 0;
  int32_t any_shift = 0;

  const Run& run_of(int32_t candidate) const {
    return *std::prev(std::upper_bound(runs.begin(), runs.end(), candidate,
                                       [](int32_t c, const Run& run) { return c < run.first_candidate; }));
  }

  void gather(const NeighborKernels& kernels, const SortedAtoms& atoms, float outer) {
    int64_t most = 0;
    for (const Run& run : runs) most += run.last - run.first;
    require(most < most_candidates, "more pairs than memory can hold: 2^31 atoms are in reach of an atom");
    for (auto* coordinate : {&x_, &y_, &z_}) coordinate->grow(most, 0);
    atom_.grow(most, 0);
    shift_.grow(most, 0);
    undecided_.grow(2 * most, 0);
    shift_of_row_.grow(most, 0);
    const auto n_runs = static_cast<int64_t>(runs.size());
    count = kernels.gather(atoms, runs.data(), n_runs, bounding_box(atoms), outer, arrays(), &any_shift);
  }

  CandidateArrays arrays() { return {x_.data(), y_.data(), z_.data(), atom_.data(), shift_.data()}; }
  int32_t atom(int32_t candidate) const { return atom_[candidate]; }
  int32_t* undecided() { return undecided_.data(); }
  int32_t* shift_of_row() { return shift_of_row_.data(); }

  // Instead of shifts, which bytes can't hold, rows get the numbers of the candidates.
  void number() { std::iota(shift_.data(), shift_.data() + count, 0); }

 private:
  Buffer<float> x_, y_, z_;
  Buffer<int32_t> atom_, shift_, undecided_, shift_of_row_;

  // Of the atoms of the bin itself.
  Box bounding_box(const SortedAtoms& atoms) const {
    const float* coordinates[3] = {atoms.x, atoms.y, atoms.z};
    Box box;
    for (int d = 0; d < 3; d++) {
      float low = coordinates[d][runs[0].first], high = low;
      for (int32_t p = runs[0].first + 1; p < runs[0].last; p++) {
        low = std::min(low, coordinates[d][p]);
        high = std::max(high, coordinates[d][p]);
      }
      box.low[d] = low;
      box.high[d] = high;
    }
    return box;
  }
};

template <class Real>
class Search {
 public:
  Search(const Arguments& args, Workspace& work)
      : positions_(args.positions.data<Real>()), n_atoms_(args.n_atoms), cutoff_squared_(args.cutoff * args.cutoff),
        room_(usable_bytes), work_(work), grids_(grids(args)) {
    work.atoms.arrange(positions_, n_atoms_, grids_);
    work.rows.reset(n_atoms_);
    abi::parallel_for(0, atoms().n_occupied, bins_per_task,
                      [&](int64_t first, int64_t last) { search_bins(first, last); });
  }

  int64_t n_pairs() const {
    int64_t* offsets = work_.offsets.reset(n_atoms_ + 1);
    int64_t sum = 0;
    for (int64_t i = 0; i < n_atoms_; i++) {
      offsets[i] = sum;
      sum += work_.rows[i].count;
    }
    return offsets[n_atoms_] = sum;
  }

  void write(int64_t* centers, int64_t* neighbors, int32_t* shifts) const {
    // One thread alone is faster through its caches than past them; several have to share the way to the memory.
    const bool past_caches = abi::num_threads() > 1 && work_.offsets[n_atoms_] > most_cached_pairs;
    abi::parallel_for(0, n_atoms_, atoms_per_task, [&](int64_t first, int64_t last) {
      kernels_.write(work_.rows.data(), work_.offsets.data(), atoms().wraps.data(), first, last, past_caches, centers,
                     neighbors, shifts);
    });
  }

 private:
  const BinnedAtoms& atoms() const { return work_.atoms; }

  Grids grids(const Arguments& args) const {
    const auto lattices = args.lattices();
    const int64_t* offsets = args.offsets.data<int64_t>();
    std::vector<Extent> extents(lattices.size());
    for (size_t b = 0; b < lattices.size(); b++) {
      const Real* positions = positions_ + 3 * offsets[b];
      const int64_t count = offsets[b + 1] - offsets[b];
      if constexpr (std::is_same_v<Real, float>)
        kernels_.extent_float(positions, count, lattices[b].inverse, &extents[b]);
      else
        kernels_.extent_double(positions, count, lattices[b].inverse, &extents[b]);
    }
    return make_grids(args, lattices, extents, room_);
  }

  void search_bins(int64_t first, int64_t last) {
    Candidates near;
    RowWriter writer(work_.slabs);
    for (int64_t k = first; k < last; k++) {
      const Grid& grid = grids_.of[static_cast<size_t>(atoms().owner[k])];
      list_runs(grid, k, near.runs);
      near.gather(kernels_, atoms().arrays(), grid.outer);
      if (!grid.narrow) near.number();
      const int32_t n_centers = atoms().start[k + 1] - atoms().start[k];
      for (int32_t self = 0; self < n_centers; self++) __builtin_prefetch(&work_.rows[near.atom(self)], 1);
      int64_t found = 0;
      for (int32_t self = 0; self < n_centers; self++) {
        const Row row = work_.rows[near.atom(self)] = find(grid, near, self, writer);
        found += row.count;
      }
      room_.require(static_cast<double>(n_found_ += found));
    }
  }

  // The occupied bins in reach of the occupied bin k, itself first.
  void list_runs(const Grid& grid, int64_t k, std::vector<Run>& runs) const {
    const int64_t local = atoms().bin[k] - grid.first_bin;
    const auto z_bin = static_cast<int32_t>(local % grid.n[2]);
    const auto y_bin = static_cast<int32_t>(local / grid.n[2] % grid.n[1]);
    const auto x_bin = static_cast<int32_t>(local / grid.n[2] / grid.n[1]);
    runs.clear();
    runs.push_back({atoms().start[k], atoms().start[k + 1], {0, 0, 0}, {0, 0, 0}, 0});
    for (int64_t r = grid.first_row; r < grid.last_row; r++) {
      const StencilRow& row = grids_.rows[static_cast<size_t>(r)];
      int32_t x = x_bin + row.dx, y = y_bin + row.dy, image[3];
      if (!fold(grid, 0, x, image[0]) || !fold(grid, 1, y, image[1])) continue;
      for (int32_t dz = row.z_first; dz <= row.z_last; dz++) {
        int32_t z = z_bin + dz;
        if (!fold(grid, 2, z, image[2])) continue;
        if (row.dx == 0 && row.dy == 0 && dz == 0) continue;
        const int64_t number = bin_number(grid, x, y, z);
        const int32_t begin = atoms().begin(number), end = atoms().begin(number + 1);
        if (begin == end) continue;
        Run& run = runs.emplace_back();
        run.first = begin;
        run.last = end;
        const double* v = grid.bin_vectors;
        for (int d = 0; d < 3; d++) run.offset[d] = static_cast<float>(row.dx * v[d] + row.dy * v[3 + d] + dz * v[6 + d]);
        if (image[0] | image[1] | image[2]) cell_image(grid, image, run.image);
      }
    }
  }

  Row find(const Grid& grid, Candidates& near, int32_t self, RowWriter& writer) const {
    const int64_t most = int64_t{near.count} + atoms_per_block;
    const int32_t shift_words = !grid.narrow ? 3 : near.any_shift ? 1 : 0;
    int32_t* const found = writer.room((1 + shift_words) * most);
    int32_t* const shift = shift_words ? near.shift_of_row() : nullptr;
    int32_t n_undecided;
    int32_t count = kernels_.find(near.arrays(), near.count, self, grid.inner, grid.outer, found, shift,
                                  near.undecided(), &n_undecided);
    if (n_undecided) count = decide(grid, near, self, n_undecided, count, found, shift);
    if (shift_words == 1) std::copy_n(shift, count, found + count);
    if (shift_words == 3) expand(near, self, shift, count, found + count);
    writer.keep(int64_t{count} * (1 + shift_words));
    return {found, count, shift_words};
  }

  // Takes out the undecided that are no neighbors; returns how many are left.
  int32_t decide(const Grid& grid, Candidates& near, int32_t self, int32_t n_undecided, int32_t count, int32_t* found,
                 int32_t* shift) const {
    const int32_t i = near.atom(self);
    for (int32_t n = n_undecided - 1; n >= 0; n--) {
      const int32_t place = near.undecided()[2 * n], candidate = near.undecided()[2 * n + 1], j = near.atom(candidate);
      int64_t s[3];
      shift_between(i, j, near.run_of(candidate).image, s);
      if (squared_distance(positions_ + 3 * int64_t{i}, positions_ + 3 * int64_t{j}, s, grid.cell) < cutoff_squared_)
        continue;
      std::copy(found + place + 1, found + count, found + place);
      if (shift) std::copy(shift + place + 1, shift + count, shift + place);
      count--;
    }
    return count;
  }

  // The shifts of candidates, which ascend, three words each.
  void expand(const Candidates& near, int32_t self, const int32_t* candidates, int32_t count, int32_t* out) const {
    const Run *run = near.runs.data(), *last = run + near.runs.size() - 1;
    for (int32_t k = 0; k < count; k++) {
      while (run < last && run[1].first_candidate <= candidates[k]) run++;
      int64_t s[3];
      shift_between(near.atom(self), near.atom(candidates[k]), run->image, s);
      for (int d = 0; d < 3; d++) out[3 * int64_t{k} + d] = static_cast<int32_t>(s[d]);
    }
  }

  void shift_between(int32_t i, int32_t j, const int32_t* image, int64_t* out) const {
    const int32_t *wrap_i = &atoms().wraps[3 * int64_t{i}], *wrap_j = &atoms().wraps[3 * int64_t{j}];
    for (int d = 0; d < 3; d++) out[d] = int64_t{image[d]} - wrap_j[d] + wrap_i[d];
  }

  const NeighborKernels& kernels_ = MLIP_BEST(neighbor_kernels);
  const Real* positions_;
  int64_t n_atoms_;
  double cutoff_squared_;
  Room room_;
  std::atomic<int64_t> n_found_{0};
  Workspace& work_;
  Grids grids_;
};

template <class Real>
void run(const Arguments& args, StableIValue* stack) {
  auto work = Workspace::take();
  const Search<Real> search(args, *work);
  const int64_t n_pairs = search.n_pairs();
  auto edge_index = args.positions.new_empty({2, n_pairs}, aoti_torch_dtype_int64());
  auto edge_shift = args.positions.new_empty({n_pairs, 3}, aoti_torch_dtype_int32());
  auto* index = edge_index.data<int64_t>();
  search.write(index, index + n_pairs, edge_shift.data<int32_t>());
  Workspace::keep(std::move(work));
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
