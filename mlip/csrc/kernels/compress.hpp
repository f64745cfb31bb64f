// Sixteen numbers at a time: compared to a bit mask, and those whose bit is set packed together.
#pragma once
#include <cstdint>
#if defined(__SSE2__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 warns of its own _mm512_undefined_epi32
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

#include "vector.hpp"

namespace mlip::MLIP_ISA {

// Bit k is set if values[k] < limit, for the lanes of one vector.
MLIP_INLINE uint32_t below(Vector<float> values, float limit) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(reinterpret_cast<__m512>(values), _mm512_set1_ps(limit), _CMP_LT_OQ);
#elif defined(__AVX2__)
  return static_cast<uint32_t>(
      _mm256_movemask_ps(_mm256_cmp_ps(reinterpret_cast<__m256>(values), _mm256_set1_ps(limit), _CMP_LT_OQ)));
#elif defined(__SSE2__)
  return static_cast<uint32_t>(_mm_movemask_ps(_mm_cmplt_ps(reinterpret_cast<__m128>(values), _mm_set1_ps(limit))));
#else
  uint32_t mask = 0;
  for (int k = 0; k < width<float>; k++) mask |= static_cast<uint32_t>(values[k] < limit) << k;
  return mask;
#endif
}

MLIP_INLINE int32_t bits(uint32_t mask) { return __builtin_popcount(mask); }

#if defined(__AVX512F__)

// A selection of sixteen numbers of 32 bits. `pack` writes the selected ones, and anything behind them, up to sixteen.
struct Selection {
  __mmask16 mask;
  MLIP_INLINE explicit Selection(uint32_t selected) : mask(static_cast<__mmask16>(selected)) {}
  template <class T>
  MLIP_INLINE void pack(const T* from, T* to) const {
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(mask, _mm512_loadu_si512(from)));
  }
};

#elif defined(__AVX2__)

// For each mask of eight bits the places of its bits, a byte each.
struct Places {
  uint64_t of[256];
  constexpr Places() : of() {
    for (int mask = 0; mask < 256; mask++) {
      int found = 0;
      for (int k = 0; k < 8; k++)
        if (mask >> k & 1) of[mask] |= static_cast<uint64_t>(k) << 8 * found++;
    }
  }
};
inline constexpr Places places;

struct Selection {
  __m256i low, high;
  int32_t n_low;
  MLIP_INLINE explicit Selection(uint32_t selected)
      : low(order(selected & 255)), high(order(selected >> 8 & 255)), n_low(bits(selected & 255)) {}
  template <class T>
  MLIP_INLINE void pack(const T* from, T* to) const {
    const auto* source = reinterpret_cast<const __m256i*>(from);
    const __m256i first = _mm256_loadu_si256(source), second = _mm256_loadu_si256(source + 1);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permutevar8x32_epi32(first, low));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + n_low), _mm256_permutevar8x32_epi32(second, high));
  }

 private:
  static MLIP_INLINE __m256i order(uint32_t mask) {
    return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(places.of[mask])));
  }
};

#else

struct Selection {
  uint32_t mask;
  MLIP_INLINE explicit Selection(uint32_t selected) : mask(selected) {}
  template <class T>
  MLIP_INLINE void pack(const T* from, T* to) const {
    for (uint32_t rest = mask; rest; rest &= rest - 1) *to++ = from[__builtin_ctz(rest)];
  }
};

#endif

}  // namespace mlip::MLIP_ISA
