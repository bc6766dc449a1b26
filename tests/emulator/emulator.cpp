#include "emulator.hpp"

#include <ucontext.h>

#include <algorithm>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>
#include <utility>

#include "races.hpp"
#include "switch.hpp"

namespace emulator {

Thread* current = nullptr;
unsigned block_y = 0, blocks_x = 0;
std::vector<Block> cluster;
bool products_are_late = true;
std::map<std::string, int> launches;
std::map<const void*, int> work;

namespace {

constexpr std::size_t kCopy = 16;

constexpr std::size_t kStack = 128 * 1024;
constexpr int kGuard = 4096, kAlignment = 1024;
constexpr unsigned char kPoison = 0xff;  // floats of these bytes are NaN

enum class State { fresh, ready, at_barrier, at_cluster, in_warp, waiting, done };

struct Fiber : Thread {
  int barrier = 0;  // where it is at_barrier
  std::function<bool()> may_go_on;  // while waiting
  Place place;
  std::unique_ptr<char[]> stack{new char[kStack]};
  void* argument = nullptr;
};

// An mbarrier: a phase ends when nothing is pending.
struct Phases {
  const Block* block = nullptr;
  int arrivals = 0, pending = 0, bytes = 0;
  unsigned ended = 0;  // phases
  char points[2];      // for races.hpp, of phases in turns
  const void* point() const { return &points[ended % 2]; }
  bool settle() {
    if (pending > 0 || bytes != 0) return false;
    ended++;
    pending = arrivals;
    return true;
  }
};
struct Bulk {
  void* to;
  const void* from;  // null: what is stored
  int bytes;
  void* barrier;
  std::array<unsigned char, kCopy> stored;
};

unsigned seed = 0;
bool copies_are_late = true;
std::vector<Fiber> fibers;
std::vector<State> states;  // of the fibers: close together, for all are looked through time and again
std::map<void*, Phases> barriers;
std::deque<Bulk> bulk_copies;  // late ones, under way
Place scheduler;
ucontext_t beginning;  // of a fiber
int threads = 0, met_cluster = 0;
Barrier at_cluster;
const std::function<void()>* kernel = nullptr;
std::exception_ptr failure;  // of a fiber

Fiber& self() { return *static_cast<Fiber*>(current); }
State& state(const Fiber& fiber) { return states[&fiber - fibers.data()]; }

void touch(const Copy& copy, const void* code) {
  races::read(copy.from, kCopy, code);
  races::written(copy.to, kCopy, code);
}

// Leaves the current fiber until the scheduler comes back to it.
void wait() {
  races::run_as(-1);
  switch_to(scheduler, self().place);
}

void enter() {
  try {
    (*kernel)();
  } catch (...) {
    failure = std::current_exception();
  }
  state(self()) = State::done;
  self().block->done++;
  wait();
}

void resume(Fiber& fiber) {
  current = &fiber;
  races::run_as(static_cast<int>(&fiber - fibers.data()));
  if (state(fiber) != State::fresh) return switch_to(fiber.place, scheduler);
  state(fiber) = State::ready;
  getcontext(&beginning);
  beginning.uc_stack.ss_sp = fiber.stack.get();
  beginning.uc_stack.ss_size = kStack;
  beginning.uc_link = nullptr;
  makecontext(&beginning, enter, 0);
  start(beginning, scheduler);
}

Phases& phases(void* barrier) {
  const auto found = barriers.find(barrier);
  if (found == barriers.end()) throw std::runtime_error("emulator: an mbarrier is used that was not initialised");
  if (found->second.block->done == threads) throw std::runtime_error("emulator: an mbarrier of a block that has ended");
  return found->second;
}

// Whether a phase ended with it.
bool finish(const Bulk& copy) {
  std::memcpy(copy.to, copy.from ? copy.from : copy.stored.data(), copy.bytes);
  Phases& p = phases(copy.barrier);
  p.bytes -= copy.bytes;
  return p.settle();
}

// Nobody can go on: copies under way come to their end, first or last by the seed, until somebody may.
bool finish_copies() {
  while (!bulk_copies.empty()) {
    const bool first = seed % 4 == 0;
    const Bulk copy = first ? bulk_copies.front() : bulk_copies.back();
    if (first)
      bulk_copies.pop_front();
    else
      bulk_copies.pop_back();
    if (finish(copy)) return true;
  }
  return false;
}

void run_cluster(const std::vector<int>& order) {
  met_cluster = 0;
  barriers.clear();
  bulk_copies.clear();
  for (Block& block : cluster) {
    block.done = 0;
    block.arrived.fill(0);
    block.met_warp.assign((threads + kWarp - 1) / kWarp, 0);
    block.of_warp.resize(block.met_warp.size());
    block.operands.assign((threads + kWarpgroup - 1) / kWarpgroup, {});
    for (int i = 0; i < threads; i++) {
      Fiber& fiber = fibers[block.rank * threads + i];
      fiber.index = i;
      fiber.block = &block;
      state(fiber) = State::fresh;
      fiber.copies.assign(1, {});
      fiber.products.assign(1, {});
      fiber.products_done = 0;
    }
  }
  for (bool progress = true; progress;) {
    progress = false;
    for (const int i : order) {
      if (states[i] == State::waiting && fibers[i].may_go_on()) states[i] = State::ready;
      if (states[i] != State::fresh && states[i] != State::ready) continue;
      resume(fibers[i]);
      if (failure) std::rethrow_exception(std::exchange(failure, nullptr));
      progress = true;
    }
    if (!progress) progress = finish_copies();
  }
  for (const State state : states)
    if (state != State::done) throw std::runtime_error("emulator: threads wait for each other at different places");
}

}  // namespace

void set_seed(unsigned value) { seed = value; }

void sync(int barrier, int count) {
  Fiber& fiber = self();
  Block* block = fiber.block;
  Barrier& there = block->barriers[barrier];
  char* const point = &there.points[there.turn];
  races::before(point);
  state(fiber) = State::at_barrier;
  fiber.barrier = barrier;
  if (++block->arrived[barrier] == count) {
    block->arrived[barrier] = 0;
    there.turn ^= 1;
    int released = 0;
    for (Fiber& other : fibers)
      if (other.block == block && state(other) == State::at_barrier && other.barrier == barrier) {
        state(other) = State::ready;
        released++;
      }
    if (released != count) throw std::runtime_error("emulator: a barrier is met by another number of threads");
  }
  wait();
  races::after(point);
}

void sync_cluster() {
  char* const point = &at_cluster.points[at_cluster.turn];
  races::before(point);
  state(self()) = State::at_cluster;
  if (++met_cluster == static_cast<int>(fibers.size())) {
    met_cluster = 0;
    at_cluster.turn ^= 1;
    for (Fiber& fiber : fibers) state(fiber) = State::ready;
  }
  wait();
  races::after(point);
}

void sync_warp() {
  Barrier& barrier = self().block->of_warp[self().index / kWarp];
  char* const point = &barrier.points[barrier.turn];
  races::before(point);
  meet(nullptr, [&](void* const*) { barrier.turn ^= 1; });
  races::after(point);
}

void start_copy(void* to, const void* from) {
  const std::uintptr_t places = reinterpret_cast<std::uintptr_t>(to) | reinterpret_cast<std::uintptr_t>(from);
  if (places % kCopy) throw std::runtime_error("emulator: cp.async of 16 bytes is not aligned");
  const Copy copy{to, from};
  touch(copy, __builtin_return_address(0));
  if (!copies_are_late) std::memcpy(to, from, kCopy);
  self().copies.back().push_back(copy);
}
void commit_copies() { self().copies.emplace_back(); }
void wait_copies(int pending) {
  auto& groups = self().copies;  // the last one is open
  while (static_cast<int>(groups.size()) > pending + 1) {
    for (const Copy& copy : groups.front()) {
      touch(copy, __builtin_return_address(0));
      if (copies_are_late) std::memcpy(copy.to, copy.from, kCopy);
    }
    groups.erase(groups.begin());
  }
}

void meet(void* argument, const std::function<void(void* const*)>& work) {
  Fiber& fiber = self();
  const int warp = fiber.index / kWarp;
  int& met = fiber.block->met_warp[warp];
  fiber.argument = argument;
  state(fiber) = State::in_warp;
  if (++met < kWarp) return wait();
  met = 0;
  void* arguments[kWarp];
  for (int lane = 0; lane < kWarp; lane++) {
    Fiber& other = fibers[fiber.block->rank * threads + warp * kWarp + lane];
    arguments[lane] = other.argument;
    state(other) = State::ready;
  }
  races::begin_ignoring();
  work(arguments);
  races::end_ignoring();
}

void pause() {
  state(self()) = State::ready;
  wait();
}

void begin_barrier(void* barrier, int arrivals) {
  Phases& p = barriers[barrier] = {};
  p.block = self().block;
  p.arrivals = p.pending = arrivals;
}

void expect_bytes(void* barrier, int bytes) { phases(barrier).bytes += bytes; }

void arrive(void* barrier, races::Scope scope) {
  Phases& p = phases(barrier);
  if (p.pending == 0) throw std::runtime_error("emulator: more arrivals at an mbarrier than a phase has");
  races::arrive(p.point(), p.block == self().block, scope);
  p.pending--;
  p.settle();
}

void wait_for(void* barrier, unsigned parity, races::Scope scope) {
  // the phase before the current one has the other parity
  const auto ended = [barrier, parity] { return phases(barrier).ended % 2 != parity; };
  while (!ended()) {
    self().may_go_on = ended;
    state(self()) = State::waiting;
    wait();
  }
  races::wait(&phases(barrier).points[parity], scope);
}

void copy_telling(void* to, const void* from, int bytes, void* barrier) {
  const Phases& p = phases(barrier);
  races::copied(to, from, bytes, {barrier, p.point(), p.ended}, __builtin_return_address(0));
  const Bulk copy{to, from, bytes, barrier, {}};
  if (copies_are_late)
    bulk_copies.push_back(copy);
  else
    finish(copy);
}

void store_telling(void* to, const void* what, int bytes, void* barrier) {
  if (reinterpret_cast<std::uintptr_t>(to) % bytes) throw std::runtime_error("emulator: st.async is not aligned");
  const Phases& p = phases(barrier);
  races::stored(to, bytes, {barrier, p.point(), p.ended}, __builtin_return_address(0));
  Bulk store{to, nullptr, bytes, barrier, {}};
  std::memcpy(store.stored.data(), what, bytes);
  if (copies_are_late)
    bulk_copies.push_back(store);
  else
    finish(store);
}

void run(const std::function<void()>& what, unsigned width, unsigned height, int count, int shared_bytes,
         int cluster_blocks) {
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  if (width % cluster_blocks != 0) throw std::runtime_error("emulator: a grid that is not made of whole clusters");
  kernel = &what;
  races::begin_launch();
  blocks_x = width;
  threads = count;
  fibers.resize(threads * cluster_blocks);
  states.resize(fibers.size());
  cluster.resize(cluster_blocks);
  copies_are_late = seed % 2 == 0;
  products_are_late = seed / 2 % 2 == 0;
  std::vector<int> order(fibers.size());
  std::iota(order.begin(), order.end(), 0);
  std::mt19937 random(seed);
  for (unsigned y = 0; y < height; y++)
    for (unsigned at = 0; at < width; at += cluster_blocks) {
      const bool backwards = seed % 3 == 1;  // blocks may run in any order
      const unsigned first = backwards ? width - cluster_blocks - at : at;
      block_y = backwards ? height - 1 - y : y;
      if (seed > 0) std::shuffle(order.begin(), order.end(), random);
      for (int rank = 0; rank < cluster_blocks; rank++) {
        Block& block = cluster[rank];
        block.x = first + rank;
        block.rank = rank;
        block.memory.assign(shared_bytes + kGuard + kAlignment, kPoison);
        const auto base = reinterpret_cast<std::uintptr_t>(block.memory.data());
        block.shared = reinterpret_cast<unsigned char*>((base + kAlignment - 1) / kAlignment * kAlignment);
      }
      std::vector<unsigned char*> memory;
      for (const Block& block : cluster) memory.push_back(block.shared);
      races::begin_cluster(static_cast<int>(fibers.size()), memory, shared_bytes);
      run_cluster(order);
      for (const Block& block : cluster)
        for (int i = 0; i < kGuard; i++)
          if (block.shared[shared_bytes + i] != kPoison) throw std::runtime_error("emulator: written past shared memory");
    }
}

}  // namespace emulator
