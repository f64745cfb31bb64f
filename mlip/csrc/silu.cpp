// The operator `mlip::silu`, factor * (d/dz)^order silu(z), and its derivative: torch takes a dozen passes for the
// second one.
#include <algorithm>

#include "geometry_arguments.hpp"
#include "kernels/silu.hpp"

namespace mlip {
namespace {

constexpr int64_t numbers_per_task = 1 << 14;

template <class Real>
const SiluFunctions<Real>& functions() {
  if constexpr (sizeof(Real) == 4)
    return MLIP_BEST(silu_table).float32;
  else
    return MLIP_BEST(silu_table).float64;
}

// What both operators take: z (rows, columns), a factor of the same shape or an empty one, and the order.
struct Arguments {
  Arguments(const char* name, const StableIValue* stack)
      : z(stack[0]), factor(stack[1]), order(abi::from_stack<int64_t>(stack[2])), name(name) {}

  // Apart from construction, so that all arguments are owned before anything throws.
  void check() {
    expect(has_shape(z, {-1, -1}) && is_real(z), name,
           "z: expected a contiguous float32 or float64 tensor of two dimensions on the CPU");
    rows = z.size(0), columns = z.size(1);
    has_factor = !has_shape(factor, {0});
    expect(factor.dtype() == z.dtype() && (!has_factor || has_shape(factor, {rows, columns})), name,
           "factor: expected a contiguous tensor of the shape and type of z, or an empty one of one dimension");
    expect(0 <= order && order <= highest_silu, name, "order: expected 0 to 5");
  }

  template <class Body>
  void for_tasks(const Body& body) const {
    const int64_t count = rows * columns;
    abi::parallel_for(0, (count + numbers_per_task - 1) / numbers_per_task, 1, [&](int64_t first, int64_t last) {
      const int64_t begin = first * numbers_per_task, end = std::min(last * numbers_per_task, count);
      if (begin < end) body(begin, end - begin);
    });
  }

  abi::Tensor z, factor;
  int64_t order;
  const char* name;
  int64_t rows = 0, columns = 0;
  bool has_factor = false;
};

template <class Real>
Real* at(Real* data, bool there, int64_t begin) {
  return there ? data + begin : nullptr;
}

void silu(StableIValue* stack, uint64_t, uint64_t) {
  Arguments given("silu", stack);
  given.check();
  for_real(given.z, [&](auto zero) {
    using Real = decltype(zero);
    auto out = given.z.new_empty({given.rows, given.columns}, given.z.dtype());
    const Real *z = given.z.data<Real>(), *factor = given.factor.data<Real>();
    Real* to = out.template data<Real>();
    given.for_tasks([&](int64_t begin, int64_t count) {
      functions<Real>().value(static_cast<int>(given.order), count, z + begin, at(factor, given.has_factor, begin),
                              to + begin);
    });
    stack[0] = out.release();
  });
}

// silu_backward(z, factor, order, grad, need_z, need_factor) -> gradients, empty where not needed
void silu_backward(StableIValue* stack, uint64_t, uint64_t) {
  constexpr const char* name = "silu_backward";
  Arguments given(name, stack);
  const abi::Tensor grad(stack[3]);
  const bool need_z = abi::from_stack<bool>(stack[4]), need_factor = abi::from_stack<bool>(stack[5]);
  given.check();
  expect(has_shape(grad, {given.rows, given.columns}) && grad.dtype() == given.z.dtype(), name,
         "grad: expected a contiguous tensor of the shape and type of z");
  expect(!need_z || given.order < highest_silu, name, "order: expected 0 to 4 for the gradient of z");
  for_real(given.z, [&](auto zero) {
    using Real = decltype(zero);
    const auto make = [&](bool needed) {
      return needed ? given.z.new_empty({given.rows, given.columns}, given.z.dtype())
                    : given.z.new_empty({0}, given.z.dtype());
    };
    auto grad_z = make(need_z), grad_factor = make(need_factor);
    const Real *z = given.z.data<Real>(), *factor = given.factor.data<Real>(), *from = grad.data<Real>();
    Real *to_z = grad_z.template data<Real>(), *to_factor = grad_factor.template data<Real>();
    if (need_z || need_factor)
      given.for_tasks([&](int64_t begin, int64_t count) {
        functions<Real>().gradients(static_cast<int>(given.order), count, from + begin, z + begin,
                                    at(factor, given.has_factor, begin), at(to_z, need_z, begin),
                                    at(to_factor, need_factor, begin));
      });
    stack[0] = grad_z.release();
    stack[1] = grad_factor.release();
  });
}

const auto definition =
    abi::Library("mlip")
        .def("silu(Tensor z, Tensor factor, int order) -> Tensor")
        .def("silu_backward(Tensor z, Tensor factor, int order, Tensor grad, bool need_z, bool need_factor) -> "
             "(Tensor grad_z, Tensor grad_factor)");
const auto cpu = abi::Library("mlip", "CPU").impl("silu", silu).impl("silu_backward", silu_backward);

}  // namespace
}  // namespace mlip
