// Memory of large outputs: in 2 MB pages, and kept for the next one when its tensor is gone. The first touch of fresh
// pages costs as much as a neighbor search.
#pragma once
#include <memory>
#include <mutex>
#include <vector>

#include "memory.hpp"
#include "torch_abi.hpp"

namespace mlip {

class KeptBlocks {
 public:
  struct Block {
    void* data;
    size_t bytes;
  };

  // The cache of the process; it outlives every tensor.
  static KeptBlocks& instance() {
    static auto* const blocks = new KeptBlocks;
    return *blocks;
  }

  // At least so many bytes; a kept block, if one has about that size.
  Block take(size_t bytes) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      for (auto block = kept_.begin(); block != kept_.end(); ++block) {
        if (block->bytes < bytes || block->bytes > bytes + bytes / 4 + 4 * huge_page) continue;
        const Block found = *block;
        kept_.erase(block);
        kept_bytes_ -= found.bytes;
        return found;
      }
    }
    const size_t room = (bytes + bytes / 16 + huge_page) / huge_page * huge_page;  // the next list may be a bit longer
    void* data = std::aligned_alloc(huge_page, room);
    if (!data) throw std::bad_alloc();
    prefer_huge_pages(data, static_cast<int64_t>(room));
    return {data, room};
  }

  void give_back(Block block) {
    const std::lock_guard<std::mutex> lock(mutex_);
    kept_.push_back(block);
    kept_bytes_ += block.bytes;
    if (kept_bytes_ <= always_kept_bytes) return;
    const double most = std::max(1.0 * always_kept_bytes, kept_part_of_free * free_memory());
    while (static_cast<double>(kept_bytes_) > most) {  // the oldest go
      std::free(kept_.front().data);
      kept_bytes_ -= kept_.front().bytes;
      kept_.erase(kept_.begin());
    }
  }

 private:
  static constexpr size_t always_kept_bytes = size_t{256} << 20;
  static constexpr double kept_part_of_free = 0.125;  // of the memory that is free at that moment

  std::mutex mutex_;
  std::vector<Block> kept_;
  size_t kept_bytes_ = 0;
};

// An uninitialised, contiguous tensor (rows, columns) on the CPU.
template <class T>
abi::Tensor new_output(const abi::Tensor& like, int64_t rows, int64_t columns, int32_t dtype) {
  const size_t bytes = static_cast<size_t>(rows) * static_cast<size_t>(columns) * sizeof(T);
  if (bytes < 2 * huge_page) return like.new_empty({rows, columns}, dtype);
  auto block = std::make_unique<KeptBlocks::Block>(KeptBlocks::instance().take(bytes));
  const auto release = [](void*, void* context) {
    const std::unique_ptr<KeptBlocks::Block> owned(static_cast<KeptBlocks::Block*>(context));
    KeptBlocks::instance().give_back(*owned);
  };
  auto tensor = abi::Tensor::from_memory(block->data, {rows, columns}, dtype, release, block.get());
  block.release();
  return tensor;
}

}  // namespace mlip
