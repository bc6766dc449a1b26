#include "emulator.hpp"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>

namespace emulator {

Thread* current = nullptr;
unsigned block_x = 0, block_y = 0, blocks_x = 0;
unsigned char* shared = nullptr;
bool copies_are_late = true;

namespace {

constexpr std::size_t kStack = 128 * 1024;
constexpr int kGuard = 4096;
constexpr unsigned char kPoison = 0xff;  // floats of these bytes are NaN

enum class State { fresh, ready, at_barrier, in_warp, done };

struct Fiber : Thread {
  State state = State::fresh;
  jmp_buf place;
  ucontext_t beginning;
  std::unique_ptr<char[]> stack{new char[kStack]};
  void* argument = nullptr;
};

unsigned seed = 0;
std::vector<Fiber> fibers;
jmp_buf scheduler;
int threads = 0, arrived = 0;
std::vector<int> arrived_of_warp;
const std::function<void()>* kernel = nullptr;

Fiber& self() { return *static_cast<Fiber*>(current); }

// Leaves the current fiber until the scheduler comes back to it.
void wait() {
  Fiber& fiber = self();
  if (_setjmp(fiber.place) == 0) _longjmp(scheduler, 1);
}

void enter() {
  (*kernel)();
  self().state = State::done;
  _longjmp(scheduler, 1);
}

void resume(Fiber& fiber) {
  current = &fiber;
  if (_setjmp(scheduler) != 0) return;
  if (fiber.state == State::fresh) {
    fiber.state = State::ready;
    getcontext(&fiber.beginning);
    fiber.beginning.uc_stack.ss_sp = fiber.stack.get();
    fiber.beginning.uc_stack.ss_size = kStack;
    fiber.beginning.uc_link = nullptr;
    makecontext(&fiber.beginning, enter, 0);
    setcontext(&fiber.beginning);
  }
  _longjmp(fiber.place, 1);
}

void run_block(const std::vector<int>& order) {
  arrived = 0;
  arrived_of_warp.assign((threads + kWarp - 1) / kWarp, 0);
  for (int i = 0; i < threads; i++) {
    fibers[i].index = i;
    fibers[i].state = State::fresh;
    fibers[i].copies.assign(1, {});
  }
  for (bool progress = true; progress;) {
    progress = false;
    for (const int i : order)
      if (fibers[i].state == State::fresh || fibers[i].state == State::ready) {
        resume(fibers[i]);
        progress = true;
      }
  }
  for (const Fiber& fiber : fibers)
    if (fiber.state != State::done) throw std::runtime_error("emulator: threads wait for each other at different places");
}

}  // namespace

void set_seed(unsigned value) { seed = value; }

void sync_block() {
  self().state = State::at_barrier;
  if (++arrived == threads) {
    arrived = 0;
    for (Fiber& fiber : fibers) {
      if (fiber.state != State::at_barrier) throw std::runtime_error("emulator: a thread has left before a barrier");
      fiber.state = State::ready;
    }
  }
  wait();
}

void meet(void* argument, const std::function<void(void* const*)>& work) {
  Fiber& fiber = self();
  const int warp = fiber.index / kWarp;
  fiber.argument = argument;
  fiber.state = State::in_warp;
  if (++arrived_of_warp[warp] < kWarp) return wait();
  arrived_of_warp[warp] = 0;
  void* arguments[kWarp];
  for (int lane = 0; lane < kWarp; lane++) {
    Fiber& other = fibers[warp * kWarp + lane];
    arguments[lane] = other.argument;
    other.state = State::ready;
  }
  work(arguments);
}

void run(const std::function<void()>& what, unsigned width, unsigned height, int count, int shared_bytes) {
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  kernel = &what;
  blocks_x = width;
  threads = count;
  fibers.resize(threads);
  copies_are_late = seed % 2 == 0;
  std::vector<int> order(threads);
  std::iota(order.begin(), order.end(), 0);
  std::mt19937 random(seed);
  std::vector<unsigned char> memory(shared_bytes + kGuard + 128);
  shared = reinterpret_cast<unsigned char*>((reinterpret_cast<std::uintptr_t>(memory.data()) + 127) / 128 * 128);
  for (block_y = 0; block_y < height; block_y++)
    for (block_x = 0; block_x < width; block_x++) {
      if (seed > 0) std::shuffle(order.begin(), order.end(), random);
      std::fill(memory.begin(), memory.end(), kPoison);
      run_block(order);
      for (int i = 0; i < kGuard; i++)
        if (shared[shared_bytes + i] != kPoison) throw std::runtime_error("emulator: written past shared memory");
    }
}

}  // namespace emulator
