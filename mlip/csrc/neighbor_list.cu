// The operator `mlip::neighbor_list` on CUDA: the grids and the order of the CPU version, decided in double throughout.
//
// Atoms are sorted by bin number, so that a bin is found by bisection and takes no memory of its own. One thread per
// center walks the stencil twice: count, scan, fill.
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>

#include "cuda.hpp"
#include "neighbor_list.hpp"

namespace mlip {
namespace {

constexpr int threads = 128;
constexpr int extent_threads = 256;
constexpr int64_t atoms_per_extent_block = 8192, most_extent_blocks = 128;

// What the kernels know of a batch; atoms are in the order of their bins where the name says `sorted`.
template <class Real>
struct View {
  const Real* positions;
  const Grid* grids;
  const StencilRow* rows;
  int64_t n_atoms, n_structures;
  int64_t *bins, *sorted_bins;
  int32_t *atoms, *sorted_atoms;
  int32_t *owner, *wrap;  // structure and wrap of each atom
  double cutoff_squared;
};

int blocks(int64_t n) { return static_cast<int>((n + threads - 1) / threads); }

__device__ void merge(Extent& into, const Extent& other) {
  for (int a = 0; a < 3; a++) {
    into.low[a] = fmin(into.low[a], other.low[a]);
    into.high[a] = fmax(into.high[a], other.high[a]);
  }
  into.largest = fmax(into.largest, other.largest);
}

// Block (x, y) reduces every gridDim.x-th stretch of structure y; anything not finite makes `largest` infinite.
template <class Real>
__global__ void find_extents(const Real* positions, const int64_t* offsets, const double* inverses, Extent* out) {
  __shared__ Extent shared[extent_threads];
  const double* inverse = inverses + 9 * blockIdx.y;
  const int64_t last = offsets[blockIdx.y + 1];
  Extent mine{};
  for (int a = 0; a < 3; a++) {
    mine.low[a] = 1e300;
    mine.high[a] = -1e300;
  }
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = offsets[blockIdx.y] + blockIdx.x * blockDim.x + threadIdx.x; i < last; i += step) {
    const Real* r = positions + 3 * i;
    for (int a = 0; a < 3; a++) {
      const double* m = inverse + a;
      const double fractional = (r[0] * m[0] + r[1] * m[3]) + r[2] * m[6];
      mine.low[a] = fmin(mine.low[a], fractional);
      mine.high[a] = fmax(mine.high[a], fractional);
      const double size = fabs(static_cast<double>(r[a]));
      mine.largest = isfinite(size) ? fmax(mine.largest, size) : INFINITY;
    }
  }
  shared[threadIdx.x] = mine;
  for (int half = extent_threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) merge(shared[threadIdx.x], shared[threadIdx.x + half]);
  }
  if (threadIdx.x == 0) out[static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x] = shared[0];
}

template <class Real>
__global__ void bin_atoms(View<Real> view) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= view.n_atoms) return;
  int64_t low = 0, high = view.n_structures - 1;  // the first structure that ends beyond i
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (view.grids[middle].last_atom > i) high = middle;
    else low = middle + 1;
  }
  int32_t bin[3];
  double inside[3];
  locate(view.grids[low], view.positions + 3 * i, bin, inside, view.wrap + 3 * i);
  view.owner[i] = static_cast<int32_t>(low);
  view.atoms[i] = static_cast<int32_t>(i);
  view.bins[i] = bin_number(view.grids[low], bin[0], bin[1], bin[2]);
}

