// Operators that keep a neighbor list while its atoms move: which pairs are still within the cutoff, how close the
// closest are, and how far atoms have moved since the list was made.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "neighbor_grid.hpp"
#include "torch_abi.hpp"

namespace mlip {
namespace {

constexpr int64_t pairs_per_part = 8192, atoms_per_part = 16384;

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(std::string("neighbor_list: ") + message);
}

bool is(const abi::Tensor& tensor, int32_t dtype, int64_t rows, int64_t columns) {
  return tensor.on_cpu() && tensor.contiguous() && tensor.dtype() == dtype && tensor.ndim() == 2 &&
         tensor.size(0) == rows && tensor.size(1) == columns;
}

int64_t parts_of(int64_t count, int64_t size) { return (count + size - 1) / size; }

// positions (N,3) and cell (B,3,3) float64, batch (N,) int64, edge_index (2,E) int64, edge_shift (E,3) int32
struct Pairs {
  abi::Tensor positions, cell, batch, index, shift;
  int64_t n_atoms, n_structures, count;

  explicit Pairs(const StableIValue* stack)
      : positions(stack[0]), cell(stack[1]), batch(stack[2]), index(stack[3]), shift(stack[4]) {
    require(positions.ndim() == 2 && cell.ndim() == 3 && index.ndim() == 2,
            "expected positions (N, 3), cell (B, 3, 3) and edge_index (2, E)");
    n_atoms = positions.size(0);
    n_structures = cell.size(0);
    count = index.size(1);
    require(is(positions, aoti_torch_dtype_float64(), n_atoms, 3), "positions: expected contiguous float64 (N, 3), CPU");
    require(cell.on_cpu() && cell.contiguous() && cell.dtype() == aoti_torch_dtype_float64() && cell.size(1) == 3 &&
                cell.size(2) == 3,
            "cell: expected contiguous float64 (B, 3, 3), CPU");
    require(batch.on_cpu() && batch.contiguous() && batch.dtype() == aoti_torch_dtype_int64() && batch.ndim() == 1 &&
                batch.size(0) == n_atoms,
            "batch: expected contiguous int64 (N,), CPU");
    require(is(index, aoti_torch_dtype_int64(), 2, count), "edge_index: expected contiguous int64 (2, E), CPU");
    require(is(shift, aoti_torch_dtype_int32(), count, 3), "edge_shift: expected contiguous int32 (E, 3), CPU");
  }

  // visit(pair, squared distance) for a part of the pairs, in order.
  template <class Visit>
  void for_part(int64_t part, const Visit& visit) const {
    const auto *r = positions.data<double>(), *cells = cell.data<double>();
    const auto *centers = index.data<int64_t>(), *neighbors = centers + count, *structures = batch.data<int64_t>();
    const auto* shifts = shift.data<int32_t>();
    const int64_t last = std::min(count, (part + 1) * pairs_per_part);
    for (int64_t e = part * pairs_per_part; e < last;) {
      const int64_t i = centers[e];
      require(i >= 0 && i < n_atoms, "edge_index: expected numbers from 0 to N - 1");
      const int64_t structure = structures[i];
      require(structure >= 0 && structure < n_structures, "batch: expected numbers from 0 to B - 1");
      for (; e < last && centers[e] == i; e++) {
        const int64_t j = neighbors[e], s[3] = {shifts[3 * e], shifts[3 * e + 1], shifts[3 * e + 2]};
        require(j >= 0 && j < n_atoms, "edge_index: expected numbers from 0 to N - 1");
        visit(e, squared_distance(r + 3 * i, r + 3 * j, s, cells + 9 * structure));
      }
    }
  }

