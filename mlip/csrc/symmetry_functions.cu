// Symmetry functions on CUDA, and their derivatives: a warp per center, whose threads do what the lanes of a vector do on
// a processor (kernels/symmetry_centers.hpp). No two warps share a sum: results are the same in every run.
#include "offsets.cuh"
#include "symmetry_plan.hpp"
//
#include "symmetry_numbers.cuh"
//
#include "kernels/symmetry_centers.hpp"

namespace mlip::cuda {
namespace {

constexpr int threads = 128;
constexpr int64_t most_warps = 4096;  // that have memory of their own

struct Centers {
  int64_t n_atoms, n_species, columns;
  const double* vectors;
  const int64_t *offsets, *neighbors, *species;
  const int32_t* wrong;
  const SymmetryPlan* plans;
  double *of_functions, *of_neighbors;  // memory: of each warp, of the edges of each center
  int64_t functions_size, rows;

  MLIP_HOST_DEVICE int64_t padding() const { return (n_species + 1) * lanes + 8; }
};

// What derivatives are made of, and where results go; null where they are not wanted.
struct Derivative {
  const double *weights, *direction;
  double *values, *by_vectors;
};

template <class T, bool gradient, bool sums>
__global__ void evaluate_centers(Centers in, Derivative of) {
  const int64_t warps = static_cast<int64_t>(gridDim.x) * blockDim.x / warp, own = thread_number() / warp;
  for (int64_t i = own; i < in.n_atoms; i += warps) {
    const bool wrong = *in.wrong;
    const int64_t first = wrong ? 0 : in.offsets[i], count = wrong ? 0 : in.offsets[i + 1] - first;
    const int64_t element = in.species[i];
    const int64_t* const elements = in.neighbors + first;
    bool unknown = wrong || !below(element, in.n_species);
    for_each(count, [&](int64_t k) { unknown = unknown || !below(elements[k], in.n_species); });
    unknown = any(unknown);
    const double start = unknown ? not_a_number<double>() : 0.0;
    double* const values = sums ? of.values + i * in.columns : nullptr;
    double* const by_vectors = gradient ? of.by_vectors + 3 * first : nullptr;
    if (sums) for_each(in.columns, [&](int64_t k) { values[k] = start; });
    if (gradient) for_each(3 * count, [&](int64_t k) { by_vectors[k] = start; });
    settle();
    if (unknown) continue;
    const Scratch memory{Memory(in.of_functions + own * in.functions_size),
                         Memory(in.of_neighbors + in.rows * (first + i * in.padding()))};
    evaluate<T, gradient, sums>(in.plans[element], {count, in.vectors + 3 * first, elements, in.n_species},
                                of.weights ? of.weights + i * in.columns : nullptr,
                                of.direction ? of.direction + 3 * first : nullptr, memory, values, by_vectors);
    settle();
  }
}

// Copies plans into one piece of memory, with the addresses that it has at `base`.
class Packer {
 public:
  explicit Packer(const char* base) : base_(base) {}

  template <class T>
  View<T> keep(const View<T>& numbers) {
    const size_t place = bytes_.size(), size = static_cast<size_t>(numbers.size) * sizeof(T);
    bytes_.resize(place + (size + 7) / 8 * 8);
    if (size) std::memcpy(bytes_.data() + place, numbers.data, size);
    return {reinterpret_cast<const T*>(base_ + place), numbers.size};
  }
  SymmetryPlan keep(SymmetryPlan plan) {
    plan.windows = keep(plan.windows), plan.parts = keep(plan.parts), plan.angles = keep(plan.angles);
    for (PartList* list : {&plan.radial, &plan.angular, &plan.narrow})
      *list = {keep(list->windows), keep(list->parts)};
    std::vector<NeighborClass> neighbors;
    for (const NeighborClass& found : plan.neighbors) neighbors.push_back({keep(found.terms)});
    std::vector<PairClass> pairs;
    for (const PairClass& found : plan.pairs) pairs.push_back(keep(found));
    plan.neighbors = keep(view(neighbors)), plan.pairs = keep(view(pairs));
    return plan;
  }
  const std::vector<char>& bytes() const { return bytes_; }

 private:
  PairClass keep(PairClass pairs) {
    pairs.terms = keep(pairs.terms), pairs.angles = keep(pairs.angles);
    std::vector<Group> groups(pairs.groups.begin(), pairs.groups.end());
    for (Group& group : groups) group.terms.data = pairs.terms.data + group.first;
    pairs.groups = keep(view(groups));
    return pairs;
  }

  const char* base_;
  std::vector<char> bytes_;
};

struct Arguments {
  explicit Arguments(const char* name, const StableIValue* stack)
      : vectors(stack[0]), offsets(stack[1]), neighbors(stack[2]), species(stack[3]), tables(stack + 4),
        checks(name, vectors) {
    checks.tensor(vectors, aoti_torch_dtype_float64(), {-1, 3}, "vectors: expected a contiguous float64 tensor (E, 3)");
    checks.integers(species, {-1}, "species: expected a contiguous int64 tensor (N,)");
    n_edges = vectors.size(0), n_atoms = species.size(0);
    checks.integers(offsets, {n_atoms + 1}, "offsets: expected a contiguous int64 tensor (N + 1,)");
    checks.integers(neighbors, {n_edges}, "neighbors: expected a contiguous int64 tensor (E,)");
    tables.check(name);
  }

