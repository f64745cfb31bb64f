// The operator `mlip::symmetric_contraction` on the CPU, with first and second derivatives.
//
// `program` is int32 on the CPU: numbers of inputs, outputs and terms, then the tree (kernels/contraction.hpp). It is
// read through in every call, so that a wrong one is refused.
#include <algorithm>
#include <vector>

#include "geometry_arguments.hpp"
#include "kernels/contraction.hpp"

namespace mlip {
namespace {

constexpr int64_t atoms_per_task = 16;
constexpr int64_t header = 3;

template <class Real>
FixedTrees<Real> fixed_trees() {
  if constexpr (sizeof(Real) == 4)
    return MLIP_BEST(fixed_trees_table).float32;
  else
    return MLIP_BEST(fixed_trees_table).float64;
}

template <class Real>
const ContractionOf<Real>& functions() {
  if constexpr (sizeof(Real) == 4)
    return MLIP_BEST(contraction_table).float32;
  else
    return MLIP_BEST(contraction_table).float64;
}

// Reads a tree through and counts its terms.
class Reader {
 public:
  Reader(const char* operation, const int32_t* tree, int64_t size, int64_t n_in)
      : operation_(operation), tree_(tree), size_(size), n_in_(n_in) {}

  void node(int depth) {
    const int64_t own = next(), leaves = next(), inner = next();
    require((own == 0 || own == 1) && leaves >= 0 && inner >= 0 && depth <= largest_order);
    n_terms_ += own + leaves;
    for (int64_t n = 0; n < leaves; n++) factor();
    for (int64_t n = 0; n < inner; n++) {
      factor();
      node(depth + 1);
    }
  }
  int64_t n_terms() const { return n_terms_; }
  int64_t place() const { return place_; }
  bool at_end() const { return place_ == size_; }

 private:
  void require(bool condition) const { expect(condition, operation_, "program: expected one made by ContractionProgram"); }
  int32_t next() {
    require(place_ < size_);
    return tree_[place_++];
  }
  void factor() {
    const int32_t k = next();
    require(0 <= k && k < n_in_);
  }

  const char* operation_;
  const int32_t* tree_;
  int64_t size_, n_in_, place_ = 0, n_terms_ = 0;
};

// What all operators of the family are given last: features, species, program; and the number of elements.
struct Arguments {
  const char* operation;
  const abi::Tensor &features, &species, &program;
  int64_t n_in = 0, n_out = 0, n_terms = 0, n_atoms = 0, n_channels = 0, block = 0;
  std::vector<int64_t> trees;  // where that of each output begins, and the end

  Arguments(const char* name, const abi::Tensor& features_, const abi::Tensor& species_, const abi::Tensor& program_)
      : operation(name), features(features_), species(species_), program(program_) {
    expect(has_shape(program, {-1}) && program.dtype() == aoti_torch_dtype_int32() && program.size(0) >= header, name,
           "program: expected a contiguous int32 tensor on the CPU");
    const int32_t* numbers = program.data<int32_t>();
    n_in = numbers[0];
    n_out = numbers[1];
    n_terms = numbers[2];
    expect(0 < n_in && n_in <= largest_width && n_out >= 0, name, "program: expected 1 to 64 components");
    Reader reader(name, numbers + header, program.size(0) - header, n_in);
    for (int64_t m = 0; m < n_out; m++) {
      trees.push_back(reader.place());
      reader.node(0);
    }
    trees.push_back(reader.place());
    expect(reader.at_end() && reader.n_terms() == n_terms, name, "program: expected one made by ContractionProgram");
    expect(has_shape(features, {n_in, -1, -1}) && is_real(features), name,
           "features: expected a contiguous float32 or float64 tensor (components, N, channels) on the CPU");
    n_atoms = features.size(1);
    n_channels = features.size(2);
    block = features.dtype() == aoti_torch_dtype_float32() ? 16 : 8;
    expect(n_channels % block == 0, name, "features: expected channels in multiples of 16 (float32) or 8 (float64)");
    expect(has_shape(species, {n_atoms}) && is_integer(species), name,
           "species: expected a contiguous int64 tensor of shape (N,) on the CPU");
  }

