// Runs the threads of a block as coroutines, which take turns at barriers and exchanges.
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <vector>

#include "cuda_runtime.h"
#undef aoti_torch_library_init_impl
#undef aoti_torch_get_device_type
#undef aoti_torch_empty_strided

extern "C" {
struct TorchLibraryOpaque;
struct AtenTensorOpaque;
int32_t aoti_torch_library_init_impl(const char*, const char*, const char*, uint32_t, TorchLibraryOpaque**);
int32_t aoti_torch_get_dim(AtenTensorOpaque*, int64_t*);
int32_t aoti_torch_get_dtype(AtenTensorOpaque*, int32_t*);
int32_t aoti_torch_get_data_ptr(AtenTensorOpaque*, void**);
int32_t aoti_torch_dtype_int32();
int32_t aoti_torch_device_type_cpu();
int32_t aoti_torch_empty_strided(int64_t, const int64_t*, const int64_t*, int32_t, int32_t, int32_t, AtenTensorOpaque**);

int32_t emulated_library_init_impl(const char*, const char*, const char* file, uint32_t line, TorchLibraryOpaque** to) {
  return aoti_torch_library_init_impl("mlip_emulated", "CPU", file, line, to);
}
static std::vector<const void*> host_tensors;
// Where the tensors begin that are on the CPU in the calls that follow.
__attribute__((visibility("default"))) void emulated_host_tensors(const void* const* begin, int64_t count) {
  host_tensors.assign(begin, begin + count);
}
int32_t emulated_get_device_type(AtenTensorOpaque* tensor, int32_t* type) {
  int64_t axes = 0;
  int32_t dtype = 0;
  void* data = nullptr;
  aoti_torch_get_dim(tensor, &axes);
  aoti_torch_get_dtype(tensor, &dtype);
  aoti_torch_get_data_ptr(tensor, &data);
  const bool program = axes == 1 && dtype == aoti_torch_dtype_int32();
  const bool named = std::find(host_tensors.begin(), host_tensors.end(), data) != host_tensors.end();
  *type = aoti_torch_device_type_cpu() + (program || named ? 0 : 1);
  return 0;
}
int32_t emulated_empty_strided(int64_t ndim, const int64_t* sizes, const int64_t* strides, int32_t dtype, int32_t,
                               int32_t, AtenTensorOpaque** made) {
  return aoti_torch_empty_strided(ndim, sizes, strides, dtype, aoti_torch_device_type_cpu(), -1, made);
}
int32_t emulated_stream(int32_t, void** stream) {
  *stream = nullptr;
  return 0;
}
}

namespace emulation {
namespace {

enum class State { ready, at_block, at_warp, finished };
struct Thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  Indices indices;
  State state;
  uint64_t number;
};

constexpr size_t stack_bytes = 1 << 18;
constexpr unsigned warp = 32;
std::vector<Thread> threads;
Thread* current = nullptr;
ucontext_t scheduler;
const std::function<void()>* body = nullptr;

void stop(const char* reason) {
  std::fprintf(stderr, "CUDA emulation: %s\n", reason);
  std::abort();
}

void start() {
  (*body)();
  current->state = State::finished;
  swapcontext(&current->context, &scheduler);
}

void wait(State state) {
  current->state = state;
  swapcontext(&current->context, &scheduler);
}

// Lets the threads [first, last) go on if all of them wait; whether they did.
bool release(size_t first, size_t last, State state) {
  size_t waiting = 0;
  for (size_t k = first; k < last; k++) waiting += threads[k].state == state;
  if (waiting < last - first) return false;
  for (size_t k = first; k < last; k++) threads[k].state = State::ready;
  return true;
}

void run_block(size_t count) {
  static const bool reversed = std::getenv("EMULATION_REVERSED") != nullptr;
  for (;;) {
    bool moved = false, finished = true;
    for (size_t n = 0; n < count; n++) {
      Thread& thread = threads[reversed ? count - 1 - n : n];
      if (thread.state == State::ready) {
        current = &thread;
        swapcontext(&scheduler, &thread.context);
        moved = true;
      }
    }
    for (size_t first = 0; first < count; first += warp) {
      if (first + warp <= count) moved |= release(first, first + warp, State::at_warp);
    }
    moved |= release(0, count, State::at_block);
    for (size_t n = 0; n < count; n++) finished &= threads[n].state == State::finished;
    if (finished) return;
    if (!moved) stop("not all threads reach a barrier or an exchange");
  }
}

}  // namespace

const Indices& here() { return current->indices; }
void wait_for_block() { wait(State::at_block); }

void wait_for_warp() { wait(State::at_warp); }

uint32_t ballot(bool mine) {
  current->number = mine;
  wait(State::at_warp);
  const size_t first = static_cast<size_t>(current - threads.data()) / warp * warp;
  uint32_t set = 0;
  for (unsigned lane = 0; lane < warp; lane++) set |= static_cast<uint32_t>(threads[first + lane].number) << lane;
  wait(State::at_warp);
  return set;
}

uint64_t exchange(uint64_t mine, int distance) {
  current->number = mine;
  wait(State::at_warp);
  Thread* const me = current;
  const uint64_t other = threads[static_cast<size_t>(me - threads.data()) ^ static_cast<size_t>(distance)].number;
  wait(State::at_warp);
  return other;
}

void run(dim3 grid, dim3 block, const std::function<void()>& thread_body) {
  const size_t count = block.x;
  if (block.y != 1 || block.z != 1 || count == 0 || count > 1024) stop("unexpected size of a block");
  if (threads.size() < count) threads.resize(count);
  body = &thread_body;
  for (unsigned z = 0; z < grid.z; z++)
    for (unsigned y = 0; y < grid.y; y++)
      for (unsigned x = 0; x < grid.x; x++) {
        for (size_t n = 0; n < count; n++) {
          Thread& thread = threads[n];
          if (!thread.stack) thread.stack.reset(new char[stack_bytes]);
          thread.indices = {dim3(static_cast<unsigned>(n)), dim3(x, y, z), block, grid};
          thread.indices.thread.y = thread.indices.thread.z = 0;
          thread.state = State::ready;
          getcontext(&thread.context);
          thread.context.uc_stack.ss_sp = thread.stack.get();
          thread.context.uc_stack.ss_size = stack_bytes;
          thread.context.uc_link = nullptr;
          makecontext(&thread.context, start, 0);
        }
        run_block(count);
      }
}

}  // namespace emulation

#include "groups.cuh"

namespace mlip::cuda {

void sort_pairs(const abi::Tensor&, const int32_t* keys, int32_t* sorted_keys, const int32_t* values,
                int32_t* sorted_values, int64_t count, int bits, cudaStream_t) {
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), int64_t{0});
  const int32_t mask = static_cast<int32_t>((int64_t{1} << bits) - 1);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return (keys[a] & mask) < (keys[b] & mask); });
  for (int64_t k = 0; k < count; k++) {
    sorted_keys[k] = keys[order[static_cast<size_t>(k)]];
    sorted_values[k] = values[order[static_cast<size_t>(k)]];
  }
}

}  // namespace mlip::cuda
