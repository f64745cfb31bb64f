// Memory of large tensors: in 2 MB pages where it fills them, and kept for the next one when its tensor is gone. The first
// touch of fresh pages costs as much as a neighbor search, and up to a quarter of a training step. Such tensors can't be
// resized.
#pragma once
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

#include "memory.hpp"

namespace mlip {

class KeptMemory {
 public:
  struct Block {
    void* data;
    size_t bytes;
  };
  static constexpr size_t least_bytes = size_t{256} << 10;  // below, torch's own memory serves as well

  // The memory of the process; it outlives every tensor.
  static KeptMemory& instance() {
    static auto* const memory = new KeptMemory;
    return *memory;
  }

  // At least so many bytes. Sizes are rounded up, to eight between one power of two and the next, so that the block of
  // a list that was a bit shorter serves again.
  Block take(size_t bytes) {
    const size_t step = size_t{1} << (std::max(8, 63 - __builtin_clzll(bytes)) - 3);
    const size_t room = (bytes + step - 1) / step * step;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const auto found = std::find_if(kept_.rbegin(), kept_.rend(), [&](const Block& block) { return block.bytes == room; });
      if (found != kept_.rend()) {
        const Block block = *found;
        kept_.erase(std::next(found).base());
        kept_bytes_ -= room;
        return block;
      }
    }
    const size_t alignment = room >= 2 * huge_page ? huge_page : 64;
    void* data = std::aligned_alloc(alignment, (room + alignment - 1) / alignment * alignment);
    if (!data) {
      const std::lock_guard<std::mutex> lock(mutex_);
      free_down_to(0);
      data = std::aligned_alloc(alignment, (room + alignment - 1) / alignment * alignment);
    }
    if (!data) throw std::bad_alloc();
    prefer_huge_pages(data, static_cast<int64_t>(room));
    return {data, room};
  }

  void give_back(Block block) {
    const std::lock_guard<std::mutex> lock(mutex_);
    kept_.push_back(block);
    kept_bytes_ += block.bytes;
    if (kept_bytes_ > always_kept_bytes) free_down_to(most_bytes());
  }

 private:
  static constexpr size_t always_kept_bytes = size_t{256} << 20;
  static constexpr double kept_part_of_free = 0.05;

  // Part of the memory that was free less than a second ago.
  size_t most_bytes() {
    const auto now = std::chrono::steady_clock::now();
    if (now - asked_ > std::chrono::seconds(1)) {
      asked_ = now;
      const double free = free_memory();  // infinite where nothing tells
      most_bytes_ = always_kept_bytes;
      if (std::isfinite(free)) most_bytes_ = std::max(most_bytes_, static_cast<size_t>(kept_part_of_free * free));
    }
    return most_bytes_;
  }
  void free_down_to(size_t most) {  // the oldest go
    auto last = kept_.begin();
    for (; kept_bytes_ > most; ++last) {
      std::free(last->data);
      kept_bytes_ -= last->bytes;
    }
    kept_.erase(kept_.begin(), last);
  }

  std::mutex mutex_;
  std::vector<Block> kept_;
  size_t kept_bytes_ = 0, most_bytes_ = 0;
  std::chrono::steady_clock::time_point asked_;
};

}  // namespace mlip
