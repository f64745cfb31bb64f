// Fused messages of equivariant networks: what the kernels (kernels/message_*.cpp) take and offer.
//
//   out[l3][m3, i, path, c] = sum over edges e of center i and m1 of
//                             coupling[e, (path, m3, m1)] * radial[e, path, c] * x[m1][neighbor(e)][c]
//
// trilinear in coupling, radial and x. The radial part is interpolated from a table inside the kernel, or handed over
// for a block of edges that stays in cache; it never exists for all edges.
#pragma once
#include <cstdint>
#include <limits>

#include "isa.hpp"
#include "message_paths.hpp"

namespace mlip {

// Edges in the order in which their derivatives by the table are summed: chunks of centers, whose derivatives of the
// messages stay in cache, then knots, then their own order.
template <class Real>
struct EdgesByKnot {
  static constexpr int64_t ahead = 3;       // numbers beyond the end of `order`, to fetch what comes next
  int64_t chunks = 0, knots = 0, most = 0;  // `most` centers in a chunk
  const int64_t* centers = nullptr;         // (chunks + 1,) the centers of chunk i are centers[i] ... centers[i + 1]
  const int64_t* offsets = nullptr;         // (chunks, knots + 1) where in `order` the edges of a knot are
  const int64_t* order = nullptr;           // (edges + ahead,)
  const int64_t *center = nullptr, *neighbor = nullptr;  // (edges,) in this order
  const Real* weights = nullptr;                         // (edges, 4) in this order
};

template <class Real>
struct MessageArguments {
  int64_t num_atoms = 0, channels = 0;
  int64_t components_x = 0;           // of x, where kernels do not know it (message_general.hpp)
  const int64_t* offsets = nullptr;   // (num_atoms + 1,) edges of center i are offsets[i] ... offsets[i + 1]
  const int64_t* neighbor = nullptr;  // (edges,)
  // With the radial part as an array, the edges of a center may come in several calls: those of this one.
  int64_t first_edge = 0, last_edge = std::numeric_limits<int64_t>::max();
  const Real* x = nullptr;            // (num_atoms, components, channels)
  const Real* coupling = nullptr;     // (edges, coupling_size)

  // Radial part by interpolation: weights of value and slope at two knots.
  const Real* weights = nullptr;  // (edges, 4)
  const int64_t* knot = nullptr;  // (edges,)
  const Real* table = nullptr;    // (knots, channels / block, paths, 3, block): value, slope, difference to the next value
  // Radial part as an array: element [edge, path, channel] is at edge * edge_stride + path * path_stride + channel, or
  // with radial_row[edge] in place of the edge.
  const Real* radial = nullptr;
  const int64_t* radial_row = nullptr;  // (edges,) or nullptr
  int64_t edge_stride = 0, path_stride = 0;

  Real* out[4] = {};  // forward: for each l3 (2 l3 + 1, num_atoms, paths into l3 * channels)

  const Real* grad_out[4] = {};   // backward: as out
  Real* grad_x = nullptr;         // as x, added to; nullptr if not wanted
  Real* grad_coupling = nullptr;  // as coupling
  Real* grad_weights = nullptr;   // as weights
  Real* grad_radial = nullptr;    // as radial, edge by edge
  Real* const* grad_radial_at = nullptr;  // (edges,) where those of each edge go, instead

  EdgesByKnot<Real> by_knot;   // for the derivative by the table
  Real* grad_table = nullptr;  // as table
};

// Kernels of one pair of degrees for the centers [begin, end) and, forward, the channels [first, last).
template <class Real>
struct MessageKernels {
  void (*forward)(const MessageArguments<Real>&, int64_t begin, int64_t end, int64_t first, int64_t last);
  void (*backward)(const MessageArguments<Real>&, int64_t begin, int64_t end);
};
template <class Real>
struct MessageTable {
  MessageKernels<Real> interpolated, array;
  // grad_table of the knots [begin, end) and the channels [first, last), whole blocks.
  void (*table_gradient)(const MessageArguments<Real>&, int64_t begin, int64_t end, int64_t first, int64_t last);
};
struct MessageTables {
  MessageTable<float> float32;
  MessageTable<double> float64;
};

// The files' tables, by l_max of the harmonics less one.
MLIP_FOR_EACH_ISA(extern const MessageTables message_0[3]; extern const MessageTables message_1[3];
                  extern const MessageTables message_2[3];)

}  // namespace mlip
