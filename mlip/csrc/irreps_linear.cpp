// Mixes the channels of each irrep by a matrix, or by one of the atom's element: torch.ops.mlip.irreps_linear and its
// derivatives.
//
// Each irrep is a block (dim, atoms, channels), that is rows of channels. With several elements, rows are gathered by
// element a few at a time, multiplied and put back, so that only matrices of elements that are there are touched.
#include <vector>

#include "gemm_matrix.hpp"
#include "geometry_arguments.hpp"

namespace mlip {
namespace {

constexpr const char* name = "irreps_linear";
constexpr int64_t largest_size = int64_t{1} << 20;  // of dimensions and channels: sums of products can't overflow

struct Arguments {
  // Of the stack from x on.
  explicit Arguments(const StableIValue* stack)
      : x(stack[0]),
        weight(stack[1]),
        dims_in(stack[2]),
        channels_in(stack[3]),
        sources(stack[4]),
        dims_out(stack[5]),
        species(abi::optional_tensor(stack[6])) {}
  abi::Tensor x, weight;
  abi::IntegerList dims_in, channels_in, sources, dims_out;
  std::optional<abi::Tensor> species;
};

// Atoms of one element: those from `begin` to `end` in the order by elements.
struct Group {
  int64_t element, begin, end;
};

struct Problem {
  explicit Problem(const Arguments& given);

  std::vector<int64_t> dims_in, channels_in, sources, dims_out;
  std::vector<int64_t> matrices;  // where the matrix of each output begins
  int64_t matrix_numbers = 0;     // of an element
  int64_t elements = 0, atoms = 0, channels_out = 0, components_out = 0;
  int64_t work = 0;  // multiply-adds
  std::vector<Group> groups;
  std::vector<int64_t> order;  // atoms by element; empty where all are of one

 private:
  void read(const Arguments& given);
  void sort(const abi::Tensor& species);
};

Problem::Problem(const Arguments& given) {
  read(given);
  for (size_t k = 0; k < sources.size(); k++) {
    matrices.push_back(matrix_numbers);
    if (sources[k] < 0) continue;
    matrix_numbers += channels_in[sources[k]] * channels_out;
    work += dims_out[k] * atoms * channels_in[sources[k]] * channels_out;
  }
  expect(given.species || elements == 1, name, "matrices of several elements need species");
  if (given.species)
    sort(*given.species);
  else if (atoms > 0)
    groups.push_back({0, 0, atoms});
}

void Problem::read(const Arguments& given) {
  dims_in = given.dims_in.values(), channels_in = given.channels_in.values();
  sources = given.sources.values(), dims_out = given.dims_out.values();
  expect(dims_in.size() == channels_in.size(), name, "dims_in and channels_in differ in length");
  expect(sources.size() == dims_out.size(), name, "sources and dims_out differ in length");
  for (const auto* sizes : {&dims_in, &channels_in, &dims_out})
    for (const int64_t size : *sizes)
      expect(size > 0 && size <= largest_size, name, "expected dimensions and channels from 1 to 2^20");
  int64_t channels = 0, per_atom = 0;
  for (size_t k = 0; k < sources.size(); k++) {
    const int64_t source = sources[k];
    expect(source >= -1 && source < static_cast<int64_t>(dims_in.size()), name,
           "sources: expected indices of input blocks, or -1");
    expect(source < 0 || dims_in[source] == dims_out[k], name, "an output differs in dimension from its source");
    channels += source < 0 ? 0 : channels_in[source];
    components_out += dims_out[k];
  }
  for (size_t k = 0; k < dims_in.size(); k++) per_atom += dims_in[k] * channels_in[k];
  expect(channels > 0, name, "expected an output with a source");
  const abi::Tensor &x = given.x, &weight = given.weight;
  expect(is_real(x) && x.dtype() == weight.dtype(), name, "expected x and weight of float32 or of float64");
  expect(x.on_cpu() && x.contiguous(), name, "x: expected a contiguous tensor on the CPU");
  expect(has_shape(weight, {-1, -1}) && weight.size(0) > 0 && weight.size(1) % channels == 0, name,
         "weight: expected a contiguous tensor (elements, channels of all sources times channels of an output)");
  elements = weight.size(0), channels_out = weight.size(1) / channels;
  int64_t count = 1;
  for (int axis = 0; axis < x.ndim(); axis++) count *= x.size(axis);
  atoms = count / per_atom;
  expect(atoms * per_atom == count, name, "x: expected dims_in times channels_in numbers of each atom");
}

void Problem::sort(const abi::Tensor& species) {
  expect(is_integer(species) && has_shape(species, {atoms}), name,
         "species: expected a contiguous int64 tensor (atoms,) on the CPU");
  const int64_t* of_atom = species.data<int64_t>();
  bool one = true;
  for (int64_t i = 0; i < atoms; i++) {
    expect(of_atom[i] >= 0 && of_atom[i] < elements, name, "species: expected indices from 0 to elements - 1");
    one &= of_atom[i] == of_atom[0];
  }
  if (one) {
    if (atoms > 0) groups.push_back({of_atom[0], 0, atoms});
    return;
  }
  std::vector<int64_t> next(elements);
  for (int64_t i = 0; i < atoms; i++) next[of_atom[i]]++;
  for (int64_t z = 0, begin = 0; z < elements; z++) {
    const int64_t end = begin + next[z];
    if (end > begin) groups.push_back({z, begin, end});
    next[z] = std::exchange(begin, end);
  }
  order.resize(atoms);
  for (int64_t i = 0; i < atoms; i++) order[next[of_atom[i]]++] = i;
}

// Rows of a block, (component, atom) pairs, of the atoms of one group.
template <class Real>
class GroupRows {
 public:
  GroupRows(const Problem& problem, const Group& group, int64_t dim)
      : problem_(problem), group_(group), size_(group.end - group.begin), count_(dim * size_) {}

