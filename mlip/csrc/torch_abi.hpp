// The part of libtorch's stable C ABI that the operators use, declared here so that building needs no torch.
//
// The functions are those of torch/csrc/stable/c/shim.h and torch/csrc/inductor/aoti_torch/c/shim.h; torch keeps them
// for two years after a release. They are resolved by the torch that is loaded at run time (2.11 or newer).
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <exception>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kept_memory.hpp"
#include "subnormals.hpp"

extern "C" {
struct AtenTensorOpaque;
struct TorchLibraryOpaque;
struct StableListOpaque;
using AtenTensorHandle = AtenTensorOpaque*;
using TorchLibraryHandle = TorchLibraryOpaque*;
using StableListHandle = StableListOpaque*;
using StableIValue = uint64_t;
using BoxedFunction = void (*)(StableIValue* stack, uint64_t n_arguments, uint64_t n_outputs);

int32_t aoti_torch_library_init_fragment(const char* name, const char* file, uint32_t line, TorchLibraryHandle*);
int32_t aoti_torch_library_init_impl(const char* name, const char* key, const char* file, uint32_t line,
                                     TorchLibraryHandle*);
int32_t aoti_torch_library_def(TorchLibraryHandle, const char* schema);
int32_t torch_library_impl(TorchLibraryHandle, const char* name, BoxedFunction, uint64_t abi_version);

int32_t aoti_torch_delete_tensor_object(AtenTensorHandle);
int32_t aoti_torch_get_sizes(AtenTensorHandle, int64_t**);
int32_t aoti_torch_get_dim(AtenTensorHandle, int64_t*);
int32_t aoti_torch_get_dtype(AtenTensorHandle, int32_t*);
int32_t aoti_torch_get_device_type(AtenTensorHandle, int32_t*);
int32_t aoti_torch_get_device_index(AtenTensorHandle, int32_t*);
int32_t aoti_torch_is_contiguous(AtenTensorHandle, bool*);
int32_t aoti_torch_get_data_ptr(AtenTensorHandle, void**);
int32_t aoti_torch_empty_strided(int64_t ndim, const int64_t* sizes, const int64_t* strides, int32_t dtype,
                                 int32_t device_type, int32_t device_index, AtenTensorHandle*);
int32_t torch_from_blob(void* data, int64_t ndim, const int64_t* sizes, const int64_t* strides, int64_t storage_offset,
                        int32_t dtype, int32_t device_type, int32_t device_index, AtenTensorHandle*, int32_t layout,
                        const uint8_t* opaque_metadata, int64_t opaque_metadata_size,
                        void (*deleter)(void* data, void* context), void* context);
int32_t aoti_torch_layout_strided();
int32_t torch_parallel_for(int64_t begin, int64_t end, int64_t grain, void (*)(int64_t, int64_t, void*), void*);
int32_t torch_get_num_threads(uint32_t*);
int32_t torch_list_size(StableListHandle, size_t*);
int32_t torch_list_get_item(StableListHandle, size_t index, StableIValue*);
int32_t torch_delete_list(StableListHandle);
int32_t aoti_torch_dtype_bool();
int32_t aoti_torch_dtype_int32();
int32_t aoti_torch_dtype_int64();
int32_t aoti_torch_dtype_float32();
int32_t aoti_torch_dtype_float64();
int32_t aoti_torch_device_type_cpu();
}

