#include "team.hpp"

#include <pthread.h>

#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

namespace vgf::cpu {
namespace {

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Spins for some microseconds, then gives the core away at every look: the other may be waiting for it.
template <class Done>
void spin_until(Done done) {
  for (int i = 0; !done(); i++) {
    if (i < 4096)
      pause();
    else
      std::this_thread::yield();
  }
}

class Pool {
 public:
  // False where another caller has the pool.
  bool try_run(int threads, const TeamWork& fn) {
    std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    if (!turn.owns_lock()) return false;
    while (static_cast<int>(workers_) < threads - 1) start_worker();
    Barrier barrier(threads);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = {&fn, &barrier, threads};
      error_ = nullptr;
      running_.store(threads - 1, std::memory_order_relaxed);
      round_++;
    }
    wake_.notify_all();
    call({0, threads, &barrier}, fn);
    spin_until([&] { return running_.load(std::memory_order_acquire) == 0; });
    if (error_) std::rethrow_exception(error_);
    return true;
  }

 private:
  struct Job {
    const TeamWork* fn;
    Barrier* barrier;
    int threads;
  };

  void start_worker() {
    std::thread(&Pool::work, this, ++workers_, round_).detach();
  }

  void call(const Member& member, const TeamWork& fn) {
    try {
      fn(member);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }

  void work(int rank, std::uint64_t seen) {
    for (;;) {
      Job job;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return round_ != seen; });
        seen = round_;
        job = job_;
      }
      if (rank >= job.threads) continue;
      call({rank, job.threads, job.barrier}, *job.fn);
      running_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::mutex turn_, mutex_;
  std::condition_variable wake_;
  int workers_ = 0;
  std::uint64_t round_ = 0;
  Job job_{};
  std::exception_ptr error_;
  std::atomic<int> running_{0};
};

// Never destroyed: workers may outlive static destructors. In a forked child the parent's workers do not exist, so
// the child gets a pool of its own.
Pool* the_pool = nullptr;

Pool& pool() {
  static const bool once = [] {
    the_pool = new Pool;
    pthread_atfork(nullptr, nullptr, [] { the_pool = new Pool; });
    return true;
  }();
  (void)once;
  return *the_pool;
}

struct Free {
  void operator()(float* p) const { std::free(p); }
};
using Memory = std::unique_ptr<float, Free>;

Memory allocate(std::size_t bytes) {
  Memory memory(static_cast<float*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64)));
  if (!memory) throw std::bad_alloc();
  return memory;
}

}  // namespace

void Barrier::wait() {
  const std::uint32_t generation = generation_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.store(generation + 1, std::memory_order_release);
    return;
  }
  spin_until([&] { return generation_.load(std::memory_order_acquire) != generation; });
}

void run_team_work(int threads, TeamWork fn) {
  if (threads > 1 && pool().try_run(threads, fn)) return;
  fn(Member{});
}

float* thread_scratch(std::size_t floats) {
  thread_local Memory memory;
  thread_local std::size_t capacity = 0;
  if (floats > capacity) {
    memory.reset();
    capacity = 0;
    memory = allocate(floats * sizeof(float));
    capacity = floats;
  }
  return memory.get();
}

std::shared_ptr<float> kept_memory(std::size_t bytes) {
  thread_local std::multimap<std::size_t, Memory> kept;  // what nobody uses, by size
  auto found = kept.lower_bound(bytes);
  if (found == kept.end()) {
    kept.clear();  // too small for what this thread does now
    found = kept.emplace(bytes, allocate(bytes));
  }
  const auto used = std::make_shared<decltype(kept)::node_type>(kept.extract(found));
  return {used->mapped().get(), [used](float*) { kept.insert(std::move(*used)); }};
}

}  // namespace vgf::cpu
