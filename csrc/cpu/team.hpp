// Threads. `run_team` calls fn on several threads at once (SPMD); members meet at sync().
//
// One pool of parked workers serves the process. A second caller that finds it busy runs alone, so concurrent
// callers never oversubscribe. A forked child starts with a new, empty pool.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

namespace vgf::cpu {

class Barrier {
 public:
  explicit Barrier(int size) : size_(size) {}
  void wait();

 private:
  const int size_;
  std::atomic<int> arrived_{0};
  std::atomic<std::uint32_t> generation_{0};
};

struct Member {
  int rank = 0, size = 1;
  Barrier* barrier = nullptr;
  void sync() const {
    if (barrier) barrier->wait();
  }
  // Calls f(i) for this member's share of [0, count).
  template <class F>
  void share(std::int64_t count, F f) const {
    for (std::int64_t i = rank; i < count; i += size) f(i);
  }
};

// A function of a member, held by reference: a std::function of as many captures would allocate at every call.
struct TeamWork {
  const void* function;
  void (*call)(const void* function, const Member&);
  void operator()(const Member& member) const { call(function, member); }
};
void run_team_work(int threads, TeamWork);

// fn(member) on up to `threads` threads, the caller being rank 0. Returns when all are done; rethrows the first
// exception. A member that throws must do so before any other waits for it at a barrier.
template <class F>
void run_team(int threads, const F& fn) {
  run_team_work(threads, {&fn, [](const void* f, const Member& member) { (*static_cast<const F*>(f))(member); }});
}

// Grow-only scratch memory of the calling thread, aligned to 64 bytes. The previous pointer dies with the next call.
float* thread_scratch(std::size_t floats);

// Memory for one owner after the other, aligned to 64 bytes: new pages at every call would cost more than what is written
// there. To be let go by the thread that asked for it, which keeps it for the next.
std::shared_ptr<float> kept_memory(std::size_t bytes);

}  // namespace vgf::cpu