  template <class T, bool gradient, bool sums>
  void run(const Derivative& of) const {
    const cudaStream_t on = stream(vectors);
    const Parts parts(tables);
    std::deque<OwnedPlan> owned;
    std::vector<SymmetryPlan> plans;
    Centers in{n_atoms, tables.n_species, tables.columns, vectors.data<double>(), offsets.data<int64_t>(),
               neighbors.data<int64_t>(), species.data<int64_t>(), nullptr, nullptr, nullptr, nullptr, 0, 0};
    for (int64_t s = 0; s < tables.n_species; s++) {
      plans.push_back(owned.emplace_back(tables, parts, s).plan());
      in.functions_size = std::max(in.functions_size, memory_of_functions<T>(plans.back(), tables.n_species));
      in.rows = std::max(in.rows, rows_of_neighbors<T>(plans.back()));
    }
    const Buffer<char> on_device(vectors, packed(plans, nullptr).second);
    const auto [bytes, size] = packed(plans, on_device.data());
    MLIP_CUDA(cudaMemcpyAsync(on_device.data(), bytes.data(), bytes.size(), cudaMemcpyHostToDevice, on));
    in.plans = reinterpret_cast<const SymmetryPlan*>(on_device.data());
    const int64_t warps = std::min(n_atoms, most_warps), warps_each = threads / warp;
    const Buffer<double> of_functions(vectors, (warps + warps_each) * in.functions_size);
    const Buffer<double> of_neighbors(vectors, in.rows * (n_edges + n_atoms * in.padding()));
    in.of_functions = of_functions.data(), in.of_neighbors = of_neighbors.data();
    const auto wrong = checked_offsets(offsets, n_atoms, n_edges, on);
    in.wrong = wrong.data();
    launch(evaluate_centers<T, gradient, sums>, blocks_for(warps, warps_each), threads, on, in, of);
    if (gradient) mark_where_wrong(wrong, of.by_vectors, 3 * n_edges, on);
  }

  abi::Tensor edge_gradient() const { return vectors.new_empty({n_edges, 3}, vectors.dtype()); }
  abi::Tensor functions() const { return vectors.new_empty({n_atoms, tables.columns}, vectors.dtype()); }
  void expect_functions(const abi::Tensor& grad) const {
    checks.tensor(grad, vectors.dtype(), {n_atoms, tables.columns},
                  "grad: expected a contiguous float64 tensor (N, K)");
  }

  abi::Tensor vectors, offsets, neighbors, species;
  Tables tables;
  Checks checks;
  int64_t n_edges = 0, n_atoms = 0;

 private:
  // The plans, then what they point to; and how many bytes that is.
  static std::pair<std::vector<char>, int64_t> packed(const std::vector<SymmetryPlan>& plans, const char* base) {
    const size_t first = plans.size() * sizeof(SymmetryPlan);
    Packer packer(base + first);
    std::vector<SymmetryPlan> kept;
    for (const SymmetryPlan& plan : plans) kept.push_back(packer.keep(plan));
    std::vector<char> bytes(first);
    if (first) std::memcpy(bytes.data(), kept.data(), first);
    bytes.insert(bytes.end(), packer.bytes().begin(), packer.bytes().end());
    return {bytes, static_cast<int64_t>(bytes.size())};
  }
};

void symmetry_functions(StableIValue* stack, uint64_t, uint64_t) {
  const Arguments given("symmetry_functions", stack);
  const Device device(given.vectors);
  auto out = given.functions();
  given.run<V, false, true>({nullptr, nullptr, out.data<double>(), nullptr});
  stack[0] = out.release();
}

void symmetry_functions_backward(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor grad(stack[0]);
  const Arguments given("symmetry_functions_backward", stack + 1);
  given.expect_functions(grad);
  const Device device(given.vectors);
  auto out = given.edge_gradient();
  given.run<V, true, false>({grad.data<double>(), nullptr, nullptr, out.data<double>()});
  stack[0] = out.release();
}

void symmetry_functions_tangent(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor direction(stack[0]), grad(stack[1]);
  const Arguments given("symmetry_functions_tangent", stack + 2);
  const bool need_gradient = abi::from_stack<bool>(stack[12]);
  given.checks.tensor(direction, given.vectors.dtype(), {given.n_edges, 3},
                      "direction: expected a contiguous float64 tensor (E, 3)");
  given.expect_functions(grad);
  const Device device(given.vectors);
  auto values = given.functions();
  auto gradient = need_gradient ? given.edge_gradient() : given.vectors.new_empty({0, 3}, given.vectors.dtype());
  const Derivative of{grad.data<double>(), direction.data<double>(), values.data<double>(), gradient.data<double>()};
  if (need_gradient)
    given.run<D, true, true>(of);
  else
    given.run<D, false, true>(of);
  stack[0] = values.release(), stack[1] = gradient.release();
}

const auto operators = abi::Library("mlip", "CUDA")
                           .impl("symmetry_functions", symmetry_functions)
                           .impl("symmetry_functions_backward", symmetry_functions_backward)
                           .impl("symmetry_functions_tangent", symmetry_functions_tangent);

}  // namespace
}  // namespace mlip::cuda
