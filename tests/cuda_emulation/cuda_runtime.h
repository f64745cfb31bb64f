// Stands in for CUDA's header, so that a C++ compiler takes mlip/csrc/*.cu and their kernels run on the processor: one
// block after the other, each thread a coroutine. Tensors are those of the CPU; operators come to the namespace
// `mlip_emulated`. Barriers that not all threads reach end the program.
#pragma once
#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __forceinline__ __attribute__((always_inline)) inline
#define __shared__ static
#define __launch_bounds__(threads)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3() = default;
  explicit dim3(unsigned x_, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
using cudaStream_t = void*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
enum cudaMemcpyKind { cudaMemcpyHostToDevice };

inline const char* cudaGetErrorString(cudaError_t) { return "error"; }
inline cudaError_t cudaGetDevice(int*) { return cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  if (bytes) std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  if (bytes) std::memset(to, value, bytes);
  return cudaSuccess;
}

namespace emulation {
struct Indices {
  dim3 thread, block, block_size, grid_size;
};
const Indices& here();
void run(dim3 grid, dim3 block, const std::function<void()>& thread);
void wait_for_block();
uint64_t exchange(uint64_t mine, int distance);  // the number of the lane at this distance (exclusive or)
uint32_t ballot(bool mine);
void wait_for_warp();
}  // namespace emulation

#define threadIdx (::emulation::here().thread)
#define blockIdx (::emulation::here().block)
#define blockDim (::emulation::here().block_size)
#define gridDim (::emulation::here().grid_size)

inline void __syncthreads() { emulation::wait_for_block(); }
inline void __syncwarp() { emulation::wait_for_warp(); }
inline uint32_t __ballot_sync(unsigned, bool mine) { return emulation::ballot(mine); }
inline int __popc(uint32_t x) { return __builtin_popcount(x); }
template <class T>
T __shfl_xor_sync(unsigned, T value, int distance) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = emulation::exchange(bits, distance);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

namespace emulation {
template <class... P, size_t... I>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, void** arguments, std::index_sequence<I...>) {
  run(grid, block, [&] { kernel(*static_cast<P*>(arguments[I])...); });
}
}  // namespace emulation

template <class... P>
cudaError_t cudaLaunchKernel(void (*kernel)(P...), dim3 grid, dim3 block, void** arguments, size_t, cudaStream_t) {
  emulation::launch(kernel, grid, block, arguments, std::index_sequence_for<P...>{});
  return cudaSuccess;
}

// What the operators ask of torch.
extern "C" int32_t emulated_stream(int32_t, void** stream);
#define dlopen(name, flags) reinterpret_cast<void*>(1)
#define dlsym(library, name) reinterpret_cast<void*>(&emulated_stream)
#define aoti_torch_library_init_impl emulated_library_init_impl
// All tensors seem to be on a CUDA device, but for one-dimensional ones of int32: the programs of contractions; and those
// that emulated_host_tensors names.
#define aoti_torch_get_device_type emulated_get_device_type
#define aoti_torch_empty_strided emulated_empty_strided
