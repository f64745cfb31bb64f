// Fused messages of any irreps: what the kernels with run-time tables (kernels/message_general.cpp) take and offer.
//
// As message.hpp, but paths are data, and the radial part is an array that exists for a block of centers only: the
// product with a matrix or the numbers interpolated from a table.
#pragma once
#include <cstdint>
#include <vector>

#include "isa.hpp"
#include "message.hpp"

namespace mlip {

struct GeneralPath {
  int64_t component, n1;  // of x: first, and how many
  int64_t n3;             // components of the message
  int64_t column;         // first column of the coupling: (m3, m1), or one where the coupling is the identity
  bool identity;
  int64_t row, into, slot;  // the first row of the path's output block, paths into that block, place among them
};
constexpr int64_t largest_dim = 23;  // 2 l + 1

struct MessageProgram {
  std::vector<GeneralPath> paths;
  int64_t coupling = 0;  // columns
  int64_t rows = 0;      // numbers of all messages for each atom and channel: sum of n3 over the paths

  // Where component m3 of a path's message lies: output blocks (n3, num_atoms, into * channels) follow one another.
  int64_t output_at(const GeneralPath& path, int64_t m3, int64_t num_atoms, int64_t atom, int64_t channels) const {
    return ((path.row + m3 * path.into) * num_atoms + atom * path.into + path.slot) * channels;
  }
};

// Of the arguments of message.hpp, out[0] and grad_out[0] hold all messages.
template <class Real>
struct GeneralKernels {
  void (*forward)(const MessageProgram&, const MessageArguments<Real>&, int64_t begin, int64_t end, int64_t first,
                  int64_t last);
  void (*backward)(const MessageProgram&, const MessageArguments<Real>&, int64_t begin, int64_t end);
  // Radial functions of the edges [begin, end) and channels [first, last) from the table, and grad_weights from
  // grad_radial of all channels.
  void (*interpolate)(const MessageProgram&, const MessageArguments<Real>&, int64_t begin, int64_t end, int64_t first,
                      int64_t last, Real* radial);
  void (*interpolate_backward)(const MessageProgram&, const MessageArguments<Real>&, int64_t begin, int64_t end);
  // grad_table of the knots [begin, end) and the channels [first, last), whole blocks.
  void (*table_gradient)(const MessageProgram&, const MessageArguments<Real>&, int64_t begin, int64_t end,
                         int64_t first, int64_t last);
};
struct GeneralTable {
  GeneralKernels<float> float32;
  GeneralKernels<double> float64;
};
MLIP_FOR_EACH_ISA(extern const GeneralTable message_general;)

}  // namespace mlip