  template <class Body>
  void for_each_part(const Body& body) const {
    abi::parallel_for(0, parts_of(count, pairs_per_part), 1, [&](int64_t first, int64_t last) {
      for (int64_t part = first; part < last; part++) body(part);
    });
  }
};

StableIValue number(const abi::Tensor& like, double value) {
  auto out = like.new_empty({}, aoti_torch_dtype_float64());
  *out.data<double>() = value;
  return out.release();
}

double root_of_smallest(const std::vector<double>& squares) {
  double smallest = std::numeric_limits<double>::infinity();
  for (const double square : squares) smallest = std::min(smallest, square);
  return std::sqrt(smallest);
}

void shortest_pair(StableIValue* stack, uint64_t, uint64_t) {
  const Pairs pairs(stack);
  std::vector<double> smallest(static_cast<size_t>(parts_of(pairs.count, pairs_per_part)), INFINITY);
  pairs.for_each_part([&](int64_t part) {
    double least = INFINITY;
    pairs.for_part(part, [&](int64_t, double square) { least = square < least ? square : least; });
    smallest[static_cast<size_t>(part)] = least;
  });
  stack[0] = number(pairs.positions, root_of_smallest(smallest));
}

void pairs_within(StableIValue* stack, uint64_t, uint64_t) {
  const Pairs pairs(stack);
  const auto cutoff = abi::from_stack<double>(stack[5]);
  const auto parts = static_cast<size_t>(parts_of(pairs.count, pairs_per_part));
  std::vector<double> smallest(parts, INFINITY);
  std::vector<int64_t> begin(parts + 1, 0);
  Buffer<uint8_t> inside;
  inside.reset(pairs.count);
  pairs.for_each_part([&](int64_t part) {
    int64_t kept = 0;
    double least = INFINITY;
    pairs.for_part(part, [&](int64_t e, double square) {
      inside[e] = square < cutoff * cutoff;
      kept += inside[e];
      least = square < least ? square : least;
    });
    smallest[static_cast<size_t>(part)] = least;
    begin[static_cast<size_t>(part) + 1] = kept;
  });
  for (size_t part = 0; part < parts; part++) begin[part + 1] += begin[part];
  const int64_t n_kept = begin[parts];
  auto index = pairs.index.new_empty({2, n_kept}, aoti_torch_dtype_int64());
  auto shift = pairs.index.new_empty({n_kept, 3}, aoti_torch_dtype_int32());
  auto *centers = index.data<int64_t>(), *neighbors = centers + n_kept;
  auto* shifts = shift.data<int32_t>();
  const auto* from = pairs.index.data<int64_t>();
  const auto* from_shifts = pairs.shift.data<int32_t>();
  pairs.for_each_part([&](int64_t part) {
    int64_t k = begin[static_cast<size_t>(part)];
    const int64_t end = begin[static_cast<size_t>(part) + 1];
    for (int64_t e = part * pairs_per_part; k < end; e++) {  // without branches: what is not inside is written over
      centers[k] = from[e];
      neighbors[k] = from[pairs.count + e];
      for (int d = 0; d < 3; d++) shifts[3 * k + d] = from_shifts[3 * e + d];
      k += inside[e];
    }
  });
  stack[0] = index.release();
  stack[1] = shift.release();
  stack[2] = number(pairs.positions, root_of_smallest(smallest));
}

// max |x_i - y_i F|, not a number if one of them is.
void furthest_move(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor now(stack[0]), before(stack[1]), deformation(stack[2]);
  const int64_t count = now.ndim() == 2 ? now.size(0) : 0;
  require(is(now, aoti_torch_dtype_float64(), count, 3) && is(before, aoti_torch_dtype_float64(), count, 3) &&
              is(deformation, aoti_torch_dtype_float64(), 3, 3),
          "expected contiguous float64 tensors of shapes (N, 3), (N, 3) and (3, 3), CPU");
  const double *x = now.data<double>(), *y = before.data<double>(), *f = deformation.data<double>();
  std::vector<double> largest(static_cast<size_t>(parts_of(count, atoms_per_part)), 0.0);
  abi::parallel_for(0, static_cast<int64_t>(largest.size()), 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; part++) {
      double most = 0, not_finite = 0;
      for (int64_t i = part * atoms_per_part; i < std::min(count, (part + 1) * atoms_per_part); i++) {
        double square = 0;
        for (int d = 0; d < 3; d++) {
          const double moved = x[3 * i + d] - (y[3 * i] * f[d] + y[3 * i + 1] * f[3 + d] + y[3 * i + 2] * f[6 + d]);
          square += moved * moved;
        }
        most = square > most ? square : most;
        not_finite += square * 0;  // becomes NaN
      }
      largest[static_cast<size_t>(part)] = most + not_finite;
    }
  });
  double most = 0;
  for (const double part : largest) most = part <= most || std::isnan(most) ? most : part;
  stack[0] = number(now, std::sqrt(most));
}

const auto definitions =
    abi::Library("mlip")
        .def("shortest_pair(Tensor positions, Tensor cell, Tensor batch, Tensor edge_index, Tensor edge_shift) -> Tensor")
        .def("pairs_within(Tensor positions, Tensor cell, Tensor batch, Tensor edge_index, Tensor edge_shift, "
             "float cutoff) -> (Tensor edge_index, Tensor edge_shift, Tensor shortest)")
        .def("furthest_move(Tensor positions, Tensor reference, Tensor deformation) -> Tensor");
const auto cpu = abi::Library("mlip", "CPU")
                     .impl("shortest_pair", shortest_pair)
                     .impl("pairs_within", pairs_within)
                     .impl("furthest_move", furthest_move);

}  // namespace
}  // namespace mlip
