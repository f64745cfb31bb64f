// The atoms of a batch in the order of their bins.
#pragma once
#include <algorithm>
#include <cstdint>
#include <numeric>
#include <type_traits>

#include "kernels/neighbor_search.hpp"
#include "memory.hpp"
#include "torch_abi.hpp"

namespace mlip {

struct BinnedAtoms {
  Buffer<int32_t> wraps;        // how often each atom was wrapped into the cell, in the order of the input
  Buffer<int32_t> atom, wrap;   // from here on in the order of the bins; `wrap` is packed
  Buffer<float> x, y, z;        // relative to the corner of the bin
  Buffer<int64_t> bin;          // number of each occupied bin, ascending
  Buffer<int32_t> start;        // the atoms of occupied bin k are start[k] to start[k + 1]
  Buffer<int32_t> owner;        // structure of occupied bin k
  int64_t n_occupied = 0;

  template <class Real>
  void arrange(const Real* positions, int64_t n_atoms, const Grids& grids);

  // The first atom of the first occupied bin that has this number or a larger one.
  int32_t begin(int64_t number) const {
    if (dense_) return first_[number];
    return start[static_cast<size_t>(std::lower_bound(bin.data(), bin.data() + n_occupied, number) - bin.data())];
  }

  SortedAtoms arrays() const { return {x.data(), y.data(), z.data(), atom.data(), wrap.data()}; }

 private:
  bool dense_ = false;
  Buffer<int32_t> first_;  // the atoms of a bin begin at first_[number]; only where bins are not far more than atoms
  Buffer<int64_t> number_;
  Buffer<PlacedAtom> places_;

  void sort(int64_t n_atoms, int64_t n_bins);
  void list_occupied(int64_t n_atoms, const Grids& grids);
};

// Orders the atoms by their bin numbers, stably. Far outliers make bins by the million: then the numbers are sorted
// instead of counted, so that memory grows with the number of atoms only.
inline void BinnedAtoms::sort(int64_t n_atoms, int64_t n_bins) {
  int32_t* order = atom.reset(n_atoms);
  const int64_t* number = number_.data();
  dense_ = n_bins <= 8 * n_atoms + 1024;
  if (!dense_) {
    std::iota(order, order + n_atoms, 0);
    std::stable_sort(order, order + n_atoms, [&](int32_t a, int32_t b) { return number[a] < number[b]; });
    return;
  }
  int32_t* next = first_.reset(n_bins + 2);
  std::fill_n(next, n_bins + 2, 0);
  for (int64_t i = 0; i < n_atoms; i++) next[number[i] + 2]++;
  std::partial_sum(next, next + n_bins + 2, next);
  for (int64_t i = 0; i < n_atoms; i++) order[next[number[i] + 1]++] = static_cast<int32_t>(i);
}

inline void BinnedAtoms::list_occupied(int64_t n_atoms, const Grids& grids) {
  const int64_t most = dense_ ? std::min(grids.n_bins, n_atoms) : n_atoms;
  bin.reset(most);
  owner.reset(most);
  start.reset(most + 1);
  n_occupied = 0;
  int64_t structure = 0;
  for (int64_t p = 0; p < n_atoms;) {
    const int64_t k = number_[atom[p]];
    while (k >= grids.of[structure].first_bin + grids.of[structure].n_bins) structure++;
    bin[n_occupied] = k;
    owner[n_occupied] = static_cast<int32_t>(structure);
    start[n_occupied++] = static_cast<int32_t>(p);
    if (dense_) p = first_[k + 1];
    else while (++p < n_atoms && number_[atom[p]] == k) {}
  }
  start[n_occupied] = static_cast<int32_t>(n_atoms);
}

template <class Real>
void BinnedAtoms::arrange(const Real* positions, int64_t n_atoms, const Grids& grids) {
  constexpr int64_t atoms_per_task = 4096;
  const NeighborKernels& kernels = MLIP_BEST(neighbor_kernels);
  int64_t* number = number_.reset(n_atoms);
  PlacedAtom* places = places_.reset(n_atoms);
  wraps.reset(3 * n_atoms);
  abi::parallel_for(0, n_atoms, atoms_per_task, [&](int64_t first, int64_t last) {
    auto grid = std::upper_bound(grids.of.begin(), grids.of.end(), first,
                                 [](int64_t i, const Grid& g) { return i < g.last_atom; });
    for (; first < last; ++grid) {
      const int64_t end = std::min(last, grid->last_atom);
      if constexpr (std::is_same_v<Real, float>)
        kernels.bin_float(*grid, positions, first, end, number, places, wraps.data());
      else
        kernels.bin_double(*grid, positions, first, end, number, places, wraps.data());
      first = end;
    }
  });
  sort(n_atoms, grids.n_bins);
  list_occupied(n_atoms, grids);
  x.reset(n_atoms);
  y.reset(n_atoms);
  z.reset(n_atoms);
  wrap.reset(n_atoms);
  abi::parallel_for(0, n_atoms, atoms_per_task, [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; p++) {
      const PlacedAtom& from = places[atom[p]];
      x[p] = from.place[0];
      y[p] = from.place[1];
      z[p] = from.place[2];
      wrap[p] = from.wrap;
    }
  });
  for (int64_t p = n_atoms; p < n_atoms + atoms_per_block; p++) {  // read, not used
    x[p] = y[p] = z[p] = 0;
    atom[p] = wrap[p] = 0;
  }
}

}  // namespace mlip