  void check_species(int64_t n_elements) const {
    expect(n_elements >= 0, operation, "n_elements: expected a number of elements");
    const int64_t* z = species.data<int64_t>();
    for (int64_t k = 0; k < n_atoms; k++)
      expect(0 <= z[k] && z[k] < n_elements, operation, "species: expected numbers from 0 to Z - 1");
  }
  void check_coefficients(const abi::Tensor& coefficients) const {
    expect(has_shape(coefficients, {-1, n_channels / block, n_terms, block}) &&
               coefficients.dtype() == features.dtype(),
           operation, "coefficients: expected those of pack_coefficients, (Z, C / block, terms, block)");
    check_species(coefficients.size(0));
  }
  void check_like_features(const abi::Tensor& tensor, int64_t components, const char* message) const {
    expect(has_shape(tensor, {components, n_atoms, n_channels}) && tensor.dtype() == features.dtype(), operation,
           message);
  }

  // Straight-line code for each output, or nothing.
  template <class Real>
  std::vector<const FixedTree<Real>*> fixed() const {
    std::vector<const FixedTree<Real>*> all;
    const FixedTrees<Real> known = fixed_trees<Real>();
    const int32_t* tree = program.data<int32_t>() + header;
    for (size_t m = 0; m + 1 < trees.size(); m++) {
      const FixedTree<Real>* const end = known.first + known.count;
      const auto* found = std::find_if(known.first, end, [&](const FixedTree<Real>& one) {
        return one.n_in <= n_in && std::equal(one.nodes, one.nodes + one.size, tree + trees[m], tree + trees[m + 1]);
      });
      if (found == end) return {};
      all.push_back(found);
    }
    return all;
  }

