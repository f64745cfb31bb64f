// Numbers of several neighbors at once, one in each thread of a warp, for symmetry functions: kernels/symmetry_numbers.hpp
// of CUDA devices. All threads of the warp take the same way.
#pragma once
#include "device.cuh"
#include "kernels/dual.hpp"

namespace mlip::cuda {

using V = double;
using Mask = bool;
constexpr int lanes = warp;

MLIP_INLINE int this_lane() { return static_cast<int>(threadIdx.x) % warp; }

MLIP_INLINE V vector(double x) { return x; }
MLIP_INLINE V select(Mask where, V a, V b) { return where ? a : b; }
MLIP_INLINE bool any(Mask mask) { return __ballot_sync(all_lanes, mask) != 0; }

// Which lane this one is among those where the mask is set.
MLIP_INLINE int64_t rank_in(uint32_t set) { return __popc(set & ((1u << this_lane()) - 1)); }

// Writes place + k of the lanes k that are set; how many there are.
MLIP_INLINE int64_t append_places(Mask mask, int64_t place, int64_t* out) {
  const uint32_t set = __ballot_sync(all_lanes, mask);
  if (mask) out[rank_in(set)] = place + this_lane();
  return __popc(set);
}

MLIP_INLINE double sum_of_lanes(V x) {
  for (int distance = warp / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(all_lanes, x, distance);
  return x;
}

MLIP_INLINE V root(V x) { return std::sqrt(x); }
MLIP_INLINE V power(V x, double exponent) { return std::pow(x, exponent); }
MLIP_INLINE V arc_cosine(V x) { return std::acos(x); }
MLIP_INLINE V decay(V x) { return std::exp(x); }
struct SineCosine {
  V sine, cosine;
};
MLIP_INLINE SineCosine turn(V x) { return {std::sin(x), std::cos(x)}; }
MLIP_INLINE int lowest_bit(uint32_t x) { return __popc(~x & (x - 1)); }

MLIP_INLINE V load_lanes(const double* at) { return at[this_lane()]; }
MLIP_INLINE void store_lanes(double* at, V x) { at[this_lane()] = x; }
MLIP_INLINE V gather(const double* from, const int64_t* places) { return from[places[this_lane()]]; }
MLIP_INLINE void scatter_add(double* to, const int64_t* places, V x) { to[places[this_lane()]] += x; }

// body(k) for k from 0 to count, which may be in any order.
template <class Body>
MLIP_INLINE void for_each(int64_t count, const Body& body) {
  for (int64_t k = this_lane(); k < count; k += warp) body(k);
}
// take(k, place) of those k that are chosen, with places from `place` on, in their order; the place after the last.
template <class Chosen, class Take>
MLIP_INLINE int64_t choose(int64_t count, int64_t place, const Chosen& chosen, const Take& take) {
  for (int64_t first = 0; first < count; first += warp) {
    const int64_t k = first + this_lane();
    const bool mine = k < count && chosen(k);
    const uint32_t set = __ballot_sync(all_lanes, mine);
    if (mine) take(k, place + rank_in(set));
    place += __popc(set);
  }
  return place;
}
// Adds to one number.
MLIP_INLINE void add_once(double& to, double x) {
  if (this_lane() == 0) to += x;
}
// Lanes see what others have stored before.
MLIP_INLINE void settle() { __syncwarp(); }

// An array of numbers of all lanes.
template <class T>
struct LaneArray {
  T* at;  // those of this lane
  MLIP_INLINE T& operator[](int64_t k) const { return at[k * warp]; }
  MLIP_INLINE LaneArray operator+(int64_t k) const { return {at + k * warp}; }
};
template <class T>
MLIP_INLINE LaneArray<T> lane_array(double* at) {
  return {reinterpret_cast<T*>(at) + this_lane()};
}

}  // namespace mlip::cuda