// visit(neighbor, shift) for each neighbor of the atom in sorted place p.
template <class Real, class Visit>
__device__ void for_each_neighbor(const View<Real>& view, int64_t p, Visit&& visit) {
  const int32_t i = view.sorted_atoms[p];
  const Grid& grid = view.grids[view.owner[i]];
  const int64_t local = view.sorted_bins[p] - grid.first_bin;
  const auto z_bin = static_cast<int32_t>(local % grid.n[2]);
  const auto y_bin = static_cast<int32_t>(local / grid.n[2] % grid.n[1]);
  const auto x_bin = static_cast<int32_t>(local / grid.n[2] / grid.n[1]);
  for (int64_t k = grid.first_row; k < grid.last_row; k++) {
    const StencilRow row = view.rows[k];
    int32_t x = x_bin + row.dx, y = y_bin + row.dy, image[3];
    if (!fold(grid, 0, x, image[0]) || !fold(grid, 1, y, image[1])) continue;
    for (int32_t dz = row.z_first; dz <= row.z_last; dz++) {
      int32_t z = z_bin + dz;
      if (!fold(grid, 2, z, image[2])) continue;
      const int64_t wanted = bin_number(grid, x, y, z);
      int64_t q = grid.first_atom, end = grid.last_atom;  // structures keep their place in the sorted order
      while (q < end) {
        const int64_t middle = (q + end) / 2;
        if (view.sorted_bins[middle] < wanted) q = middle + 1;
        else end = middle;
      }
      int32_t base[3];
      cell_image(grid, image, base);
      for (; q < grid.last_atom && view.sorted_bins[q] == wanted; q++) {
        const int32_t j = view.sorted_atoms[q];
        int64_t shift[3];
        const int32_t *wrap_i = view.wrap + 3 * static_cast<int64_t>(i), *wrap_j = view.wrap + 3 * static_cast<int64_t>(j);
        for (int d = 0; d < 3; d++) shift[d] = static_cast<int64_t>(base[d]) - wrap_j[d] + wrap_i[d];
        if (j == i && shift[0] == 0 && shift[1] == 0 && shift[2] == 0) continue;
        const Real *ri = view.positions + 3 * static_cast<int64_t>(i), *rj = view.positions + 3 * static_cast<int64_t>(j);
        if (squared_distance(ri, rj, shift, grid.cell) < view.cutoff_squared) visit(j, shift);
      }
    }
  }
}

template <class Real>
__global__ void count(View<Real> view, int64_t* counts) {
  const int64_t p = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (p >= view.n_atoms) return;
  int64_t found = 0;
  for_each_neighbor(view, p, [&](int32_t, const int64_t*) { found++; });
  counts[view.sorted_atoms[p]] = found;
}

template <class Real>
__global__ void fill(View<Real> view, const int64_t* row, int64_t n_pairs, int64_t* index, int32_t* shifts) {
  const int64_t p = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (p >= view.n_atoms) return;
  const int32_t i = view.sorted_atoms[p];
  int64_t k = i == 0 ? 0 : row[i - 1];
  for_each_neighbor(view, p, [&](int32_t j, const int64_t* shift) {
    index[k] = i;
    index[n_pairs + k] = j;
    for (int d = 0; d < 3; d++) shifts[3 * k + d] = static_cast<int32_t>(shift[d]);
    k++;
  });
}

template <class Real>
std::vector<Extent> extents(const Arguments& args, const std::vector<Lattice>& lattices, cudaStream_t stream) {
  const int64_t* offsets = args.offsets.data<int64_t>();
  const int64_t n = args.n_structures;
  std::vector<double> inverses;
  int64_t largest = 0;
  for (int64_t b = 0; b < n; b++) {
    inverses.insert(inverses.end(), lattices[b].inverse, lattices[b].inverse + 9);
    largest = std::max(largest, offsets[b + 1] - offsets[b]);
  }
  const int64_t parts = std::min(most_extent_blocks, largest / atoms_per_extent_block + 1);
  const auto device_offsets = cuda::upload(args.positions, offsets, n + 1, stream);
  const auto device_inverses = cuda::upload(args.positions, inverses.data(), 9 * n, stream);
  const cuda::Buffer<Extent> partial(args.positions, n * parts);
  constexpr int64_t most_structures = 65535;  // limit of gridDim.y
  for (int64_t b = 0; b < n; b += most_structures) {
    const dim3 size(static_cast<unsigned>(parts), static_cast<unsigned>(std::min(most_structures, n - b)));
    find_extents<<<size, extent_threads, 0, stream>>>(args.positions.data<Real>(), device_offsets.data() + b,
                                                      device_inverses.data() + 9 * b, partial.data() + b * parts);
  }
  MLIP_CUDA(cudaGetLastError());
  std::vector<Extent> found(static_cast<size_t>(n * parts)), out;
  MLIP_CUDA(cudaMemcpyAsync(found.data(), partial.data(), found.size() * sizeof(Extent), cudaMemcpyDeviceToHost, stream));
  MLIP_CUDA(cudaStreamSynchronize(stream));
  for (int64_t b = 0; b < n; b++) {
    Extent whole = found[b * parts];
    for (int64_t k = 1; k < parts; k++) {
      const Extent& part = found[b * parts + k];
      for (int a = 0; a < 3; a++) {
        whole.low[a] = std::min(whole.low[a], part.low[a]);
        whole.high[a] = std::max(whole.high[a], part.high[a]);
      }
      whole.largest = std::max(whole.largest, part.largest);
    }
    out.push_back(offsets[b] == offsets[b + 1] ? Extent{} : whole);
  }
  return out;
}

