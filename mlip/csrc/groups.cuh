// Items in groups, in their order: sums over a group are then the same in every run, which atomic additions are not.
#pragma once
#include "cuda.hpp"
#include "device.cuh"

namespace mlip::cuda {

// Sorts pairs of numbers stably by the keys' lower `bits` (sort.cu).
void sort_pairs(const abi::Tensor& like, const int32_t* keys, int32_t* sorted_keys, const int32_t* values,
                int32_t* sorted_values, int64_t count, int bits, cudaStream_t stream);

namespace {

// Keys of items with wrong numbers come last.
__global__ void number_items(const int64_t* group, int64_t count, int64_t groups, int32_t* keys, int32_t* items) {
  const int64_t k = thread_number();
  if (k >= count) return;
  keys[k] = static_cast<int32_t>(below(group[k], groups) ? group[k] : groups);
  items[k] = static_cast<int32_t>(k);
}

__global__ void find_bounds(const int32_t* sorted_keys, int64_t count, int64_t groups, int32_t* bounds) {
  const int64_t k = thread_number();
  if (k <= groups) bounds[k] = static_cast<int32_t>(lower_bound(sorted_keys, count, k));
}

}  // namespace

// The items of group k are order[bounds[k]] ... order[bounds[k + 1] - 1], ascending. Where `group` has wrong numbers,
// bounds[groups] < count.
class Groups {
 public:
  Groups(const abi::Tensor& like, const int64_t* group, int64_t count, int64_t groups, cudaStream_t stream)
      : order_(like, count), bounds_(like, groups + 1) {
    constexpr int threads = 256;
    if (count >= 2147483647 || groups >= 2147483647)
      throw std::invalid_argument("mlip: more than 2^31 edges or atoms on a CUDA device; evaluate in parts");
    const Buffer<int32_t> keys(like, count), sorted_keys(like, count), items(like, count);
    launch(number_items, blocks_for(count, threads), threads, stream, group, count, groups, keys.data(), items.data());
    int bits = 1;
    while ((groups >> bits) > 0) bits++;
    sort_pairs(like, keys.data(), sorted_keys.data(), items.data(), order_.data(), count, bits, stream);
    launch(find_bounds, blocks_for(groups + 1, threads), threads, stream, sorted_keys.data(), count, groups,
           bounds_.data());
  }
  const int32_t* order() const { return order_.data(); }
  const int32_t* bounds() const { return bounds_.data(); }

 private:
  Buffer<int32_t> order_, bounds_;
};

}  // namespace mlip::cuda
