// The paths of a message, known at compile time: (l1 of the neighbor's features, l2 of the harmonics, l3 of the message).
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>

namespace mlip {

struct Path {
  int l1, l2, l3;
};

// All paths of natural parity with l1 <= H and l2, l3 <= L. Two orders are in use: the public one, by (l3, l1, l2), of
// radial columns, tables and outputs; and the one of the kernels and of the coupling's columns, by (l1, l3, l2), in
// which paths that share their features are neighbors.
template <int H, int L>
class Paths {
 public:
  static constexpr int components_x = (H + 1) * (H + 1);
  static constexpr int components_y = (L + 1) * (L + 1);

  template <class Body>
  static constexpr void each(Body&& body) {
    for (int l1 = 0; l1 <= H; l1++)
      for (int l3 = 0; l3 <= L; l3++)
        for (int l2 = l1 > l3 ? l1 - l3 : l3 - l1; l2 <= std::min(L, l1 + l3); l2 += 2) body(Path{l1, l2, l3});
  }
  static constexpr int count = [] {
    int n = 0;
    each([&](Path) { n++; });
    return n;
  }();
  // In the order of the kernels.
  static constexpr std::array<Path, count> all = [] {
    std::array<Path, count> paths{};
    int n = 0;
    each([&](Path path) { paths[n++] = path; });
    return paths;
  }();
  // Paths into messages of degree l3.
  static constexpr int into(int l3) {
    int n = 0;
    for (const Path& path : all) n += path.l3 == l3;
    return n;
  }
  // Place of a path among those into the same degree, and among all, in the public order.
  static constexpr int slot(int q) {
    int n = 0;
    for (const Path& p : all)
      n += p.l3 == all[q].l3 && (p.l1 < all[q].l1 || (p.l1 == all[q].l1 && p.l2 < all[q].l2));
    return n;
  }
  static constexpr int public_index(int q) {
    int n = slot(q);
    for (int l3 = 0; l3 < all[q].l3; l3++) n += into(l3);
    return n;
  }
  // Columns of the coupling: (m3, m1) of each path, or one where l2 = 0, which couples m1 with m3 = m1 only.
  static constexpr int columns(int q) {
    return all[q].l2 == 0 ? 1 : (2 * all[q].l1 + 1) * (2 * all[q].l3 + 1);
  }
  static constexpr int first_column(int q) {
    int n = 0;
    for (int p = 0; p < q; p++) n += columns(p);
    return n;
  }
  static constexpr int coupling_size = first_column(count);
  // Components of all messages, path by path.
  static constexpr int first_row(int q) {
    int n = 0;
    for (int p = 0; p < q; p++) n += 2 * all[p].l3 + 1;
    return n;
  }
  static constexpr int rows = first_row(count);
};

// The same numbers where the degrees are known at run time only.
struct PathSizes {
  int64_t paths, components_x, coupling, into[4];
};
template <int H, int L>
constexpr PathSizes path_sizes{Paths<H, L>::count,
                               Paths<H, L>::components_x,
                               Paths<H, L>::coupling_size,
                               {Paths<H, L>::into(0), Paths<H, L>::into(1), Paths<H, L>::into(2), Paths<H, L>::into(3)}};

}  // namespace mlip
