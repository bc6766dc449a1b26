#include "emulator.hpp"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>

#include "races.hpp"

namespace emulator {

Thread* current = nullptr;
unsigned block_x = 0, block_y = 0, blocks_x = 0;
unsigned char* shared = nullptr;
std::map<std::string, int> launches;

namespace {

constexpr std::size_t kCopy = 16;

constexpr std::size_t kStack = 128 * 1024;
constexpr int kGuard = 4096;
constexpr unsigned char kPoison = 0xff;  // floats of these bytes are NaN

enum class State { fresh, ready, at_barrier, in_warp, done };

// A barrier of the block or of a warp. Its points take turns: who comes to the next one may be ahead of who has yet to
// leave this one, and must not seem ordered before it.
struct Barrier {
  char points[2];
  int turn = 0;
};

struct Fiber : Thread {
  State state = State::fresh;
  void* identity = races::create();
  jmp_buf place;
  ucontext_t beginning;
  std::unique_ptr<char[]> stack{new char[kStack]};
  void* argument = nullptr;
};

unsigned seed = 0;
bool copies_are_late = true;
std::vector<Fiber> fibers;
jmp_buf scheduler;
void* host = nullptr;
char beginning_of_block, end_of_block;
int threads = 0, arrived = 0;
std::vector<int> arrived_of_warp;
Barrier of_block;
std::vector<Barrier> of_warp;
const std::function<void()>* kernel = nullptr;

Fiber& self() { return *static_cast<Fiber*>(current); }

void touch(const Copy& copy) {
  races::read(copy.from, kCopy);
  races::written(copy.to, kCopy);
}

void back_to_scheduler() {
  races::switch_to(host);
  _longjmp(scheduler, 1);
}

// Leaves the current fiber until the scheduler comes back to it.
void wait() {
  Fiber& fiber = self();
  if (_setjmp(fiber.place) == 0) back_to_scheduler();
}

void enter() {
  races::after(&beginning_of_block);
  (*kernel)();
  races::before(&end_of_block);
  self().state = State::done;
  back_to_scheduler();
}

void resume(Fiber& fiber) {
  current = &fiber;
  if (_setjmp(scheduler) != 0) return;
  races::switch_to(fiber.identity);
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
  of_warp.resize(arrived_of_warp.size());
  for (int i = 0; i < threads; i++) {
    fibers[i].index = i;
    fibers[i].state = State::fresh;
    fibers[i].copies.assign(1, {});
  }
  races::before(&beginning_of_block);
  for (bool progress = true; progress;) {
    progress = false;
    for (const int i : order)
      if (fibers[i].state == State::fresh || fibers[i].state == State::ready) {
        resume(fibers[i]);
        progress = true;
      }
  }
  races::after(&end_of_block);
  for (const Fiber& fiber : fibers)
    if (fiber.state != State::done) throw std::runtime_error("emulator: threads wait for each other at different places");
}

}  // namespace

void set_seed(unsigned value) { seed = value; }

void sync_block() {
  char* const point = &of_block.points[of_block.turn];
  races::before(point);
  self().state = State::at_barrier;
  if (++arrived == threads) {
    arrived = 0;
    of_block.turn ^= 1;
    for (Fiber& fiber : fibers) {
      if (fiber.state != State::at_barrier) throw std::runtime_error("emulator: a thread has left before a barrier");
      fiber.state = State::ready;
    }
  }
  wait();
  races::after(point);
}

void sync_warp() {
  Barrier& barrier = of_warp[self().index / kWarp];
  char* const point = &barrier.points[barrier.turn];
  races::before(point);
  meet(nullptr, [&](void* const*) { barrier.turn ^= 1; });
  races::after(point);
}

void start_copy(void* to, const void* from) {
  const std::uintptr_t places = reinterpret_cast<std::uintptr_t>(to) | reinterpret_cast<std::uintptr_t>(from);
  if (places % kCopy) throw std::runtime_error("emulator: cp.async of 16 bytes is not aligned");
  const Copy copy{to, from};
  touch(copy);
  if (!copies_are_late) std::memcpy(to, from, kCopy);
  self().copies.back().push_back(copy);
}
void commit_copies() { self().copies.emplace_back(); }
void wait_copies(int pending) {
  auto& groups = self().copies;  // the last one is open
  while (static_cast<int>(groups.size()) > pending + 1) {
    for (const Copy& copy : groups.front()) {
      touch(copy);
      if (copies_are_late) std::memcpy(copy.to, copy.from, kCopy);
    }
    groups.erase(groups.begin());
  }
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
  races::begin_ignoring();
  work(arguments);
  races::end_ignoring();
}

void run(const std::function<void()>& what, unsigned width, unsigned height, int count, int shared_bytes) {
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  kernel = &what;
  host = races::current();
  blocks_x = width;
  threads = count;
  fibers.resize(threads);
  copies_are_late = seed % 2 == 0;
  std::vector<int> order(threads);
  std::iota(order.begin(), order.end(), 0);
  std::mt19937 random(seed);
  std::vector<unsigned char> memory(shared_bytes + kGuard + 128);
  shared = reinterpret_cast<unsigned char*>((reinterpret_cast<std::uintptr_t>(memory.data()) + 127) / 128 * 128);
  for (unsigned y = 0; y < height; y++)
    for (unsigned x = 0; x < width; x++) {
      block_x = seed % 3 == 1 ? width - 1 - x : x;  // blocks may run in any order
      block_y = seed % 3 == 1 ? height - 1 - y : y;
      if (seed > 0) std::shuffle(order.begin(), order.end(), random);
      std::fill(memory.begin(), memory.end(), kPoison);
      run_block(order);
      for (int i = 0; i < kGuard; i++)
        if (shared[shared_bytes + i] != kPoison) throw std::runtime_error("emulator: written past shared memory");
    }
}

}  // namespace emulator
