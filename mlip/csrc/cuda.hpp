// What every CUDA operator needs around its kernels.
#pragma once
#include <cuda_runtime.h>
#include <dlfcn.h>

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

}  // namespace mlip::cuda
