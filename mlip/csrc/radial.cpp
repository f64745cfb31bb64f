// Radial basis functions and the perceptrons of them, with their derivatives by the distance: inference only.
#include <algorithm>
#include <cmath>

#include "gemm.hpp"
#include "geometry_arguments.hpp"
#include "kernels/radial.hpp"

namespace mlip {
namespace {

constexpr int64_t edges_per_block = 24;  // a multiple of the rows that matrix products take at once; stays in the cache
constexpr int64_t edges_per_task = 512;

template <class Real>
const RadialFunctions<Real>& functions() {
  if constexpr (sizeof(Real) == 4)
    return MLIP_BEST(radial_table).float32;
  else
    return MLIP_BEST(radial_table).float64;
}

template <class Real>
int32_t dtype_of() {
  return sizeof(Real) == 4 ? aoti_torch_dtype_float32() : aoti_torch_dtype_float64();
}

bool is_float64(const abi::Tensor& tensor) { return tensor.dtype() == aoti_torch_dtype_float64(); }

template <class Body>
void for_tasks(int64_t count, int64_t size, const Body& body) {
  abi::parallel_for(0, (count + size - 1) / size, 1, [&](int64_t first, int64_t last) {
    const int64_t begin = first * size, end = std::min(last * size, count);
    if (begin < end) body(begin, end);
  });
}

// bessel_basis(...) -> values, derivatives, envelope, its derivative (empty where the basis contains them)
void bessel_basis(StableIValue* stack, uint64_t, uint64_t) {
  constexpr const char* name = "bessel_basis";
  const abi::Tensor distance(stack[0]), transformed(stack[1]), slope(stack[2]), frequencies(stack[3]);
  BesselBasis basis{nullptr,
                    0,
                    abi::from_stack<double>(stack[4]),
                    abi::from_stack<double>(stack[5]),
                    abi::from_stack<int64_t>(stack[6]),
                    abi::from_stack<bool>(stack[7])};
  const bool single = abi::from_stack<bool>(stack[8]);
  expect(has_shape(distance, {-1}) && is_float64(distance), name,
         "distance: expected a contiguous float64 tensor of shape (E,) on the CPU");
  const int64_t count = distance.size(0);
  const bool transform = transformed.ndim() == 1 && transformed.size(0) > 0;
  for (const auto* tensor : {&transformed, &slope})
    expect(has_shape(*tensor, {transform ? count : 0}) && is_float64(*tensor), name,
           "transformed distances and their derivatives: expected contiguous float64 tensors of shape (E,), or empty");
  expect(has_shape(frequencies, {-1}) && is_float64(frequencies), name,
         "frequencies: expected a contiguous float64 tensor of shape (n,) on the CPU");
  expect(std::isfinite(basis.cutoff) && basis.cutoff > 0, name, "cutoff: expected a positive, finite length");
  expect(1 <= basis.p && basis.p <= 1000, name, "p: expected 1 to 1000");
  basis.frequencies = frequencies.data<double>(), basis.size = frequencies.size(0);
  const auto compute = [&](auto zero) {
    using Real = decltype(zero);
    const int64_t apart = basis.apply_cutoff ? 0 : count;
    auto values = distance.new_empty({count, basis.size}, dtype_of<Real>());
    auto derivatives = distance.new_empty({count, basis.size}, dtype_of<Real>());
    auto envelope = distance.new_empty({apart}, dtype_of<Real>());
    auto envelope_slope = distance.new_empty({apart}, dtype_of<Real>());
    const double *r = distance.data<double>(), *t = transformed.data<double>(), *dt = slope.data<double>();
    Real *b = values.template data<Real>(), *db = derivatives.template data<Real>();
    Real *f = envelope.template data<Real>(), *df = envelope_slope.template data<Real>();
    for_tasks(count, edges_per_task, [&](int64_t begin, int64_t end) {
      functions<Real>().bessel(basis, end - begin, r + begin, transform ? t + begin : nullptr,
                               transform ? dt + begin : nullptr, b + begin * basis.size, db + begin * basis.size,
                               apart ? f + begin : nullptr, apart ? df + begin : nullptr);
    });
    stack[0] = values.release();
    stack[1] = derivatives.release();
    stack[2] = envelope.release();
    stack[3] = envelope_slope.release();
  };
  if (single)
    compute(float{});
  else
    compute(double{});
}

// radial_activations(...) -> activations (E, h), their derivatives by the distance (E, h)
void radial_activations(StableIValue* stack, uint64_t, uint64_t) {
  constexpr const char* name = "radial_activations";
  const abi::Tensor basis(stack[0]), tangent(stack[1]), weights(stack[2]), envelope(stack[3]), envelope_slope(stack[4]);
  expect(has_shape(basis, {-1, -1}) && is_real(basis), name,
         "basis: expected a contiguous float32 or float64 tensor of shape (E, n) on the CPU");
  const int64_t count = basis.size(0), inputs = basis.size(1);
  expect(has_shape(tangent, {count, inputs}) && tangent.dtype() == basis.dtype(), name,
         "tangent: expected a contiguous tensor of the shape and type of the basis");
  const bool enveloped = envelope.ndim() == 1 && envelope.size(0) > 0;
  for (const auto* tensor : {&envelope, &envelope_slope})
    expect(has_shape(*tensor, {enveloped ? count : 0}) && tensor->dtype() == basis.dtype(), name,
           "envelope and its derivative: expected contiguous tensors of shape (E,) and the type of the basis, or empty");
  int layers = 0;
  int64_t widths[Perceptron<double>::most_layers] = {}, numbers = 0;
  for (int64_t k = 0, previous = inputs; k < Perceptron<double>::most_layers; k++) {
    const auto size = abi::from_stack<int64_t>(stack[5 + k]);
    if (k > 0 && size == 0) break;
    expect(0 < size && size <= 1 << 20, name, "widths: expected one to four numbers of units from 1 to 2^20");
    numbers += abi::product({previous, size});  // a basis without edges may be wider than any memory
    previous = widths[layers++] = size;
  }
  for (int k = layers; k < Perceptron<double>::most_layers; k++)
    expect(abi::from_stack<int64_t>(stack[5 + k]) == 0, name, "widths: expected no layer after one without units");
  expect(has_shape(weights, {numbers}) && weights.dtype() == basis.dtype(), name,
         "weights: expected a contiguous tensor of the type of the basis with the numbers of all matrices");
  for_real(basis, [&](auto zero) {
    using Real = decltype(zero);
    const auto& gemm = gemm_kernels<Real>();
    const int64_t units = widths[layers - 1];
    auto out = basis.new_empty({count, units}, basis.dtype());
    auto slopes = basis.new_empty({count, units}, basis.dtype());
    Perceptron<Real> network{layers, inputs, {}, {}};
    Buffer<Real> packed;
    int64_t size = 0;
    for (int k = 0; k < layers; k++) size += packed_size<Real>(k ? widths[k - 1] : inputs, widths[k]);
    Real* to = packed.reset(size);
    const Real* from = weights.data<Real>();
    for (int k = 0; k < layers; k++) {
      const int64_t rows = k ? widths[k - 1] : inputs;
      network.widths[k] = widths[k], network.packed[k] = to;
      gemm.pack(from, rows, widths[k], widths[k], 1, to);
      to += packed_size<Real>(rows, widths[k]), from += rows * widths[k];
    }
    const Real *b = basis.data<Real>(), *db = tangent.data<Real>();
    const Real *f = envelope.data<Real>(), *df = envelope_slope.data<Real>();
    Real *a = out.template data<Real>(), *da = slopes.template data<Real>();
    for_tasks(count, edges_per_block, [&](int64_t begin, int64_t end) {
      Buffer<Real> scratch;
      scratch.reset(functions<Real>().scratch(network, std::min(edges_per_block, end - begin)));
      for (int64_t e = begin; e < end; e += edges_per_block)
        functions<Real>().activations(network, std::min(edges_per_block, end - e), b + e * inputs, db + e * inputs,
                                      enveloped ? f + e : nullptr, enveloped ? df + e : nullptr, scratch.data(),
                                      a + e * units, da + e * units);
    });
    stack[0] = out.release();
    stack[1] = slopes.release();
  });
}

// rowwise_dot(a, b, rows) -> the scalar products of a[e] and b[rows[e]], of a[e] and b[e] where `rows` is empty
void rowwise_dot(StableIValue* stack, uint64_t, uint64_t) {
  constexpr const char* name = "rowwise_dot";
  const abi::Tensor a(stack[0]), b(stack[1]), rows(stack[2]);
  expect(has_shape(a, {-1, -1}) && is_real(a), name,
         "a: expected a contiguous float32 or float64 tensor of shape (E, n) on the CPU");
  const int64_t count = a.size(0), size = a.size(1);
  const bool chosen = !has_shape(rows, {0});
  expect(has_shape(b, {chosen || count == 0 ? -1 : count, size}) && b.dtype() == a.dtype(), name,
         "b: expected a contiguous tensor with rows as long as those of a, and as many, and of its type");
  expect(is_integer(rows) && (!chosen || has_shape(rows, {count})), name,
         "rows: expected a contiguous int64 tensor of shape (E,), or an empty one");
  auto out = a.new_empty({count}, a.dtype());
  for_real(a, [&](auto zero) {
    using Real = decltype(zero);
    const Real *x = a.data<Real>(), *y = b.data<Real>();
    const int64_t available = b.size(0), *row = rows.data<int64_t>();
    Real* sums = out.template data<Real>();
    for_tasks(count, edges_per_task, [&](int64_t begin, int64_t end) {
      for (int64_t e = begin; chosen && e < end; e++)
        expect(0 <= row[e] && row[e] < available, name, "rows: expected numbers of rows of b");
      functions<Real>().dot(end - begin, size, x + begin * size, chosen ? y : y + begin * size,
                            chosen ? row + begin : nullptr, sums + begin);
    });
  });
  stack[0] = out.release();
}

const auto definition =
    abi::Library("mlip")
        .def("bessel_basis(Tensor distance, Tensor transformed, Tensor slope, Tensor frequencies, float prefactor, "
             "float cutoff, int p, bool apply_cutoff, bool single) -> (Tensor values, Tensor derivatives, "
             "Tensor envelope, Tensor envelope_slope)")
        .def("radial_activations(Tensor basis, Tensor tangent, Tensor weights, Tensor envelope, Tensor envelope_slope, "
             "int width_1, int width_2, int width_3, int width_4) -> (Tensor activations, Tensor slopes)")
        .def("rowwise_dot(Tensor a, Tensor b, Tensor rows) -> Tensor");
const auto cpu = abi::Library("mlip", "CPU")
                     .impl("bessel_basis", bessel_basis)
                     .impl("radial_activations", radial_activations)
                     .impl("rowwise_dot", rowwise_dot);

}  // namespace
}  // namespace mlip
