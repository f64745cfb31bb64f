// Where the search puts what it finds, before the size of the list is known: rows of 32-bit words in large slabs that
// are kept from call to call.
#pragma once
#include <mutex>
#include <vector>

#include "memory.hpp"

namespace mlip {

// Slabs for one call; threads take them one by one.
class SlabPool {
 public:
  static constexpr int64_t slab_words = (int64_t{1} << 20) - Buffer<int32_t>::slack;

  // An array of at least `words`; all its words may be used up to the next `recycle`.
  int32_t* take(int64_t words) {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto& slabs = words > slab_words ? large_ : slabs_;
    if (words > slab_words || taken_ == slabs_.size()) {
      Buffer<int32_t> slab;
      slab.reset(std::max(words, slab_words));
      slabs.push_back(std::move(slab));
    }
    return words > slab_words ? large_.back().data() : slabs_[taken_++].data();
  }

  void recycle() {
    taken_ = 0;
    large_.clear();
  }

  int64_t bytes() const { return static_cast<int64_t>(slabs_.size()) * slab_words * bytes_per_word; }

  // Gives back the memory of all but the first slabs.
  void shrink(int64_t most_bytes) {
    while (bytes() > most_bytes) slabs_.pop_back();
  }

 private:
  static constexpr int64_t bytes_per_word = sizeof(int32_t);

  std::mutex mutex_;
  std::vector<Buffer<int32_t>> slabs_, large_;
  size_t taken_ = 0;
};

// Appends rows whose length is known only once they are written.
class RowWriter {
 public:
  explicit RowWriter(SlabPool& pool) : pool_(pool) {}

  // Room for `words`, of which `keep` says how many were used.
  int32_t* room(int64_t words) {
    if (words > capacity_ - used_) {
      capacity_ = std::max(words, SlabPool::slab_words);
      slab_ = pool_.take(capacity_);
      used_ = 0;
    }
    return slab_ + used_;
  }
  void keep(int64_t words) { used_ += words; }

 private:
  SlabPool& pool_;
  int32_t* slab_ = nullptr;
  int64_t capacity_ = 0, used_ = 0;
};

}  // namespace mlip
