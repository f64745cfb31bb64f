// Sums over the lanes of several vectors at once.
#pragma once
#include <cstring>

#include "vector.hpp"

namespace mlip::MLIP_ISA {

// Lane of the concatenation (a, b) that output lane `lane` takes, for sums over pairs of parts of `parts` lanes.
constexpr int merged_lane(int lane, int lanes, int parts, int upper) {
  const int half = parts / 2, groups = lanes / parts, group = lane / half;
  return (group < groups ? 0 : lanes) + (group % groups) * parts + lane % half + upper * half;
}
template <class Real, int parts, size_t... I>
MLIP_INLINE Vector<Real> merge(Vector<Real> a, Vector<Real> b, std::index_sequence<I...>) {
  constexpr int lanes = width<Real>;
  return __builtin_shufflevector(a, b, merged_lane(I, lanes, parts, 0)...) +
         __builtin_shufflevector(a, b, merged_lane(I, lanes, parts, 1)...);
}
template <class Real, int count, int parts>
MLIP_INLINE Vector<Real> sum_tree(const Vector<Real>* values) {
  if constexpr (count == 1)
    return values[0];
  else
    return merge<Real, parts>(sum_tree<Real, count / 2, parts * 2>(values),
                              sum_tree<Real, count / 2, parts * 2>(values + count / 2),
                              std::make_index_sequence<width<Real>>{});
}

// to[k] = sum over the lanes of values[k]. Writes whole vectors where there is room for them.
template <class Real, int count, int room>
MLIP_INLINE void store_lane_sums(const Vector<Real>* values, Real* to) {
  constexpr int lanes = width<Real>;
  unroll<(count + lanes - 1) / lanes>([&](auto group) __attribute__((always_inline)) {
    constexpr int first = group * lanes, present = count - first < lanes ? count - first : lanes;
    Vector<Real> part[lanes];
    unroll<lanes>([&](auto k) __attribute__((always_inline)) {
      constexpr int index = k;
      if constexpr (index < present)
        part[index] = values[first + index];
      else
        part[index] = Vector<Real>{};
    });
    const Vector<Real> sums = sum_tree<Real, lanes, 2>(part);
    if constexpr (first + lanes <= room)
      store(to + first, sums);
    else
      std::memcpy(to + first, &sums, present * sizeof(Real));
  });
}

}  // namespace mlip::MLIP_ISA
