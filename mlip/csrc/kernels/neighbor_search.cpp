#include "neighbor_search.hpp"

#include <algorithm>

#include "compress.hpp"

namespace mlip::MLIP_ISA {
namespace {

constexpr int lanes = width<float>;

template <class T>
MLIP_INLINE T smaller(T a, T b) {
  return b < a ? b : a;
}
template <class T>
MLIP_INLINE T larger(T a, T b) {
  return a < b ? b : a;
}
MLIP_INLINE Vector<float> larger_of(Vector<float> a, Vector<float> b) { return a > b ? a : b; }

template <class Real>
void extent(const Real* positions, int64_t count, const double* inverse, Extent* out) {
  double low[3] = {1e300, 1e300, 1e300}, high[3] = {-1e300, -1e300, -1e300}, largest = 0, not_finite = 0;
  for (int64_t i = 0; i < count; i++) {
    const double x = positions[3 * i], y = positions[3 * i + 1], z = positions[3 * i + 2];
    for (int a = 0; a < 3; a++) {
      const double fractional = x * inverse[a] + y * inverse[3 + a] + z * inverse[6 + a];
      low[a] = smaller(low[a], fractional);
      high[a] = larger(high[a], fractional);
    }
    largest = larger(largest, larger(__builtin_fabs(x), larger(__builtin_fabs(y), __builtin_fabs(z))));
    not_finite += (x + y + z) * 0.0;  // becomes NaN
  }
  for (int a = 0; a < 3; a++) {
    out->low[a] = count ? low[a] : 0;
    out->high[a] = count ? high[a] : 0;
  }
  out->largest = not_finite == 0 ? largest : __builtin_inf();
}

template <class Real>
void bin(const Grid& grid, const Real* positions, int64_t first, int64_t last, int64_t* bins, PlacedAtom* places,
         int32_t* wraps) {
  const Grid g = grid;
  for (int64_t i = first; i < last; i++) {
    int32_t at[3], wrap[3];
    double inside[3];
    locate(g, positions + 3 * i, at, inside, wrap);
    bins[i] = bin_number(g, at[0], at[1], at[2]);
    for (int d = 0; d < 3; d++) {
      places[i].place[d] = static_cast<float>(inside[0] * g.bin_vectors[d] + inside[1] * g.bin_vectors[3 + d] +
                                              inside[2] * g.bin_vectors[6 + d]);
      wraps[3 * i + d] = wrap[d];
    }
    places[i].wrap = pack(wrap);
  }
}

// Byte by byte.
MLIP_INLINE int32_t packed_difference(int32_t a, int32_t b) {
  const auto x = static_cast<uint32_t>(a), y = static_cast<uint32_t>(b);
  return static_cast<int32_t>(((x - y) & 0xff) | ((x - (y & 0xff00)) & 0xff00) | ((x - (y & 0xff0000)) & 0xff0000));
}

int32_t gather(const SortedAtoms& atoms, Run* runs, int64_t n_runs, const Box& box, float outer,
               const CandidateArrays& out, int32_t* any_shift) {
  constexpr Vector<float> zero = {};
  int32_t count = 0;
  for (Run* run = runs; run != runs + n_runs; run++) {
    run->first_candidate = count;
    const int32_t image = pack(run->image);
    const float *low = box.low, *high = box.high, *offset = run->offset;
    for (int32_t first = run->first; first < run->last; first += atoms_per_block) {
      uint32_t near = 0;
      float moved[3][atoms_per_block];
      int32_t shift[atoms_per_block];
      for (int part = 0; part < atoms_per_block; part += lanes) {
        const Vector<float> x = load(atoms.x + first + part) + offset[0];
        const Vector<float> y = load(atoms.y + first + part) + offset[1];
        const Vector<float> z = load(atoms.z + first + part) + offset[2];
        const Vector<float> dx = larger_of(larger_of(low[0] - x, x - high[0]), zero);
        const Vector<float> dy = larger_of(larger_of(low[1] - y, y - high[1]), zero);
        const Vector<float> dz = larger_of(larger_of(low[2] - z, z - high[2]), zero);
        near |= below(dx * dx + dy * dy + dz * dz, outer) << part;
        store(moved[0] + part, x);
        store(moved[1] + part, y);
        store(moved[2] + part, z);
      }
      if (run->last - first < atoms_per_block) near &= (1u << (run->last - first)) - 1;
      for (int k = 0; k < atoms_per_block; k++) shift[k] = packed_difference(image, atoms.wrap[first + k]);
      const Selection selection(near);
      selection.pack(moved[0], out.x + count);
      selection.pack(moved[1], out.y + count);
      selection.pack(moved[2], out.z + count);
      selection.pack(atoms.atom + first, out.atom + count);
      selection.pack(shift, out.shift + count);
      count += bits(near);
    }
  }
  for (int k = 0; k < atoms_per_block; k++) out.x[count + k] = out.y[count + k] = out.z[count + k] = 1e18f;  // never near
  int32_t any = 0;
  for (int32_t c = 0; c < count; c++) any |= out.shift[c];
  *any_shift = any;
  return count;
}

template <bool with_shifts>
MLIP_INLINE int32_t find_row(const CandidateArrays& candidates, int32_t count, int32_t self, float inner, float outer,
                             int32_t* neighbors, int32_t* shifts, int32_t* undecided, int32_t* n_undecided) {
  const float x = candidates.x[self], y = candidates.y[self], z = candidates.z[self];
  int32_t found = 0;
  for (int32_t first = 0; first < count; first += atoms_per_block) {
    uint32_t sure = 0, near = 0;
    for (int part = 0; part < atoms_per_block; part += lanes) {
      const Vector<float> dx = load(candidates.x + first + part) - x;
      const Vector<float> dy = load(candidates.y + first + part) - y;
      const Vector<float> dz = load(candidates.z + first + part) - z;
      const Vector<float> squared = dx * dx + dy * dy + dz * dz;
      sure |= below(squared, inner) << part;
      near |= below(squared, outer) << part;
    }
    if (first == (self & -atoms_per_block)) {
      const uint32_t others = ~(1u << (self & (atoms_per_block - 1)));
      sure &= others;
      near &= others;
    }
    if (__builtin_expect(sure != near, 0)) {
      for (uint32_t rest = near & ~sure; rest; rest &= rest - 1) {
        const int k = __builtin_ctz(rest);
        undecided[0] = found + bits(near & ((1u << k) - 1));
        undecided[1] = first + k;
        undecided += 2;
        ++*n_undecided;
      }
    }
    const Selection selection(near);
    selection.pack(candidates.atom + first, neighbors + found);
    if (with_shifts) selection.pack(candidates.shift + first, shifts + found);
    found += bits(near);
  }
  return found;
}

int32_t find(const CandidateArrays& candidates, int32_t count, int32_t self, float inner, float outer,
             int32_t* neighbors, int32_t* shifts, int32_t* undecided, int32_t* n_undecided) {
  *n_undecided = 0;
  return shifts ? find_row<true>(candidates, count, self, inner, outer, neighbors, shifts, undecided, n_undecided)
                : find_row<false>(candidates, count, self, inner, outer, neighbors, shifts, undecided, n_undecided);
}

typedef int32_t Whole __attribute__((vector_size(vector_bytes), aligned(4), may_alias));
typedef int64_t Wide __attribute__((vector_size(vector_bytes), aligned(8), may_alias));
constexpr int wide_lanes = lanes / 2;

// `wide_lanes` numbers as 64 bits.
MLIP_INLINE void widen(const int32_t* from, int64_t* to) {
#if defined(__AVX512F__)
  _mm512_storeu_si512(to, _mm512_cvtepi32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
#elif defined(__AVX2__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm256_cvtepi32_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#else
  for (int k = 0; k < wide_lanes; k++) to[k] = from[k];
#endif
}

// Places 0, 1 and 2 over and over, or each place three times and how far its byte is from the highest.
struct Triples {
  Whole axis[3], place[3], up[3];
  MLIP_INLINE Triples() {
    for (int k = 0; k < 3 * lanes; k++) {
      axis[k / lanes][k % lanes] = k % 3;
      place[k / lanes][k % lanes] = k / 3;
      up[k / lanes][k % lanes] = 24 - 8 * (k % 3);
    }
  }
};

MLIP_INLINE void prefetch(const int32_t* from, int64_t words) {
  for (int64_t k = 0; k < words; k += 16) __builtin_prefetch(from + k, 0, 3);
}

// Where rows are written: the first of `centers` and its like is that of pair `first_pair`, and up to pair `last_pair` they
// may be written over.
struct Written {
  int64_t *centers, *neighbors;
  int32_t* shifts;
  int64_t first_pair, last_pair;
};

// Whole vectors are written as long as they end before `last_pair`: what is too much lands in the next row, which is
// written later. Rows up to `known` come after.
MLIP_INLINE void write_rows(const Row* rows, const int64_t* offsets, const int32_t* wraps, int64_t first, int64_t last,
                            int64_t known, const Triples& triples, const Written& to) {
  constexpr int64_t rows_ahead = 4;
  for (int64_t i = first; i < last; i++) {
    if (i + rows_ahead < known) {
      const Row& next = rows[i + rows_ahead];
      prefetch(next.words, int64_t{next.count} * (1 + next.shift_words));
    }
    const Row row = rows[i];
    const int64_t begin = offsets[i] - to.first_pair, count = row.count;
    const bool whole = offsets[i] + count + lanes <= to.last_pair;
    int64_t *center = to.centers + begin, *neighbor = to.neighbors + begin, k = 0;
    for (const Wide self = Wide{} + i; k < (whole ? count : count - wide_lanes + 1); k += wide_lanes) {
      *reinterpret_cast<Wide*>(center + k) = self;
      widen(row.words + k, neighbor + k);
    }
    for (; k < count; k++) {
      center[k] = i;
      neighbor[k] = row.words[k];
    }
    const int32_t *packed = row.words + count, *wrap = wraps + 3 * i;
    int32_t* shift = to.shifts + 3 * begin;
    k = 0;
    if (row.shift_words == 0) {
      for (; k < (whole ? 3 * count : 3 * count - lanes + 1); k += lanes) *reinterpret_cast<Whole*>(shift + k) = Whole{};
      for (; k < 3 * count; k++) shift[k] = 0;
    } else if (row.shift_words == 1) {
      const Whole center_wrap = *reinterpret_cast<const Whole*>(wrap);
      for (; k < (whole ? count : count - lanes + 1); k += lanes) {
        const Whole all = *reinterpret_cast<const Whole*>(packed + k);
        for (int part = 0; part < 3; part++)
          *reinterpret_cast<Whole*>(shift + 3 * k + part * lanes) =
              ((__builtin_shuffle(all, triples.place[part]) << triples.up[part]) >> 24) +
              __builtin_shuffle(center_wrap, triples.axis[part]);
      }
      for (; k < count; k++)
        for (int d = 0; d < 3; d++) shift[3 * k + d] = static_cast<int8_t>(packed[k] >> 8 * d) + wrap[d];
    } else {
      for (; k < 3 * count; k++) shift[k] = packed[k];
    }
  }
}

// Copies past the caches: a line that is written as a whole need not be read first.
template <class T>
MLIP_INLINE void copy_past_caches(const T* from, int64_t count, T* to) {
#if defined(__AVX2__)
  const auto misplaced = static_cast<int64_t>(reinterpret_cast<uintptr_t>(to) % 64 / sizeof(T));
  const int64_t head = misplaced ? std::min<int64_t>(count, 64 / sizeof(T) - misplaced) : 0;
  std::copy_n(from, head, to);
  int64_t k = head;
  for (; k + static_cast<int64_t>(64 / sizeof(T)) <= count; k += 64 / sizeof(T)) {
#if defined(__AVX512F__)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + k), _mm512_loadu_si512(from + k));
#else
    const auto* source = reinterpret_cast<const __m256i*>(from + k);
    auto* target = reinterpret_cast<__m256i*>(to + k);
    _mm256_stream_si256(target, _mm256_loadu_si256(source));
    _mm256_stream_si256(target + 1, _mm256_loadu_si256(source + 1));
#endif
  }
  std::copy_n(from + k, count - k, to + k);
#else
  std::copy_n(from, count, to);
#endif
}

MLIP_INLINE void order_copies() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

void write(const Row* rows, const int64_t* offsets, const int32_t* wraps, int64_t first, int64_t last, bool past_caches,
           int64_t* centers, int64_t* neighbors, int32_t* shifts) {
  const Triples triples;
  const Written all{centers, neighbors, shifts, 0, offsets[last]};
  if (!past_caches) return write_rows(rows, offsets, wraps, first, last, last, triples, all);
  constexpr int64_t most = 512;  // pairs that are put together in the first-level cache
  alignas(64) int64_t piece_centers[most + lanes], piece_neighbors[most + lanes];
  alignas(64) int32_t piece_shifts[3 * (most + lanes)];
  for (int64_t i = first, next; i < last; i = next) {
    const int64_t begin = offsets[i];
    for (next = i + 1; next < last && offsets[next + 1] - begin <= most;) next++;
    const int64_t count = offsets[next] - begin;
    if (count > most) {
      write_rows(rows, offsets, wraps, i, next, last, triples, {centers, neighbors, shifts, 0, offsets[next]});
      continue;
    }
    write_rows(rows, offsets, wraps, i, next, last, triples,
               {piece_centers, piece_neighbors, piece_shifts, begin, begin + most + lanes});
    copy_past_caches(piece_centers, count, centers + begin);
    copy_past_caches(piece_neighbors, count, neighbors + begin);
    copy_past_caches(piece_shifts, 3 * count, shifts + 3 * begin);
  }
  order_copies();
}

}  // namespace

extern const NeighborKernels neighbor_kernels = {
    extent<float>, extent<double>, bin<float>, bin<double>, gather, find, write,
};

}  // namespace mlip::MLIP_ISA
