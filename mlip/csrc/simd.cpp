#include "simd.hpp"

namespace mlip {
namespace {

// Appends the numbers of the marked points of a block, without branches.
inline int32_t compress(const int32_t* marked, int32_t first, int32_t count, int32_t found, int32_t* hits) {
  const int32_t size = count - first < block ? count - first : block;
  for (int32_t k = 0; k < size; k++) {
    hits[found] = first + k;
    found += marked[k];
  }
  return found;
}

inline float larger(float a, float b) { return a > b ? a : b; }

}  // namespace

MLIP_SIMD void count_within(Points points, const float* center, float inner, float outer, int32_t* n_inner,
                            int32_t* n_outer) {
  const float cx = center[0], cy = center[1], cz = center[2];
  int32_t below_inner[block] = {}, below_outer[block] = {};
  for (int32_t first = 0; first < points.count; first += block) {
    for (int32_t k = 0; k < block; k++) {
      const float dx = points.x[first + k] - cx, dy = points.y[first + k] - cy, dz = points.z[first + k] - cz;
      const float squared = dx * dx + dy * dy + dz * dz;
      below_inner[k] += squared < inner;
      below_outer[k] += squared < outer;
    }
  }
  *n_inner = *n_outer = 0;
  for (int32_t k = 0; k < block; k++) {
    *n_inner += below_inner[k];
    *n_outer += below_outer[k];
  }
}

MLIP_SIMD int32_t find_within(Points points, const float* center, float outer, int32_t* hits) {
  const float cx = center[0], cy = center[1], cz = center[2];
  int32_t found = 0;
  for (int32_t first = 0; first < points.count; first += block) {
    int32_t marked[block];
    for (int32_t k = 0; k < block; k++) {
      const float dx = points.x[first + k] - cx, dy = points.y[first + k] - cy, dz = points.z[first + k] - cz;
      marked[k] = dx * dx + dy * dy + dz * dz < outer;
    }
    found = compress(marked, first, points.count, found, hits);
  }
  return found;
}

MLIP_SIMD int32_t find_near(Points points, const Box& box, float outer, int32_t* hits) {
  int32_t found = 0;
  for (int32_t first = 0; first < points.count; first += block) {
    int32_t marked[block];
    for (int32_t k = 0; k < block; k++) {
      const float x = points.x[first + k], y = points.y[first + k], z = points.z[first + k];
      const float dx = larger(larger(box.low[0] - x, x - box.high[0]), 0);
      const float dy = larger(larger(box.low[1] - y, y - box.high[1]), 0);
      const float dz = larger(larger(box.low[2] - z, z - box.high[2]), 0);
      marked[k] = dx * dx + dy * dy + dz * dz < outer;
    }
    found = compress(marked, first, points.count, found, hits);
  }
  return found;
}

}  // namespace mlip
