// Numbers of several neighbors at once, one in each lane of a vector, for symmetry functions on processors. A CUDA device
// has the same (../symmetry_numbers.cuh), whose lanes are the threads of a warp.
#pragma once
#include <cmath>

#include "compress.hpp"
#include "dual.hpp"
#include "vector_math.hpp"

namespace mlip::MLIP_ISA {

using V = Vector<double>;
using Mask = BitVector<double>;
constexpr int lanes = width<double>;

MLIP_INLINE V vector(double x) { return V{} + x; }
MLIP_INLINE V select(Mask where, V a, V b) { return where ? a : b; }

// Whether any lane is set.
MLIP_INLINE bool any(Mask mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi64_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__)
  return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
#else
  Bits<double> found = 0;
  for (int k = 0; k < width<double>; k++) found |= mask[k];
  return found != 0;
#endif
}
// Writes place + k of the lanes k that are set, and anything behind them, up to a vector; how many there are.
MLIP_INLINE int64_t append_places(Mask mask, int64_t place, int64_t* out) {
#if defined(__AVX512F__)
  const __m512i places = _mm512_add_epi64(_mm512_set1_epi64(place), _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0));
  const __mmask8 set = _mm512_test_epi64_mask((__m512i)mask, (__m512i)mask);
  _mm512_storeu_si512(out, _mm512_maskz_compress_epi64(set, places));
  return __builtin_popcount(set);
#elif defined(__AVX2__)
  // For each mask the places of its bits, a byte each.
  static constexpr uint32_t bits[16] = {0,      0,      1,        0x100,    2,        0x200,      0x201,      0x20100,
                                        3,      0x300,  0x301,    0x30100,  0x302,    0x30200,    0x30201,    0x3020100};
  const int set = _mm256_movemask_pd((__m256d)mask);
  const __m256i chosen = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(static_cast<int>(bits[set])));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_add_epi64(_mm256_set1_epi64x(place), chosen));
  return __builtin_popcount(static_cast<uint32_t>(set));
#else
  int64_t count = 0;
  for (int k = 0; k < width<double>; k++) {
    out[count] = place + k;
    count -= mask[k];
  }
  return count;
#endif
}

MLIP_INLINE double sum_of_lanes(V x) {
  double sum = 0;
  for (int k = 0; k < lanes; k++) sum += x[k];
  return sum;
}

MLIP_INLINE V root(V x) {
  for (int k = 0; k < lanes; k++) x[k] = std::sqrt(x[k]);
  return x;
}
MLIP_INLINE V power(V x, double exponent) {
  for (int k = 0; k < lanes; k++) x[k] = std::pow(x[k], exponent);
  return x;
}
MLIP_INLINE V arc_cosine(V x) {
  for (int k = 0; k < lanes; k++) x[k] = std::acos(x[k]);
  return x;
}
// exp(x) of x <= 0
MLIP_INLINE V decay(V x) { return exp_of_negative<double>(x); }
// Sine and cosine of numbers from 0 to π/4.
MLIP_INLINE SineCosine turn(V x) { return sine_cosine_of_small(x); }
MLIP_INLINE int lowest_bit(uint32_t x) { return __builtin_ctz(x); }

// Numbers in memory that begin anywhere, or lie anywhere.
MLIP_INLINE V load_lanes(const double* at) { return load(at); }
MLIP_INLINE void store_lanes(double* at, V x) { store(at, x); }
MLIP_INLINE V gather(const double* from, const int64_t* places) {
  V out{};
  for (int lane = 0; lane < lanes; lane++) out[lane] = from[places[lane]];
  return out;
}
MLIP_INLINE void scatter_add(double* to, const int64_t* places, V x) {
  for (int lane = 0; lane < lanes; lane++) to[places[lane]] += x[lane];
}

// body(k) for k from 0 to count, which may be in any order.
template <class Body>
MLIP_INLINE void for_each(int64_t count, const Body& body) {
  for (int64_t k = 0; k < count; k++) body(k);
}
// take(k, place) of those k that are chosen, with places from `place` on, in their order; the place after the last.
template <class Chosen, class Take>
MLIP_INLINE int64_t choose(int64_t count, int64_t place, const Chosen& chosen, const Take& take) {
  for (int64_t k = 0; k < count; k++)
    if (chosen(k)) take(k, place++);
  return place;
}
// Adds to one number.
MLIP_INLINE void add_once(double& to, double x) { to += x; }
// Lanes see what others have stored before.
MLIP_INLINE void settle() {}

// An array of numbers of all lanes.
template <class T>
using LaneArray = T*;
template <class T>
MLIP_INLINE LaneArray<T> lane_array(double* at) {
  return reinterpret_cast<T*>(at);
}

}  // namespace mlip::MLIP_ISA
