// Offsets of the edges of each center are looked at on the device: where they are wrong, results are NaN.
#pragma once
#include "cuda.hpp"
#include "device.cuh"

namespace mlip::cuda {
namespace {

__global__ void check_offsets(const int64_t* offsets, int64_t num_atoms, int64_t num_edges, int32_t* wrong) {
  const int64_t i = thread_number();
  if (i > num_atoms) return;
  const bool right = i == num_atoms ? offsets[0] == 0 && offsets[i] == num_edges
                                    : 0 <= offsets[i] && offsets[i] <= offsets[i + 1] && offsets[i + 1] <= num_edges;
  if (!right) *wrong = 1;
}

// Values that belong to edges are NaN if the offsets are wrong.
template <class Real>
__global__ void mark_wrong(const int32_t* wrong, Real* values, int64_t count) {
  if (!*wrong) return;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t k = thread_number(); k < count; k += step) values[k] = not_a_number<Real>();
}

// A number on the device, not zero where `offsets` (num_atoms + 1) are not ascending from 0 to num_edges.
inline Buffer<int32_t> checked_offsets(const abi::Tensor& offsets, int64_t num_atoms, int64_t num_edges,
                                       cudaStream_t stream) {
  constexpr int threads = 256;
  Buffer<int32_t> wrong(offsets, 1);
  MLIP_CUDA(cudaMemsetAsync(wrong.data(), 0, sizeof(int32_t), stream));
  launch(check_offsets, blocks_for(num_atoms + 1, threads), threads, stream, offsets.data<int64_t>(), num_atoms,
         num_edges, wrong.data());
  return wrong;
}
template <class Real>
void mark_where_wrong(const Buffer<int32_t>& wrong, Real* values, int64_t count, cudaStream_t stream) {
  constexpr int threads = 256;
  constexpr int64_t most_blocks = 256;
  const dim3 blocks = blocks_for(std::min(count, most_blocks * threads), threads);
  launch(mark_wrong<Real>, blocks, threads, stream, wrong.data(), values, count);
}

// A block for each atom and each `threads` of n numbers.
inline dim3 atoms_and_parts(int64_t num_atoms, int64_t n, int threads) {
  const dim3 blocks = blocks_for(num_atoms, 1);
  const int64_t parts = (n + threads - 1) / threads;
  if (parts > 65535) throw std::invalid_argument("mlip: more channels than a CUDA device can take");
  return dim3(blocks.x, static_cast<unsigned>(parts));
}

}  // namespace
}  // namespace mlip::cuda