namespace abi {

constexpr uint64_t target_version = (uint64_t{2} << 56) | (uint64_t{11} << 48);  // torch 2.11

inline void check(int32_t status, const char* call) {
  if (status != 0) throw std::runtime_error(std::string("mlip: torch refused ") + call);
}
#define MLIP_ABI(call) ::abi::check(call, #call)

template <class T>
T from_stack(StableIValue value) {
  static_assert(sizeof(T) <= sizeof value);
  T out;
  std::memcpy(&out, &value, sizeof out);
  return out;
}

// The product of sizes; throws where numbers so many would not fit into any memory.
inline int64_t product(std::initializer_list<int64_t> sizes) {
  int64_t product = 16;  // bytes of the largest number
  for (const int64_t size : sizes)
    if (size < 0 || __builtin_mul_overflow(product, size, &product))
      throw std::invalid_argument("mlip: a tensor of these sizes would be larger than any memory");
  return product / 16;
}

// Strides of a contiguous tensor of up to eight axes. A tensor without elements may have sizes beyond any memory too.
struct Strides {
  Strides(const int64_t* sizes, int64_t ndim) {
    bool empty = false;
    for (int64_t axis = ndim - 1; axis >= 0; axis--) {
      values[axis] = size;
      size = product({size, std::max<int64_t>(sizes[axis], 1)});
      empty |= sizes[axis] == 0;
    }
    if (empty) size = 0;
  }
  int64_t values[8];
  int64_t size = 1;  // numbers in the tensor
};

inline int64_t bytes_of(int32_t dtype) {
  if (dtype == aoti_torch_dtype_float64() || dtype == aoti_torch_dtype_int64()) return 8;
  if (dtype == aoti_torch_dtype_float32() || dtype == aoti_torch_dtype_int32()) return 4;
  if (dtype == aoti_torch_dtype_bool()) return 1;
  throw std::invalid_argument("mlip: a type of numbers that no operator knows");
}

// Owns one reference to a tensor. An operator owns its arguments, so each is wrapped before anything can throw.
class Tensor {
 public:
  explicit Tensor(StableIValue value) : handle_(from_stack<AtenTensorHandle>(value)) {}
  explicit Tensor(AtenTensorHandle handle) : handle_(handle) {}
  Tensor(Tensor&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;
  ~Tensor() {
    if (handle_) aoti_torch_delete_tensor_object(handle_);
  }

  int64_t ndim() const { return get<int64_t>(aoti_torch_get_dim); }
  int64_t size(int axis) const { return get<int64_t*>(aoti_torch_get_sizes)[axis]; }
  int32_t dtype() const { return get<int32_t>(aoti_torch_get_dtype); }
  int32_t device_type() const { return get<int32_t>(aoti_torch_get_device_type); }
  int32_t device_index() const { return get<int32_t>(aoti_torch_get_device_index); }
  bool contiguous() const { return get<bool>(aoti_torch_is_contiguous); }
  bool on_cpu() const { return device_type() == aoti_torch_device_type_cpu(); }
  template <class T>
  T* data() const {
    return static_cast<T*>(get<void*>(aoti_torch_get_data_ptr));
  }

  // An uninitialised, contiguous tensor on the same device.
  Tensor new_empty(std::initializer_list<int64_t> shape, int32_t dtype) const {
    return new_empty(shape.begin(), static_cast<int64_t>(shape.size()), dtype);
  }
  // The same, in shape and type as this one, which is contiguous.
  Tensor empty_like() const { return new_empty(get<int64_t*>(aoti_torch_get_sizes), ndim(), dtype()); }

  // Hands the reference over to the caller of the operator.
  StableIValue release() {
    StableIValue value = 0;
    std::memcpy(&value, &handle_, sizeof handle_);
    handle_ = nullptr;
    return value;
  }

 private:
  Tensor new_empty(const int64_t* sizes, int64_t ndim, int32_t dtype) const {
    const Strides strides(sizes, ndim);
    const auto bytes = static_cast<size_t>(strides.size * bytes_of(dtype));
    AtenTensorHandle made = nullptr;
    if (!on_cpu() || bytes < mlip::KeptMemory::least_bytes) {
      MLIP_ABI(aoti_torch_empty_strided(ndim, sizes, strides.values, dtype, device_type(), device_index(), &made));
      return Tensor(made);
    }
    using Block = mlip::KeptMemory::Block;
    auto block = std::make_unique<Block>(mlip::KeptMemory::instance().take(bytes));
    const auto give_back = [](void*, void* context) {
      const std::unique_ptr<Block> owned(static_cast<Block*>(context));
      mlip::KeptMemory::instance().give_back(*owned);
    };
    MLIP_ABI(torch_from_blob(block->data, ndim, sizes, strides.values, 0, dtype, device_type(), -1, &made,
                             aoti_torch_layout_strided(), nullptr, 0, give_back, block.get()));
    block.release();
    return Tensor(made);
  }

  template <class T>
  T get(int32_t (*getter)(AtenTensorHandle, T*)) const {
    T out{};
    MLIP_ABI(getter(handle_, &out));
    return out;
  }
  AtenTensorHandle handle_;
};

// An argument Tensor?; what is there lies behind a pointer that the operator owns.
inline std::optional<Tensor> optional_tensor(StableIValue value) {
  const std::unique_ptr<StableIValue> inner(from_stack<StableIValue*>(value));
  return inner ? std::optional<Tensor>(std::in_place, *inner) : std::nullopt;
}

// Owns an argument int[]; wrapped, as tensors are, before anything can throw.
class IntegerList {
 public:
  explicit IntegerList(StableIValue value) : handle_(from_stack<StableListHandle>(value)) {}
  IntegerList(const IntegerList&) = delete;
  IntegerList& operator=(const IntegerList&) = delete;
  ~IntegerList() { torch_delete_list(handle_); }

  std::vector<int64_t> values() const {
    size_t size = 0;
    MLIP_ABI(torch_list_size(handle_, &size));
    std::vector<int64_t> out(size);
    for (size_t k = 0; k < size; k++) {
      StableIValue item = 0;
      MLIP_ABI(torch_list_get_item(handle_, k, &item));
      out[k] = from_stack<int64_t>(item);
    }
    return out;
  }

 private:
  StableListHandle handle_;
};

// body(begin, end) over torch's own threads, without subnormal numbers; the first exception thrown by a body is thrown
// again here.
template <class Body>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const Body& body) {
  struct Context {
    const Body& body;
    std::mutex mutex;
    std::exception_ptr error;
  } context{body, {}, nullptr};
  const auto run = [](int64_t first, int64_t last, void* pointer) {
    auto& shared = *static_cast<Context*>(pointer);
    const mlip::SubnormalsAreZero mode;
    try {
      shared.body(first, last);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(shared.mutex);
      if (!shared.error) shared.error = std::current_exception();
    }
  };
  MLIP_ABI(torch_parallel_for(begin, end, grain, run, &context));
  if (context.error) std::rethrow_exception(context.error);
}

// Threads that parallel_for uses.
inline int64_t num_threads() {
  uint32_t threads = 1;
  MLIP_ABI(torch_get_num_threads(&threads));
  return threads;
}

// Registers operators when the library is loaded; lives as long as the process.
class Library {
 public:
  explicit Library(const char* name) { MLIP_ABI(aoti_torch_library_init_fragment(name, __FILE__, __LINE__, &handle_)); }
  Library(const char* name, const char* dispatch_key) {
    MLIP_ABI(aoti_torch_library_init_impl(name, dispatch_key, __FILE__, __LINE__, &handle_));
  }
  Library& def(const char* schema) {
    MLIP_ABI(aoti_torch_library_def(handle_, schema));
    return *this;
  }
  Library& impl(const char* name, BoxedFunction function) {
    MLIP_ABI(torch_library_impl(handle_, name, function, target_version));
    return *this;
  }

 private:
  TorchLibraryHandle handle_ = nullptr;
};

}  // namespace abi
