// Checks that the operators on edges and atoms share. An operator wraps all its arguments before it checks any.
#pragma once
#include <string>

#include "torch_abi.hpp"

namespace mlip {

inline void expect(bool condition, const char* operation, const char* message) {
  if (!condition) throw std::invalid_argument(std::string(operation) + ": " + message);
}

inline bool is_real(const abi::Tensor& tensor) {
  return tensor.dtype() == aoti_torch_dtype_float32() || tensor.dtype() == aoti_torch_dtype_float64();
}
inline bool is_integer(const abi::Tensor& tensor) { return tensor.dtype() == aoti_torch_dtype_int64(); }

// A contiguous tensor on the CPU with these sizes; -1 stands for any.
inline bool has_shape(const abi::Tensor& tensor, std::initializer_list<int64_t> shape) {
  if (!tensor.on_cpu() || tensor.ndim() != static_cast<int64_t>(shape.size()) || !tensor.contiguous()) return false;
  int axis = 0;
  for (const int64_t size : shape) {
    if (size >= 0 && tensor.size(axis) != size) return false;
    axis++;
  }
  return true;
}

// A tensor for an output, of the same type.
inline abi::Tensor new_output(const abi::Tensor& like, std::initializer_list<int64_t> shape) {
  return like.new_empty(shape, like.dtype());
}

// Calls body(Real{}) with the type of the tensor, float or double.
template <class Body>
void for_real(const abi::Tensor& tensor, const Body& body) {
  if (tensor.dtype() == aoti_torch_dtype_float64())
    body(double{});
  else
    body(float{});
}

}  // namespace mlip
