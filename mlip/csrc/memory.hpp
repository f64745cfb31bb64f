// How much memory there is, and large pages for large outputs.
#pragma once
#include <algorithm>
#include <cstdint>
#include <fstream>
#include <limits>
#include <string>
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

// Asks for 2 MB pages: first touches of 4 kB pages cost more than the neighbor search itself.
inline void prefer_huge_pages(void* pointer, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t page = 4096;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(pointer) + page - 1) / page * page;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(pointer) + static_cast<uintptr_t>(bytes)) / page * page;
  if (bytes >= (int64_t{4} << 20)) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)pointer;
  (void)bytes;
#endif
}

}  // namespace mlip