  template <class Real>
  Contraction<Real> contraction() const {
    Contraction<Real> all{};
    all.tree = program.data<int32_t>() + header;
    all.n_in = n_in;
    all.n_out = n_out;
    all.n_terms = n_terms;
    all.n_atoms = n_atoms;
    all.n_channels = n_channels;
    all.features = features.data<Real>();
    all.species = species.data<int64_t>();
    return all;
  }
};

constexpr const char* wrong_grad = "grad: expected a contiguous tensor (outputs, N, channels) of the features' type";
constexpr const char* wrong_tangent = "tangent: expected a contiguous tensor of the shape and type of the features";

template <class Real>
void over_atoms(typename ContractionOf<Real>::Atoms function, const Contraction<Real>& all) {
  abi::parallel_for(0, (all.n_atoms + atoms_per_task - 1) / atoms_per_task, 1, [&](int64_t first, int64_t last) {
    function(all, first * atoms_per_task, std::min(last * atoms_per_task, all.n_atoms));
  });
}

// A thread has channels of its own and takes the atoms in order: the sums do not depend on the number of threads.
template <class Real>
void over_blocks(typename ContractionOf<Real>::Atoms function, const Contraction<Real>& all, int64_t block,
                 int64_t n_elements) {
  std::fill(all.term_gradient, all.term_gradient + n_elements * all.n_terms * all.n_channels, Real(0));
  abi::parallel_for(0, all.n_channels / block, 1, [&](int64_t first, int64_t last) { function(all, first, last); });
}

void symmetric_contraction(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor features(stack[0]), species(stack[1]), coefficients(stack[2]), program(stack[3]);
  const Arguments args("symmetric_contraction", features, species, program);
  args.check_coefficients(coefficients);
  expect(abi::from_stack<int64_t>(stack[4]) == args.n_out, args.operation, "n_out: expected that of the program");
  auto values = new_output(features, {args.n_out, args.n_atoms, args.n_channels});
  for_real(features, [&](auto zero) {
    using Real = decltype(zero);
    auto all = args.contraction<Real>();
    const auto fixed = args.fixed<Real>();
    all.fixed = fixed.empty() ? nullptr : fixed.data();
    all.coefficients = coefficients.data<Real>();
    all.values = values.data<Real>();
    over_atoms(functions<Real>().forward, all);
  });
  stack[0] = values.release();
}

void symmetric_contraction_backward(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor grad(stack[0]), features(stack[1]), species(stack[2]), coefficients(stack[3]), program(stack[4]);
  const Arguments args("symmetric_contraction_backward", features, species, program);
  args.check_coefficients(coefficients);
  args.check_like_features(grad, args.n_out, wrong_grad);
  auto gradient = new_output(features, {args.n_in, args.n_atoms, args.n_channels});
  for_real(features, [&](auto zero) {
    using Real = decltype(zero);
    auto all = args.contraction<Real>();
    const auto fixed = args.fixed<Real>();
    all.fixed = fixed.empty() ? nullptr : fixed.data();
    all.coefficients = coefficients.data<Real>();
    all.grad = grad.data<Real>();
    all.gradient = gradient.data<Real>();
    over_atoms(functions<Real>().backward, all);
  });
  stack[0] = gradient.release();
}

void symmetric_contraction_second(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor tangent(stack[0]), grad(stack[1]), features(stack[2]), species(stack[3]), coefficients(stack[4]),
      program(stack[5]);
  const Arguments args("symmetric_contraction_second", features, species, program);
  args.check_coefficients(coefficients);
  args.check_like_features(grad, args.n_out, wrong_grad);
  args.check_like_features(tangent, args.n_in, wrong_tangent);
  auto values = new_output(features, {args.n_out, args.n_atoms, args.n_channels});
  auto gradient = new_output(features, {args.n_in, args.n_atoms, args.n_channels});
  for_real(features, [&](auto zero) {
    using Real = decltype(zero);
    auto all = args.contraction<Real>();
    const auto fixed = args.fixed<Real>();
    all.fixed = fixed.empty() ? nullptr : fixed.data();
    all.coefficients = coefficients.data<Real>();
    all.grad = grad.data<Real>();
    all.tangent = tangent.data<Real>();
    all.values = values.data<Real>();
    all.gradient = gradient.data<Real>();
    over_atoms(functions<Real>().second, all);
  });
  stack[0] = values.release();
  stack[1] = gradient.release();
}

void symmetric_contraction_terms(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor grad(stack[0]), features(stack[1]), species(stack[2]), program(stack[3]);
  const auto n_terms = abi::from_stack<int64_t>(stack[4]), n_elements = abi::from_stack<int64_t>(stack[5]);
  const Arguments args("symmetric_contraction_terms", features, species, program);
  args.check_like_features(grad, args.n_out, wrong_grad);
  args.check_species(n_elements);
  expect(n_terms == args.n_terms, args.operation, "n_terms: expected that of the program");
  auto out = new_output(features, {n_elements, args.n_channels / args.block, args.n_terms, args.block});
  for_real(features, [&](auto zero) {
    using Real = decltype(zero);
    auto all = args.contraction<Real>();
    all.grad = grad.data<Real>();
    all.term_gradient = out.data<Real>();
    over_blocks(functions<Real>().terms, all, args.block, n_elements);
  });
  stack[0] = out.release();
}

void symmetric_contraction_terms_second(StableIValue* stack, uint64_t, uint64_t) {
  const abi::Tensor tangent(stack[0]), grad(stack[1]), features(stack[2]), species(stack[3]), program(stack[4]);
  const auto n_terms = abi::from_stack<int64_t>(stack[5]), n_elements = abi::from_stack<int64_t>(stack[6]);
  const Arguments args("symmetric_contraction_terms_second", features, species, program);
  args.check_like_features(grad, args.n_out, wrong_grad);
  args.check_like_features(tangent, args.n_in, wrong_tangent);
  args.check_species(n_elements);
  expect(n_terms == args.n_terms, args.operation, "n_terms: expected that of the program");
  auto out = new_output(features, {n_elements, args.n_channels / args.block, args.n_terms, args.block});
  for_real(features, [&](auto zero) {
    using Real = decltype(zero);
    auto all = args.contraction<Real>();
    all.grad = grad.data<Real>();
    all.tangent = tangent.data<Real>();
    all.term_gradient = out.data<Real>();
    over_blocks(functions<Real>().terms_second, all, args.block, n_elements);
  });
  stack[0] = out.release();
}

const auto definition =
    abi::Library("mlip")
        .def("symmetric_contraction(Tensor features, Tensor species, Tensor coefficients, Tensor program, int n_out) -> "
             "Tensor")
        .def("symmetric_contraction_backward(Tensor grad, Tensor features, Tensor species, Tensor coefficients, "
             "Tensor program) -> Tensor")
        .def("symmetric_contraction_second(Tensor tangent, Tensor grad, Tensor features, Tensor species, "
             "Tensor coefficients, Tensor program) -> (Tensor values, Tensor features)")
        .def("symmetric_contraction_terms(Tensor grad, Tensor features, Tensor species, Tensor program, "
             "int n_terms, int n_elements) -> Tensor")
        .def("symmetric_contraction_terms_second(Tensor tangent, Tensor grad, Tensor features, Tensor species, "
             "Tensor program, int n_terms, int n_elements) -> Tensor");
const auto cpu = abi::Library("mlip", "CPU")
                     .impl("symmetric_contraction", symmetric_contraction)
                     .impl("symmetric_contraction_backward", symmetric_contraction_backward)
                     .impl("symmetric_contraction_second", symmetric_contraction_second)
                     .impl("symmetric_contraction_terms", symmetric_contraction_terms)
                     .impl("symmetric_contraction_terms_second", symmetric_contraction_terms_second);

}  // namespace
}  // namespace mlip
