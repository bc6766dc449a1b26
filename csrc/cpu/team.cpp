#include "team.hpp"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <cfenv>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <limits>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace vgf::cpu {
namespace {

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");  // waits for some tens of cycles, as `pause` does; `yield` does not wait at all on most cores
#endif
}

// Whether so many threads have to take turns.
bool crowded(int threads) {
  static const int cpus = [] {
#if defined(__linux__)
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) return CPU_COUNT(&allowed);
#endif
    const unsigned known = std::thread::hardware_concurrency();  // 0: it is not
    return known ? static_cast<int>(known) : std::numeric_limits<int>::max();
  }();
  return threads > cpus;
}

// The CPU of this thread; -1: not known.
int current_cpu() {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

// Where a worker runs. The system likes to wake a thread on the CPU of the one that wakes it, and moves it only after
// milliseconds, while both wait for each other.
class Home {
 public:
  // Off the caller's CPU, from now on, where this thread is on it and may be elsewhere.
  void leave(int cpu) {
#if defined(__linux__)
    cpu_set_t now;
    if (cpu < 0 || current_cpu() != cpu || sched_getaffinity(0, sizeof now, &now) != 0) return;
    if (!CPU_EQUAL(&now, &chosen_)) allowed_ = now;  // which is not from here
    chosen_ = allowed_;
    CPU_CLR(cpu, &chosen_);
    if (CPU_COUNT(&chosen_) > 0) sched_setaffinity(0, sizeof chosen_, &chosen_);
#else
    (void)cpu;
#endif
  }

 private:
#if defined(__linux__)
  cpu_set_t allowed_{}, chosen_{};
#endif
};

using Clock = std::chrono::steady_clock;

// Spins for some microseconds, unless there are more threads than CPUs, then gives the core away at every look: the other
// may be waiting for it. How long that took; a moment counts as nothing.
template <class Done>
Clock::duration spin_until(int threads, Done done) {
  const int spins = crowded(threads) ? 0 : 4096;
  const int moment = spins ? 64 : 0;  // what is given away may take a time slice
  Clock::time_point start;
  for (int i = 0; !done(); i++) {
    if (i == moment) start = Clock::now();
    if (i < spins)
      pause();
    else
      std::this_thread::yield();
  }
  return start == Clock::time_point{} ? Clock::duration{} : Clock::now() - start;
}

// Whether teams are worth while. Where something else wants the CPUs, members wait for each other for whole time slices, and
// their caller alone would be done sooner: then the next calls are its alone, and more of them every time that a team is not
// better.
class Trial {
 public:
  // Whether the next call should have a team.
  bool wants() {
    if (alone_ == 0) return true;
    alone_--;
    return false;
  }
  // Its caller's time, `waited` of it for the others. Alone it would have taken `threads` times what it worked.
  void learn(int threads, Clock::duration total, Clock::duration waited) {
    const bool failed = waited > kSlice && threads * (total - waited) < total;
    failures_ = failed ? std::min(failures_ + 1, kMostFailures) : 0;
    alone_ = failures_ > 1 ? 1 << failures_ : 0;  // one alone may be chance
  }

 private:
  static constexpr std::chrono::microseconds kSlice{200};  // shorter than any slice, longer than it takes to wake a thread
  static constexpr int kMostFailures = 7;
  int failures_ = 0, alone_ = 0;
};

class Pool {
 public:
  // False where workers are busy, or the system gives no more.
  bool try_run(int threads, const TeamWork& fn) {
    std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    if (!turn.owns_lock() || !trial_.wants()) return false;
    const Clock::time_point start = Clock::now();
    Barrier barrier(threads);
    Team team(&fn, &barrier);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (helping_ > 0) return false;
      if (!start_workers(threads - 1)) return false;
      team.running.store(threads - 1, std::memory_order_relaxed);
      team_ = &team;
      team_threads_ = threads;
      round_++;
      posted_.fetch_add(1, std::memory_order_relaxed);
    }
    wake_.notify_all();
    call({0, threads, &barrier}, team);
    const Clock::duration waited = barrier.first_waited() + finish(team, threads);
    trial_.learn(threads, Clock::now() - start, waited);
    return true;
  }

  void share(int threads, const TeamWork& fn) {
    Shared shared(&fn, threads - 1);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      start_workers(threads - 1);
      shared_.push_back(&shared);
      posted_.fetch_add(1, std::memory_order_relaxed);
    }
    wake_.notify_all();
    call({}, shared);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      shared_.erase(std::find(shared_.begin(), shared_.end(), &shared));
    }
    finish(shared, threads);
  }

 private:
  struct Work {
    const TeamWork* fn;
    std::fenv_t floats;  // the caller's: how it rounds and what denormal numbers are, for all who work for it
    std::atomic<int> running{0};  // on how many workers
    std::exception_ptr error;
    const int cpu = current_cpu();  // the caller's

    explicit Work(const TeamWork* f) : fn(f) { std::fegetenv(&floats); }
  };
  struct Team : Work {
    Barrier* barrier;

    Team(const TeamWork* f, Barrier* b) : Work(f), barrier(b) {}
  };
  struct Shared : Work {
    int places;  // for workers that may still join

    Shared(const TeamWork* f, int p) : Work(f), places(p) {}
  };

  // Whether there are as many now: the system may give no more threads.
  bool start_workers(int wanted) {
    try {
      for (; workers_ < wanted; workers_++) std::thread(&Pool::work, this, workers_ + 1, round_).detach();
    } catch (const std::system_error&) {
    }
    return workers_ >= wanted;
  }

  void call(const Member& member, Work& work) {
    try {
      (*work.fn)(member);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!work.error) work.error = std::current_exception();
    }
  }
  void help(const Member& member, Work& work, Home& home) {
    home.leave(work.cpu);
    std::fesetenv(&work.floats);
    call(member, work);
  }

  // How long the caller waited for the others.
  Clock::duration finish(Work& work, int threads) {
    const Clock::duration waited =
        spin_until(threads, [&] { return work.running.load(std::memory_order_acquire) == 0; });
    if (work.error) std::rethrow_exception(work.error);
    return waited;
  }

  Shared* joinable() {
    for (Shared* shared : shared_)
      if (shared->places > 0) return shared;
    return nullptr;
  }

  // Until something comes, for about as long as it takes to wake a thread that sleeps (20 to 100 microseconds).
  void linger(std::unique_lock<std::mutex>& lock) {
    if (crowded(workers_ + 1)) return;
    const std::uint64_t known = posted_.load(std::memory_order_relaxed);
    lock.unlock();
    for (int i = 0; i < 2000 && posted_.load(std::memory_order_relaxed) == known; i++) pause();
    lock.lock();
  }

  void work(int rank, std::uint64_t seen) {
    Home home;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      if (round_ == seen && !joinable()) linger(lock);
      wake_.wait(lock, [&] { return round_ != seen || joinable(); });
      const bool called = round_ != seen && rank < team_threads_;
      seen = round_;
      if (called) {
        Team* const team = team_;
        const Member member{rank, team_threads_, team->barrier};
        lock.unlock();
        help(member, *team, home);
        team->running.fetch_sub(1, std::memory_order_release);  // it may be gone now
        lock.lock();
      } else if (Shared* const shared = joinable()) {
        shared->places--;
        shared->running.fetch_add(1, std::memory_order_relaxed);
        helping_++;
        lock.unlock();
        help({}, *shared, home);
        lock.lock();
        helping_--;  // before its caller can go on, who may want a team
        shared->running.fetch_sub(1, std::memory_order_release);  // it may be gone now
      }
    }
  }

  std::mutex turn_, mutex_;
  Trial trial_;  // guarded by turn_
  std::condition_variable wake_;
  int workers_ = 0, helping_ = 0;
  std::uint64_t round_ = 0;
  std::atomic<std::uint64_t> posted_{0};  // rounds and shared work
  Team* team_ = nullptr;  // of the last round; gone when its members are done
  int team_threads_ = 0;
  std::vector<Shared*> shared_;
};

// Never destroyed: workers may outlive static destructors. In a forked child the parent's workers do not exist, so
// the child gets a pool of its own.
Pool* the_pool = nullptr;

Pool& pool() {
  static const bool once = [] {
    crowded(1);  // counts the CPUs of a caller, not those of a worker that has left one
    the_pool = new Pool;
    pthread_atfork(nullptr, nullptr, [] { the_pool = new Pool; });
    return true;
  }();
  (void)once;
  return *the_pool;
}

}  // namespace

void Barrier::wait(bool first) {
  const std::uint32_t generation = generation_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.store(generation + 1, std::memory_order_release);
    return;
  }
  const Clock::duration waited =
      spin_until(size_, [&] { return generation_.load(std::memory_order_acquire) != generation; });
  if (first) first_waited_ += waited;
}

void run_team_work(int threads, TeamWork fn) {
  if (threads > 1 && pool().try_run(threads, fn)) return;
  fn(Member{});
}

void share_work_of(int threads, TeamWork fn) {
  if (threads > 1) return pool().share(threads, fn);
  fn(Member{});
}

}  // namespace vgf::cpu