template <class Real>
void run(const Arguments& args, StableIValue* stack) {
  const abi::Tensor& like = args.positions;
  const cuda::Device device(like);
  const cudaStream_t stream = cuda::stream(like);
  const int64_t n = args.n_atoms;
  int64_t n_pairs = 0;
  size_t free_bytes = 0, all_bytes = 0;
  MLIP_CUDA(cudaMemGetInfo(&free_bytes, &all_bytes));
  const Room room(static_cast<double>(all_bytes));  // torch's allocator keeps part of what is not "free"

  const auto lattices = args.lattices();
  const Grids grids = make_grids(args, lattices, extents<Real>(args, lattices, stream), room);
  const auto device_grids = cuda::upload(like, grids.of.data(), args.n_structures, stream);
  const auto device_rows = cuda::upload(like, grids.rows.data(), static_cast<int64_t>(grids.rows.size()), stream);
  const cuda::Buffer<int64_t> bins(like, n), sorted_bins(like, n), counts(like, n), row(like, n);
  const cuda::Buffer<int32_t> atoms(like, n), sorted_atoms(like, n), owner(like, n), wrap(like, 3 * n);
  const View<Real> view{like.data<Real>(), device_grids.data(), device_rows.data(), n, args.n_structures,
                        bins.data(), sorted_bins.data(), atoms.data(), sorted_atoms.data(),
                        owner.data(), wrap.data(), args.cutoff * args.cutoff};
  if (n > 0) {
    bin_atoms<<<blocks(n), threads, 0, stream>>>(view);
    int bits = 1;
    while (bits < 63 && (grids.n_bins >> bits) > 0) bits++;
    size_t sort_bytes = 0, scan_bytes = 0;
    MLIP_CUDA(cub::DeviceRadixSort::SortPairs(nullptr, sort_bytes, view.bins, view.sorted_bins, view.atoms,
                                              view.sorted_atoms, n, 0, bits, stream));
    MLIP_CUDA(cub::DeviceScan::InclusiveSum(nullptr, scan_bytes, counts.data(), row.data(), n, stream));
    const cuda::Buffer<char> workspace(like, static_cast<int64_t>(std::max(sort_bytes, scan_bytes)));
    MLIP_CUDA(cub::DeviceRadixSort::SortPairs(workspace.data(), sort_bytes, view.bins, view.sorted_bins, view.atoms,
                                              view.sorted_atoms, n, 0, bits, stream));
    count<<<blocks(n), threads, 0, stream>>>(view, counts.data());
    MLIP_CUDA(cudaGetLastError());
    MLIP_CUDA(cub::DeviceScan::InclusiveSum(workspace.data(), scan_bytes, counts.data(), row.data(), n, stream));
    MLIP_CUDA(cudaMemcpyAsync(&n_pairs, row.data() + n - 1, sizeof n_pairs, cudaMemcpyDeviceToHost, stream));
    MLIP_CUDA(cudaStreamSynchronize(stream));
  }
  room.require(static_cast<double>(n_pairs));
  auto edge_index = like.new_empty({2, n_pairs}, aoti_torch_dtype_int64());
  auto edge_shift = like.new_empty({n_pairs, 3}, aoti_torch_dtype_int32());
  if (n_pairs > 0) {
    fill<<<blocks(n), threads, 0, stream>>>(view, row.data(), n_pairs, edge_index.data<int64_t>(),
                                            edge_shift.data<int32_t>());
    MLIP_CUDA(cudaGetLastError());
  }
  stack[0] = edge_index.release();
  stack[1] = edge_shift.release();
}

void neighbor_list(StableIValue* stack, uint64_t, uint64_t) {
  const Arguments args(stack);
  const int32_t dtype = args.positions.dtype();
  if (dtype == aoti_torch_dtype_float64()) return run<double>(args, stack);
  require(dtype == aoti_torch_dtype_float32(), "positions: expected float32 or float64");
  run<float>(args, stack);
}

const auto cuda_kernel = abi::Library("mlip", "CUDA").impl("neighbor_list", neighbor_list);

}  // namespace
}  // namespace mlip
