// Radix sort for all CUDA operators, compiled once.
#include <cub/device/device_radix_sort.cuh>

#include "groups.cuh"

namespace mlip::cuda {

void sort_pairs(const abi::Tensor& like, const int32_t* keys, int32_t* sorted_keys, const int32_t* values,
                int32_t* sorted_values, int64_t count, int bits, cudaStream_t stream) {
  if (count == 0) return;
  const auto size = static_cast<int>(count);
  size_t bytes = 0;
  MLIP_CUDA(cub::DeviceRadixSort::SortPairs(nullptr, bytes, keys, sorted_keys, values, sorted_values, size, 0, bits,
                                            stream));
  const Buffer<char> workspace(like, static_cast<int64_t>(bytes));
  MLIP_CUDA(cub::DeviceRadixSort::SortPairs(workspace.data(), bytes, keys, sorted_keys, values, sorted_values, size, 0,
                                            bits, stream));
}

}  // namespace mlip::cuda
