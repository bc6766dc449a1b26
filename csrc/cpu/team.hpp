// Threads. `share_work` is for tasks that nobody waits for: the caller begins, and workers join as they get free.
// `run_team` calls fn on several threads at once (SPMD); members meet at sync().
//
// One pool of parked workers serves the process, which concurrent callers share: it never grows with their number. A
// team that finds workers busy, or too few because the system starts no more threads, or that was slower than its caller
// alone the last times, is its caller alone. Workers round, and take denormal numbers, as their caller does. A forked child
// starts with a new, empty pool.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace vgf::cpu {

class Barrier {
 public:
  explicit Barrier(int size) : size_(size) {}
  // first: by rank 0.
  void wait(bool first);
  // How long that has waited here.
  std::chrono::steady_clock::duration first_waited() const { return first_waited_; }

 private:
  const int size_;
  std::chrono::steady_clock::duration first_waited_{};
  std::atomic<int> arrived_{0};
  std::atomic<std::uint32_t> generation_{0};
};

struct Member {
  int rank = 0, size = 1;
  Barrier* barrier = nullptr;
  void sync() const {
    if (barrier) barrier->wait(rank == 0);
  }
  // Where a member's share of [0, count) begins, if shares lie one behind the other. The caller's, rank 0, is never the smaller:
  // by what it works is judged what a team is worth.
  std::int64_t begin_of(std::int64_t count, int of_rank) const { return (count * of_rank + size - 1) / size; }
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

void share_work_of(int threads, TeamWork);

// fn() on the calling thread and on up to `threads` - 1 workers, of which any may come late or not at all. Returns when
// all have; rethrows the first exception.
template <class F>
void share_work(int threads, const F& fn) {
  share_work_of(threads, {&fn, [](const void* f, const Member&) { (*static_cast<const F*>(f))(); }});
}
// f(i) for all i in [0, count), each on whichever thread is free.
template <class F>
void share_tasks(int threads, std::int64_t count, const F& f) {
  std::atomic<std::int64_t> next{0};
  share_work(threads, [&] {
    for (std::int64_t i; (i = next.fetch_add(1)) < count;) f(i);
  });
}

}  // namespace vgf::cpu
