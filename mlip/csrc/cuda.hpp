// What every CUDA operator needs around its kernels.
#pragma once
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <algorithm>
#include <initializer_list>
#include <string>
#include <utility>

#include "torch_abi.hpp"

namespace mlip::cuda {

inline void check(cudaError_t status, const char* call) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string("mlip: ") + call + " failed: " + cudaGetErrorString(status));
}
#define MLIP_CUDA(call) ::mlip::cuda::check(call, #call)

// Makes the device of a tensor the current one for as long as it lives.
class Device {
 public:
  explicit Device(const abi::Tensor& tensor) {
    MLIP_CUDA(cudaGetDevice(&previous_));
    MLIP_CUDA(cudaSetDevice(tensor.device_index()));
  }
  Device(const Device&) = delete;
  ~Device() { cudaSetDevice(previous_); }

 private:
  int previous_ = 0;
};

// Torch's current stream. The function lives in libtorch_cuda.so, which a CPU-only torch lacks: no link-time symbol.
inline cudaStream_t stream(const abi::Tensor& tensor) {
  using Getter = int32_t (*)(int32_t, void**);
  static const auto getter = []() -> Getter {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return library ? reinterpret_cast<Getter>(dlsym(library, "aoti_torch_get_current_cuda_stream")) : nullptr;
  }();
  if (!getter) throw std::runtime_error("mlip: this torch was built without CUDA");
  void* current = nullptr;
  abi::check(getter(tensor.device_index(), &current), "aoti_torch_get_current_cuda_stream");
  return static_cast<cudaStream_t>(current);
}

// Memory of torch's allocator, freed in the order of the stream.
template <class T>
class Buffer {
 public:
  Buffer(const abi::Tensor& like, int64_t count)
      : storage_(like.new_empty({(count * static_cast<int64_t>(sizeof(T)) + 7) / 8 + 1}, aoti_torch_dtype_int64())) {}
  T* data() const { return static_cast<T*>(storage_.data<void>()); }

 private:
  abi::Tensor storage_;
};

template <class T>
Buffer<T> upload(const abi::Tensor& like, const T* values, int64_t count, cudaStream_t stream) {
  Buffer<T> buffer(like, count);
  MLIP_CUDA(cudaMemcpyAsync(buffer.data(), values, count * sizeof(T), cudaMemcpyHostToDevice, stream));
  return buffer;
}

// Runs `kernel` on `blocks` blocks of `threads` threads; the arguments are converted to those of the kernel.
template <class T>
struct Same {
  using type = T;
};
template <class... Parameters>
void launch(void (*kernel)(Parameters...), dim3 blocks, int threads, cudaStream_t stream,
            typename Same<Parameters>::type... arguments) {
  if (blocks.x == 0 || blocks.y == 0) return;
  void* pointers[] = {const_cast<void*>(static_cast<const void*>(&arguments))...};
  MLIP_CUDA(cudaLaunchKernel(kernel, blocks, dim3(threads), pointers, 0, stream));
}

// Blocks of `threads` threads for n items with a thread each.
inline dim3 blocks_for(int64_t n, int threads) {
  const int64_t blocks = (n + threads - 1) / threads;
  if (blocks > 2147483647) throw std::invalid_argument("mlip: more threads than a CUDA device can start");
  return dim3(static_cast<unsigned>(blocks));
}

// Checks of the arguments of an operator on one device. Numbers in tensors are not looked at, since that would wait
// for the device: kernels never read outside of their tensors, and where an index is wrong, results are NaN.
class Checks {
 public:
  Checks(const char* operation, const abi::Tensor& first)
      : operation_(operation), device_type_(first.device_type()), device_index_(first.device_index()) {
    expect(!first.on_cpu(), "expected all tensors on one CUDA device");
  }

  void expect(bool condition, const char* message) const {
    if (!condition) throw std::invalid_argument(std::string(operation_) + ": " + message);
  }
  // float32 or float64
  void real(const abi::Tensor& tensor, const char* message) const {
    expect(tensor.dtype() == aoti_torch_dtype_float32() || tensor.dtype() == aoti_torch_dtype_float64(), message);
  }
  // A contiguous tensor of this type and these sizes (-1: any).
  void tensor(const abi::Tensor& tensor, int32_t dtype, std::initializer_list<int64_t> shape,
              const char* message) const {
    expect(tensor.device_type() == device_type_ && tensor.device_index() == device_index_,
           "expected all tensors on one CUDA device");
    bool right = tensor.dtype() == dtype && tensor.contiguous() && tensor.ndim() == static_cast<int64_t>(shape.size());
    for (int axis = 0; right && axis < static_cast<int>(shape.size()); axis++)
      right = shape.begin()[axis] < 0 || tensor.size(axis) == shape.begin()[axis];
    expect(right, message);
  }
  void integers(const abi::Tensor& tensor_, std::initializer_list<int64_t> shape, const char* message) const {
    tensor(tensor_, aoti_torch_dtype_int64(), shape, message);
  }

 private:
  const char* operation_;
  int32_t device_type_, device_index_;
};

// Calls body(Real{}) with the type of the tensor, float or double.
template <class Body>
void for_real(const abi::Tensor& tensor, const Body& body) {
  if (tensor.dtype() == aoti_torch_dtype_float64())
    body(double{});
  else
    body(float{});
}

}  // namespace mlip::cuda