  int64_t count() const { return count_; }
  bool scattered() const { return !problem_.order.empty(); }

  // The rows [begin, end) of this group: where they lie in the block, or a copy in `buffer`.
  const Real* gather(const Real* block, int64_t width, int64_t begin, int64_t end, Buffer<Real>& buffer) const {
    if (!scattered()) return block + begin * width;
    Real* to = buffer.reset((end - begin) * width);
    for_places(begin, end, [&](int64_t place) { to = std::copy_n(block + place * width, width, to); });
    return buffer.data();
  }
  void scatter(const Real* from, int64_t width, int64_t begin, int64_t end, Real* block) const {
    for_places(begin, end, [&](int64_t place) {
      std::copy_n(from, width, block + place * width);
      from += width;
    });
  }

 private:
  // body(row in the block) for each row of the group from `begin` to `end`.
  template <class Body>
  void for_places(int64_t begin, int64_t end, const Body& body) const {
    int64_t first = begin / size_ * problem_.atoms, k = begin % size_;
    for (int64_t row = begin; row < end; row++, k++) {
      if (k == size_) k = 0, first += problem_.atoms;
      body(first + problem_.order[group_.begin + k]);
    }
  }

  const Problem& problem_;
  const Group& group_;
  int64_t size_, count_;
};

// Features (dim, atoms, width) times a matrix (of the first element) are added to a target.
template <class Real>
struct Term {
  const Real* from;
  int64_t width;
  const Real* matrix;
};
template <class Real>
struct Target {
  Real* to;
  int64_t dim, width;
  std::vector<Term<Real>> terms;
};

template <class Real>
void multiply(const Problem& problem, const std::vector<Target<Real>>& targets, bool transposed) {
  struct Task {
    const Target<Real>* target;
    GroupRows<Real> rows;
    int64_t begin;
    size_t first_matrix;
  };
  std::vector<Task> tasks;
  std::vector<Matrix<Real>> matrices;
  for (const auto& target : targets) {
    if (target.terms.empty()) std::fill_n(target.to, target.dim * problem.atoms * target.width, Real(0));
    for (const auto& group : problem.groups) {
      if (target.terms.empty()) break;
      const GroupRows<Real> rows(problem, group, target.dim);
      for (int64_t begin = 0; begin < rows.count(); begin += rows_at_once)
        tasks.push_back({&target, rows, begin, matrices.size()});
      for (const auto& term : target.terms)
        matrices.emplace_back(term.matrix + group.element * problem.matrix_numbers, term.width, target.width, transposed,
                              rows.count());
    }
  }
  const auto count = static_cast<int64_t>(tasks.size());
  abi::parallel_for(0, count, worth_threads(problem.work) ? 1 : count, [&](int64_t first, int64_t last) {
    Buffer<Real> gathered, product;
    for (int64_t t = first; t < last; t++) {
      const auto& [target, rows, begin, first_matrix] = tasks[t];
      const int64_t end = std::min(rows.count(), begin + rows_at_once);
      Real* to = rows.scattered() ? product.reset(rows_at_once * target->width) : target->to + begin * target->width;
      const Matrix<Real>* matrix = &matrices[first_matrix];
      for (const auto& term : target->terms) {
        const Real* from = rows.gather(term.from, term.width, begin, end, gathered);
        matrix++->multiply(end - begin, from, to, &term != target->terms.data());
      }
      if (rows.scattered()) rows.scatter(to, target->width, begin, end, target->to);
    }
  });
}

// Where each block (dim, atoms, channels) begins.
template <class Real>
std::vector<Real*> blocks_of(Real* data, int64_t atoms, const std::vector<int64_t>& dims,
                             const std::vector<int64_t>& channels) {
  std::vector<Real*> out;
  for (size_t k = 0; k < dims.size(); k++) {
    out.push_back(data);
    data += dims[k] * atoms * channels[channels.size() == 1 ? 0 : k];
  }
  return out;
}

template <class Real>
void forward(const Problem& p, const Real* x, const Real* weight, Real* out) {
  const auto inputs = blocks_of(x, p.atoms, p.dims_in, p.channels_in);
  const auto outputs = blocks_of(out, p.atoms, p.dims_out, {p.channels_out});
  std::vector<Target<Real>> targets;
  for (size_t k = 0; k < outputs.size(); k++) {
    targets.push_back({outputs[k], p.dims_out[k], p.channels_out, {}});
    const int64_t source = p.sources[k];
    if (source >= 0) targets[k].terms.push_back({inputs[source], p.channels_in[source], weight + p.matrices[k]});
  }
  multiply(p, targets, false);
}

template <class Real>
void backward_x(const Problem& p, const Real* grad, const Real* weight, Real* grad_x) {
  const auto grads = blocks_of(grad, p.atoms, p.dims_out, {p.channels_out});
  const auto inputs = blocks_of(grad_x, p.atoms, p.dims_in, p.channels_in);
  std::vector<Target<Real>> targets;
  for (size_t k = 0; k < inputs.size(); k++) targets.push_back({inputs[k], p.dims_in[k], p.channels_in[k], {}});
  for (size_t k = 0; k < grads.size(); k++)
    if (p.sources[k] >= 0) targets[p.sources[k]].terms.push_back({grads[k], p.channels_out, weight + p.matrices[k]});
  multiply(p, targets, true);
}

// Threads share the rows of each matrix; every number is the sum over atoms in the same order.
template <class Real>
void backward_weight(const Problem& p, const Real* grad, const Real* x, Real* grad_weight) {
  const auto inputs = blocks_of(x, p.atoms, p.dims_in, p.channels_in);
  const auto grads = blocks_of(grad, p.atoms, p.dims_out, {p.channels_out});
  const int64_t n = p.channels_out, parts = worth_threads(p.work) ? abi::num_threads() : 1;
  abi::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
    Buffer<Real> left_rows, right_rows;
    for (size_t k = 0; k < grads.size(); k++) {
      if (p.sources[k] < 0) continue;
      const int64_t width = p.channels_in[p.sources[k]];
      const Part part = part_of<Real>(width, n, first, last, parts);
      TransposedProduct<Real> add_product(width, n, part);
      auto group = p.groups.begin();
      for (int64_t element = 0; element < p.elements; element++) {
        Real* to = grad_weight + element * p.matrix_numbers + p.matrices[k];
        if (group == p.groups.end() || group->element != element) {
          for (int64_t row = part.row; row < part.end_row; row++)
            std::fill(to + row * n + part.column, to + row * n + part.end_column, Real(0));
          continue;
        }
        const GroupRows<Real> rows(p, *group++, p.dims_out[k]);
        for (int64_t begin = 0; begin < rows.count(); begin += rows_of_sum) {
          const int64_t end = std::min(rows.count(), begin + rows_of_sum);
          const Real* left = rows.gather(inputs[p.sources[k]], width, begin, end, left_rows);
          const Real* right = rows.gather(grads[k], n, begin, end, right_rows);
          add_product(end - begin, left, right, to, begin > 0);
        }
      }
    }
  });
}

