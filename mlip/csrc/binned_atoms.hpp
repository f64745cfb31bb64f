// The atoms of a batch in the order of their bins.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <numeric>
#include <vector>

#include "neighbor_list.hpp"
#include "simd.hpp"

namespace mlip {

struct BinnedAtoms {
  std::vector<int32_t> atom;
  std::vector<float> x, y, z;  // relative to the corner of the bin; one block longer
  std::vector<std::array<int32_t, 3>> wrap;
  std::vector<int64_t> bin;    // number of each occupied bin, ascending
  std::vector<int32_t> start;  // the atoms of occupied bin k are start[k] to start[k + 1]
  std::vector<int32_t> owner;  // structure of occupied bin k

  template <class Real>
  BinnedAtoms(const Real* positions, int64_t n_atoms, const Grids& grids);

  // The occupied bin with this number, or -1.
  int32_t find(int64_t number) const {
    if (!slot_.empty()) return slot_[static_cast<size_t>(number)];
    const auto found = std::lower_bound(bin.begin(), bin.end(), number);
    return found != bin.end() && *found == number ? static_cast<int32_t>(found - bin.begin()) : -1;
  }

 private:
  std::vector<int32_t> slot_;  // bin number -> occupied bin or -1; empty when there are far more bins than atoms

  void order_atoms(const std::vector<int64_t>& number, int64_t n_bins);
};

// Orders the atoms by their bin numbers, stably, and lists the occupied bins. Far outliers make bins by the million:
// then the numbers are sorted instead of counted, so that memory grows with the number of atoms only.
inline void BinnedAtoms::order_atoms(const std::vector<int64_t>& number, int64_t n_bins) {
  const auto n_atoms = static_cast<int32_t>(number.size());
  atom.resize(number.size());
  const bool countable = n_bins <= 8 * int64_t{n_atoms} + 1024;
  if (countable) {
    std::vector<int32_t> next(static_cast<size_t>(n_bins) + 1, 0);
    for (const int64_t k : number) next[k + 1]++;
    std::partial_sum(next.begin(), next.end(), next.begin());
    for (int32_t i = 0; i < n_atoms; i++) atom[next[number[i]]++] = i;
    slot_.assign(static_cast<size_t>(n_bins), -1);
  } else {
    std::iota(atom.begin(), atom.end(), 0);
    std::stable_sort(atom.begin(), atom.end(), [&](int32_t a, int32_t b) { return number[a] < number[b]; });
  }
  for (int32_t p = 0; p < n_atoms; p++) {
    const int64_t k = number[atom[p]];
    if (!bin.empty() && bin.back() == k) continue;
    if (countable) slot_[k] = static_cast<int32_t>(bin.size());
    bin.push_back(k);
    start.push_back(p);
  }
  start.push_back(n_atoms);
}

template <class Real>
BinnedAtoms::BinnedAtoms(const Real* positions, int64_t n_atoms, const Grids& grids) {
  constexpr int64_t atoms_per_task = 4096;
  const auto size = static_cast<size_t>(n_atoms);
  std::vector<int64_t> number(size);
  std::vector<std::array<float, 3>> place(size);
  std::vector<std::array<int32_t, 3>> wraps(size);
  abi::parallel_for(0, n_atoms, atoms_per_task, [&](int64_t first, int64_t last) {
    auto grid = std::upper_bound(grids.of.begin(), grids.of.end(), first,
                                 [](int64_t i, const Grid& g) { return i < g.last_atom; });
    for (int64_t i = first; i < last; i++) {
      while (i >= grid->last_atom) ++grid;
      int32_t at[3];
      double inside[3];
      locate(*grid, positions + 3 * i, at, inside, wraps[i].data());
      number[i] = bin_number(*grid, at[0], at[1], at[2]);
      const double* v = grid->bin_vectors;
      for (int d = 0; d < 3; d++)
        place[i][d] = static_cast<float>(inside[0] * v[d] + inside[1] * v[3 + d] + inside[2] * v[6 + d]);
    }
  });
  order_atoms(number, grids.n_bins);
  for (auto* coordinate : {&x, &y, &z}) coordinate->resize(size + block);
  wrap.resize(size);
  for (size_t p = 0; p < size; p++) {
    const int32_t i = atom[p];
    x[p] = place[i][0];
    y[p] = place[i][1];
    z[p] = place[i][2];
    wrap[p] = wraps[i];
  }
  owner.reserve(bin.size());
  int32_t structure = 0;
  for (const int64_t k : bin) {
    while (k >= grids.of[structure].first_bin + grids.of[structure].n_bins) structure++;
    owner.push_back(structure);
  }
}

}  // namespace mlip
