// Equal distances: radial functions are computed once for all pairs that have the same, such as the two directions of
// a pair of atoms.
#include <algorithm>
#include <cstring>

#include "geometry_arguments.hpp"

namespace mlip {
namespace {

constexpr int64_t rows_per_task = 512;

uint64_t bits(double x) {
  uint64_t out;
  std::memcpy(&out, &x, sizeof out);
  return out;
}

// distinct(distance, transformed) -> first, place: where each distance, to the bit, occurs first, and which each is.
void distinct(StableIValue* stack, uint64_t, uint64_t) {
  constexpr const char* name = "distinct";
  const abi::Tensor distance(stack[0]), transformed(stack[1]);
  const int32_t float64 = aoti_torch_dtype_float64(), int64 = aoti_torch_dtype_int64();
  expect(has_shape(distance, {-1}) && distance.dtype() == float64, name,
         "distance: expected a contiguous float64 tensor of shape (E,) on the CPU");
  const int64_t count = distance.size(0);
  const bool transform = !has_shape(transformed, {0});
  expect(transformed.dtype() == float64 && (!transform || has_shape(transformed, {count})), name,
         "transformed: expected a contiguous float64 tensor of shape (E,), or an empty one");
  const double *r = distance.data<double>(), *t = transformed.data<double>();
  int log_size = 4;
  while (int64_t{1} << log_size < 2 * count) log_size++;
  const uint64_t size = uint64_t{1} << log_size;
  Buffer<int64_t> table, kept;  // indices into `kept`, or -1
  std::fill_n(table.reset(static_cast<int64_t>(size)), size, int64_t{-1});
  kept.reset(count);
  auto place = distance.new_empty({count}, int64);
  auto* const to = place.data<int64_t>();
  int64_t found = 0;
  for (int64_t e = 0; e < count; e++) {
    const uint64_t a = bits(r[e]), b = transform ? bits(t[e]) : 0;
    uint64_t hash = (a ^ (b * 0xD6E8FEB86659FD93u)) * 0x9E3779B97F4A7C15u;
    hash = (hash ^ (hash >> 32)) * 0x9E3779B97F4A7C15u;
    for (uint64_t slot = hash >> (64 - log_size);; slot = (slot + 1) & (size - 1)) {
      int64_t& entry = table[static_cast<int64_t>(slot)];
      if (entry < 0) kept[entry = found++] = e;
      const int64_t other = kept[entry];
      if (bits(r[other]) != a || (transform && bits(t[other]) != b)) continue;
      to[e] = entry;
      break;
    }
  }
  auto first = distance.new_empty({found}, int64);
  std::copy_n(kept.data(), found, first.data<int64_t>());
  stack[0] = first.release();
  stack[1] = place.release();
}

// take_rows(x, rows) -> x[rows]
void take_rows(StableIValue* stack, uint64_t, uint64_t) {
  constexpr const char* name = "take_rows";
  const abi::Tensor x(stack[0]), rows(stack[1]);
  expect(has_shape(x, {-1, -1}) && is_real(x), name,
         "x: expected a contiguous float32 or float64 tensor of two dimensions on the CPU");
  expect(has_shape(rows, {-1}) && is_integer(rows), name, "rows: expected a contiguous int64 tensor of shape (E,)");
  const int64_t count = rows.size(0), size = x.size(1), available = x.size(0);
  const auto* row = rows.data<int64_t>();
  for_real(x, [&](auto zero) {
    using Real = decltype(zero);
    auto out = x.new_empty({count, size}, x.dtype());
    const Real* from = x.data<Real>();
    Real* to = out.template data<Real>();
    abi::parallel_for(0, count, rows_per_task, [&](int64_t begin, int64_t end) {
      for (int64_t e = begin; e < end; e++) {
        expect(0 <= row[e] && row[e] < available, name, "rows: expected numbers of rows of x");
        std::copy_n(from + row[e] * size, size, to + e * size);
      }
    });
    stack[0] = out.release();
  });
}

const auto definition = abi::Library("mlip")
                            .def("distinct(Tensor distance, Tensor transformed) -> (Tensor first, Tensor place)")
                            .def("take_rows(Tensor x, Tensor rows) -> Tensor");
const auto cpu = abi::Library("mlip", "CPU").impl("distinct", distinct).impl("take_rows", take_rows);

}  // namespace
}  // namespace mlip