void irreps_linear(StableIValue* stack, uint64_t, uint64_t) {
  const Arguments given(stack);
  const Problem problem(given);
  auto out = new_output(given.x, {problem.components_out, problem.atoms, problem.channels_out});
  for_real(given.x, [&](auto real) {
    using Real = decltype(real);
    forward<Real>(problem, given.x.data<Real>(), given.weight.data<Real>(), out.template data<Real>());
  });
  stack[0] = out.release();
}

void irreps_linear_backward(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor grad(stack[0]);
  const Arguments given(stack + 1);
  const bool need_x = abi::from_stack<bool>(stack[8]), need_weight = abi::from_stack<bool>(stack[9]);
  const Problem problem(given);
  const abi::Tensor &x = given.x, &weight = given.weight;
  expect(grad.dtype() == x.dtype() && has_shape(grad, {problem.components_out, problem.atoms, problem.channels_out}),
         name, "grad: expected a contiguous tensor of the shape and type of the output");
  auto grad_x = need_x ? x.empty_like() : x.new_empty({0}, x.dtype());
  auto grad_weight = need_weight ? new_output(weight, {weight.size(0), weight.size(1)}) : x.new_empty({0}, x.dtype());
  for_real(x, [&](auto real) {
    using Real = decltype(real);
    const Real* from = grad.data<Real>();
    if (need_x) backward_x<Real>(problem, from, weight.data<Real>(), grad_x.template data<Real>());
    if (need_weight) backward_weight<Real>(problem, from, x.data<Real>(), grad_weight.template data<Real>());
  });
  stack[0] = grad_x.release();
  stack[1] = grad_weight.release();
}

const auto definitions =
    abi::Library("mlip")
        .def("irreps_linear(Tensor x, Tensor weight, int[] dims_in, int[] channels_in, int[] sources, int[] dims_out, "
             "Tensor? species=None) -> Tensor")
        .def("irreps_linear_backward(Tensor grad, Tensor x, Tensor weight, int[] dims_in, int[] channels_in, "
             "int[] sources, int[] dims_out, Tensor? species, bool need_x, bool need_weight) -> (Tensor, Tensor)");
const auto cpu = abi::Library("mlip", "CPU")
                     .impl("irreps_linear", irreps_linear)
                     .impl("irreps_linear_backward", irreps_linear_backward);

}  // namespace
}  // namespace mlip
