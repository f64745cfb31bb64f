// The inner loops of the CPU neighbor search, for each instruction set.
//
// All of them work in float32 relative to a bin and may round as they like: what they can't tell they report as
// undecided. Membership is decided elsewhere, in double and without fused multiply-add (neighbor_list.cpp).
#pragma once
#include <cstdint>

#include "../isa.hpp"
#include "../neighbor_grid.hpp"

namespace mlip {

// Vectors are of 16 atoms: arrays must be readable and writable one block beyond their end.
constexpr int32_t atoms_per_block = 16;

// Three integers of -128 to 127, one per byte from the lowest.
MLIP_HOST_DEVICE int32_t pack(const int32_t* shift) {
  return (shift[0] & 255) | (shift[1] & 255) << 8 | (shift[2] & 255) << 16;
}

struct PlacedAtom {
  float place[3];  // relative to the corner of its bin
  int32_t wrap;    // packed
};

// Atoms in the order of their bins.
struct SortedAtoms {
  const float *x, *y, *z;
  const int32_t *atom, *wrap;  // wrap: packed
};

// A bin in reach of the bin that is searched.
struct Run {
  int32_t first, last;  // its atoms
  float offset[3];      // from the corner of the bin that is searched
  int32_t image[3];     // cell translations
  int32_t first_candidate;
};

// Atoms that may be in reach of the atoms of one bin.
struct CandidateArrays {
  float *x, *y, *z;
  int32_t *atom, *shift;  // shift: packed image minus wrap of the atom
};

struct Box {
  float low[3], high[3];
};

// What was found for one center: `count` neighbors, then for each of them 0, 1 (packed; the wrap of the center is to be
// added) or 3 words of its shift.
struct Row {
  const int32_t* words;
  int32_t count, shift_words;
};

struct NeighborKernels {
  // Extremes of the fractional coordinates.
  void (*extent_float)(const float* positions, int64_t count, const double* inverse, Extent* out);
  void (*extent_double)(const double* positions, int64_t count, const double* inverse, Extent* out);
  // Bins of atoms first...last of one structure; wrap in three words and packed.
  void (*bin_float)(const Grid& grid, const float* positions, int64_t first, int64_t last, int64_t* bins,
                    PlacedAtom* places, int32_t* wraps);
  void (*bin_double)(const Grid& grid, const double* positions, int64_t first, int64_t last, int64_t* bins,
                     PlacedAtom* places, int32_t* wraps);
  // Packs the atoms of the runs that come close enough to the box; returns how many, and whether any has a shift.
  int32_t (*gather)(const SortedAtoms& atoms, Run* runs, int64_t n_runs, const Box& box, float outer,
                    const CandidateArrays& out, int32_t* any_shift);
  // Candidates within `outer` of candidate `self`, without itself: atoms, and shifts unless null. Those not below
  // `inner` are undecided: (place in the row, candidate), two words each.
  int32_t (*find)(const CandidateArrays& candidates, int32_t count, int32_t self, float inner, float outer,
                  int32_t* neighbors, int32_t* shifts, int32_t* undecided, int32_t* n_undecided);
  // Writes the rows of centers first...last; that of center i begins at offsets[i]. Past the caches if asked for.
  void (*write)(const Row* rows, const int64_t* offsets, const int32_t* wraps, int64_t first, int64_t last,
                bool past_caches, int64_t* centers, int64_t* neighbors, int32_t* shifts);
};

MLIP_FOR_EACH_ISA(extern const NeighborKernels neighbor_kernels;)

}  // namespace mlip
