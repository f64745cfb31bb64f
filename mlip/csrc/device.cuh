// What kernels share: inlining, numbers made of several lanes, wrong indices.
#pragma once
#include <cstdint>

#define MLIP_ISA cuda
#define MLIP_INLINE __device__ __forceinline__
#define MLIP_INLINE_LAMBDA
#include "kernels/inline.hpp"

namespace mlip::cuda {

constexpr int warp = 32;
constexpr unsigned all_lanes = 0xffffffffu;

// Number of the thread in the whole grid, and how many there are.
MLIP_INLINE int64_t thread_number() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }

template <class Real>
MLIP_INLINE Real not_a_number() {
  return static_cast<Real>(NAN);
}
MLIP_INLINE bool below(int64_t index, int64_t count) {
  return static_cast<uint64_t>(index) < static_cast<uint64_t>(count);
}

// The first of `count` ascending values that is not below `value`.
template <class Integer>
MLIP_INLINE int64_t lower_bound(const Integer* values, int64_t count, int64_t value) {
  int64_t first = 0;
  while (count > 0) {
    const int64_t half = count / 2;
    if (values[first + half] < value) {
      first += half + 1;
      count -= half + 1;
    } else {
      count = half;
    }
  }
  return first;
}

// Sums over the lanes of a warp of `count` values at once, a power of two up to 32: a lane gets that of
// values[lane / (32 / count)]. Half of the values are handed over in each step: about one exchange for each.
template <int count, int distance, class Real>
MLIP_INLINE Real lane_sums(Real* values, int lane) {
  if constexpr (count > 1) {
    const bool upper = lane & distance;
    unroll<count / 2>([&](auto k) {
      const Real kept = upper ? values[k + count / 2] : values[k];
      const Real given = upper ? values[k] : values[k + count / 2];
      values[k] = kept + __shfl_xor_sync(all_lanes, given, distance);
    });
    return lane_sums<count / 2, distance / 2>(values, lane);
  } else if constexpr (distance > 0) {
    values[0] += __shfl_xor_sync(all_lanes, values[0], distance);
    return lane_sums<1, distance / 2>(values, lane);
  } else {
    return values[0];
  }
}

constexpr int power_of_two_from(int n) {
  int power = 1;
  while (power < n) power *= 2;
  return power;
}

// to[k] = sum over the lanes of values[k].
template <int count, class Real>
MLIP_INLINE void store_lane_sums(const Real* values, int lane, Real* to) {
  unroll<(count + warp - 1) / warp>([&](auto group) {
    constexpr int first = group * warp, present = count - first < warp ? count - first : warp;
    constexpr int size = power_of_two_from(present), lanes_each = warp / size;
    Real part[size];
    unroll<size>([&](auto k) {
      constexpr int index = k;
      if constexpr (index < present)
        part[index] = values[first + index];
      else
        part[index] = Real(0);
    });
    const Real sum = lane_sums<size, warp / 2>(part, lane);
    if (lane % lanes_each == 0 && lane / lanes_each < present) to[first + lane / lanes_each] = sum;
  });
}

}  // namespace mlip::cuda
