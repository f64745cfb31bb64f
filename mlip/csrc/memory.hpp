// How much memory there is, large pages for large arrays, and arrays without the cost of zeroing.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <new>
#include <string>
#include <utility>
#ifdef __linux__
#include <sys/mman.h>
#endif

namespace mlip {

// Bytes of the control group's use that the kernel gives back when they are needed: cached files, kernel caches.
inline double reclaimable_memory(const std::string& group) {
  double sum = 0, value = 0;
  std::ifstream statistics(group + "/memory.stat");
  for (std::string key; statistics >> key >> value;)
    if (key == "active_file" || key == "inactive_file" || key == "slab_reclaimable") sum += value;
  return sum;
}

// Bytes that can be allocated before the machine, or the control group of the process, runs out of memory.
inline double free_memory(const std::string& meminfo = "/proc/meminfo", const std::string& group = "/sys/fs/cgroup") {
  double available = std::numeric_limits<double>::infinity();
  std::ifstream machine(meminfo);
  for (std::string key, unit; machine >> key;) {
    double value = 0;
    if (!(machine >> value)) break;
    if (key == "MemAvailable:") available = value * 1024;
    std::getline(machine, unit);
  }
  double limit = 0, used = 0;
  std::ifstream group_limit(group + "/memory.max"), group_used(group + "/memory.current");
  if (group_limit >> limit && group_used >> used && limit - used < available)
    available = std::min(available, limit - used + reclaimable_memory(group));
  return std::max(0.0, available);
}

constexpr size_t huge_page = size_t{2} << 20;

// Asks for 2 MB pages: first touches of 4 kB pages cost more than the neighbor search itself.
inline void prefer_huge_pages(void* pointer, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t page = 4096;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(pointer) + page - 1) / page * page;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(pointer) + static_cast<uintptr_t>(bytes)) / page * page;
  if (static_cast<size_t>(bytes) >= 2 * huge_page) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)pointer;
  (void)bytes;
#endif
}

// An array of plain numbers, uninitialised, with room for a block more behind its end.
template <class T>
class Buffer {
 public:
  static constexpr int64_t slack = 64;

  Buffer() = default;
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Buffer() { std::free(data_); }

  // Room for `size` elements; what was there is lost.
  T* reset(int64_t size) {
    if (!data_ || size > size_) {
      std::free(std::exchange(data_, nullptr));
      const auto wanted = static_cast<size_t>(size + slack) * sizeof(T);
      const size_t alignment = wanted >= 2 * huge_page ? huge_page : 64;
      const size_t bytes = (wanted + alignment - 1) / alignment * alignment;
      data_ = static_cast<T*>(std::aligned_alloc(alignment, bytes));
      size_ = data_ ? size : 0;
      if (!data_) throw std::bad_alloc();
      prefer_huge_pages(data_, static_cast<int64_t>(bytes));
    }
    return data_;
  }

  // Room for `size` elements, of which the first `used` are kept.
  T* grow(int64_t size, int64_t used) {
    if (size > size_) {
      Buffer larger;
      std::copy_n(data_, used, larger.reset(2 * size));
      swap(larger);
    }
    return data_;
  }

  int64_t bytes() const { return size_ * static_cast<int64_t>(sizeof(T)); }
  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](int64_t k) { return data_[k]; }
  const T& operator[](int64_t k) const { return data_[k]; }

 private:
  void swap(Buffer& other) {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }

  T* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace mlip
