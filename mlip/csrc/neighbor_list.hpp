// Arguments of the operator `mlip::neighbor_list` and what all its backends share.
#pragma once
#include <algorithm>
#include <cstdio>
#include <mutex>
#include <string>

#include "neighbor_grid.hpp"
#include "torch_abi.hpp"

namespace mlip {

constexpr const char* neighbor_list_schema =
    "neighbor_list(Tensor positions, Tensor cell, Tensor pbc, Tensor offsets, float cutoff) -> "
    "(Tensor edge_index, Tensor edge_shift)";
constexpr double bytes_per_pair = 2 * sizeof(int64_t) + 3 * sizeof(int32_t);
constexpr double largest_coordinate = 1e15;  // Å; float64 has no decimals left there

inline void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(std::string("neighbor_list: ") + message);
}

// Room for the pairs of one list in memory; how much is free is asked only when it may matter.
class Room {
 public:
  explicit Room(double bytes) : bytes_(bytes) {}
  explicit Room(double (*free_bytes)()) : free_bytes_(free_bytes) {}

  void require(double pairs) const {
    constexpr double always_there = 1 << 26;
    const double needed = pairs * bytes_per_pair;
    if (needed <= always_there) return;
    if (free_bytes_) std::call_once(asked_, [&] { bytes_ = free_bytes_(); });
    if (needed <= bytes_) return;
    char message[160];
    std::snprintf(message, sizeof message,
                  "neighbor_list: more pairs than memory can hold: at least %.3g pairs need %.3g GB, %.3g GB are free",
                  pairs, needed / 1e9, bytes_ / 1e9);
    throw std::invalid_argument(message);
  }

 private:
  double (*free_bytes_)() = nullptr;
  mutable double bytes_ = 0;
  mutable std::once_flag asked_;
};

// Positions (N,3) float32 or float64 on any device; cell (B,3,3) float64, pbc (B,3) bool and offsets (B+1) int64 on
// the CPU; the atoms of structure b are offsets[b] to offsets[b + 1].
struct Arguments {
  abi::Tensor positions, cell, pbc, offsets;
  double cutoff;
  int64_t n_atoms = 0, n_structures = 0;

  explicit Arguments(const StableIValue* stack)
      : positions(stack[0]), cell(stack[1]), pbc(stack[2]), offsets(stack[3]),
        cutoff(abi::from_stack<double>(stack[4])) {
    require(positions.ndim() == 2 && positions.size(1) == 3 && positions.contiguous(),
            "positions: expected a contiguous tensor of shape (N, 3)");
    require(cell.ndim() == 3 && cell.size(1) == 3 && cell.size(2) == 3 && cell.contiguous() && cell.on_cpu() &&
                cell.dtype() == aoti_torch_dtype_float64(),
            "cell: expected a contiguous float64 tensor of shape (B, 3, 3) on the CPU");
    n_atoms = positions.size(0);
    n_structures = cell.size(0);
    require(pbc.ndim() == 2 && pbc.size(0) == n_structures && pbc.size(1) == 3 && pbc.contiguous() && pbc.on_cpu() &&
                pbc.dtype() == aoti_torch_dtype_bool(),
            "pbc: expected a contiguous bool tensor of shape (B, 3) on the CPU");
    require(offsets.ndim() == 1 && offsets.size(0) == n_structures + 1 && offsets.contiguous() && offsets.on_cpu() &&
                offsets.dtype() == aoti_torch_dtype_int64(),
            "offsets: expected a contiguous int64 tensor of shape (B + 1,) on the CPU");
    const int64_t* o = offsets.data<int64_t>();
    require(o[0] == 0 && o[n_structures] == n_atoms && std::is_sorted(o, o + n_structures + 1),
            "offsets: expected ascending numbers from 0 to the number of atoms");
    require(std::isfinite(cutoff) && cutoff > 0, "cutoff: expected a positive, finite length");
    require(n_atoms < (int64_t{1} << 31) - 1, "positions: expected fewer than 2^31 atoms");
  }

  std::vector<Lattice> lattices() const {
    std::vector<Lattice> all;
    all.reserve(static_cast<size_t>(n_structures));
    for (int64_t b = 0; b < n_structures; b++)
      all.push_back(make_lattice(cell.data<double>() + 9 * b, pbc.data<bool>() + 3 * b));
    return all;
  }
};

inline Grids make_grids(const Arguments& args, const std::vector<Lattice>& lattices, const std::vector<Extent>& extents,
                        const Room& room) {
  const int64_t* offsets = args.offsets.data<int64_t>();
  Grids grids;
  double pairs = 0;
  for (size_t b = 0; b < lattices.size(); b++) {
    require(extents[b].largest < largest_coordinate, "positions: expected finite numbers below 1e15 Å");
    pairs += 0.5 * expected_pairs(lattices[b], offsets[b + 1] - offsets[b], args.cutoff);
    room.require(pairs);
    grids.add(lattices[b], extents[b], offsets[b], offsets[b + 1], args.cutoff);
  }
  return grids;
}

}  // namespace mlip
