// silu and its derivatives of many numbers (one table of functions per instruction set).
#pragma once
#include <cstdint>

#include "../isa.hpp"

namespace mlip {

constexpr int highest_silu = 5;  // order of the derivatives there are

template <class Real>
struct SiluFunctions {
  // factor (or 1, if null) times the derivative of this order.
  void (*value)(int order, int64_t count, const Real* z, const Real* factor, Real* out);
  // Gradients of `value` by z and by the factor, each where it is wanted (not null).
  void (*gradients)(int order, int64_t count, const Real* grad, const Real* z, const Real* factor, Real* grad_z,
                    Real* grad_factor);
};

struct SiluTable {
  SiluFunctions<float> float32;
  SiluFunctions<double> float64;
};

MLIP_FOR_EACH_ISA(extern const SiluTable silu_table;)

}  // namespace mlip
