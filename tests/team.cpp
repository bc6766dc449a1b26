// The threads of the CPU engine (csrc/cpu/team.hpp): who helps whom. Everything here waits for what it expects, at most
// ten seconds.
#include "cpu/team.hpp"

#include <sched.h>
#include <sys/resource.h>

#include <cfenv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <thread>

using namespace vgf::cpu;

namespace {

void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "not so: %s\n", what);
  std::exit(1);
}

template <class Done>
bool comes(Done done) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!done() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  return done();
}

// A team of two: it may take some calls, since one whose members kept each other waiting is not tried for a while.
template <class F>
void run_whole_team(const F& fn) {
  bool whole = false;
  for (int i = 0; i < 300 && !whole; i++)
    run_team(2, [&](const Member& member) {
      if (member.size < 2) return;
      if (member.rank == 0) whole = true;
      fn(member);
    });
  expect(whole, "a team is tried again before long");
}

// Two callers that share the only worker of two threads each.
void a_worker_joins_when_it_is_free() {
  std::atomic<int> first{0}, second{0};
  std::atomic<bool> second_began{false}, let_go{false};
  std::thread other([&] {
    share_work(2, [&] {
      first++;
      expect(comes([&] { return let_go.load(); }), "the first caller's work ends");
    });
  });
  expect(comes([&] { return first == 2; }), "a worker joins the first caller");
  std::thread releases([&] {
    expect(comes([&] { return second_began.load(); }), "the second caller begins without a worker");
    expect(second == 1, "the worker is with the first caller");
    let_go = true;
  });
  share_work(2, [&] {
    second++;
    second_began = true;
    expect(comes([&] { return second == 2; }), "the worker joins the second caller");
  });
  other.join();
  releases.join();
}

void a_team_does_not_wait_for_busy_workers() {
  std::atomic<int> inside{0};
  std::atomic<bool> let_go{false};
  std::thread other([&] {
    share_work(2, [&] {
      inside++;
      comes([&] { return let_go.load(); });
    });
  });
  expect(comes([&] { return inside == 2; }), "a worker joins");
  run_team(2, [&](const Member& member) { expect(member.size == 1, "a team without its worker is its caller alone"); });
  let_go = true;
  other.join();
}

void a_team_after_shared_work_is_whole() {
  for (int i = 0; i < 2000; i++) {
    std::atomic<int> done{0}, members{0};
    share_tasks(2, 50, [&](std::int64_t) { done++; });
    expect(done == 50, "every task is done when the call returns");
    run_whole_team([&](const Member& member) {
      members += member.size;
      member.sync();
    });
    expect(members == 4, "both members of a team that follows shared work are there");
  }
}

void the_first_exception_comes_back() {
  for (int i = 0; i < 200; i++) {
    bool thrown = false;
    try {
      share_tasks(3, 100, [](std::int64_t task) {
        if (task == 40) throw std::runtime_error("task 40");
      });
    } catch (const std::runtime_error&) {
      thrown = true;
    }
    expect(thrown, "an exception reaches the caller");
  }
}

void workers_compute_as_their_caller_does() {
  for (const int rounding : {FE_DOWNWARD, FE_TONEAREST, FE_UPWARD, FE_TONEAREST}) {
    std::atomic<int> alike{0};
    std::fesetround(rounding);
    run_whole_team([&](const Member&) { alike += std::fegetround() == rounding; });
    share_work(2, [&] {
      alike += std::fegetround() == rounding;
      expect(comes([&] { return alike == 4; }), "a worker rounds as its caller does");
    });
  }
}

void a_team_that_keeps_its_caller_waiting_is_not_tried_for_a_while() {
  bool alone = false;
  for (int i = 0; i < 300 && !alone; i++)
    run_team(2, [&](const Member& member) {
      if (member.size == 1) alone = true;
      if (member.rank == 1) std::this_thread::sleep_for(std::chrono::milliseconds(5));
      member.sync();
    });
  expect(alone, "its caller goes alone");
  run_whole_team([](const Member& member) { member.sync(); });
}

void a_worker_leaves_its_callers_cpu() {
  cpu_set_t all, one;
  sched_getaffinity(0, sizeof all, &all);
  if (CPU_COUNT(&all) < 2) return;
  const int cpu = sched_getcpu();
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  std::thread caller([&] {  // which stays where it is
    sched_setaffinity(0, sizeof one, &one);
    run_whole_team([&](const Member& member) {
      if (member.rank == 0) return;
      sched_setaffinity(0, sizeof one, &one);
      sched_setaffinity(0, sizeof all, &all);
    });
    run_whole_team([&](const Member& member) {
      if (member.rank == 1) expect(sched_getcpu() != cpu, "a worker is not where its caller is");
    });
  });
  caller.join();
}

// More threads than the address space has room for.
void work_is_done_without_the_threads_that_the_system_refuses() {
  rlimit before;
  getrlimit(RLIMIT_AS, &before);
  rlimit tight = before;
  tight.rlim_cur = 1;
  setrlimit(RLIMIT_AS, &tight);
  std::atomic<int> done{0}, members{0};
  share_tasks(64, 50, [&](std::int64_t) { done++; });
  constexpr int calls = 300;  // more than a caller goes alone for want of success
  for (int i = 0; i < calls; i++) run_team(64, [&](const Member& member) { members += member.size; });
  setrlimit(RLIMIT_AS, &before);
  expect(done == 50, "every task is done");
  expect(members == calls, "a team that cannot be whole is its caller alone");
}

}  // namespace

int main() {
  a_worker_joins_when_it_is_free();
  a_team_does_not_wait_for_busy_workers();
  a_team_after_shared_work_is_whole();
  the_first_exception_comes_back();
  workers_compute_as_their_caller_does();
  a_team_that_keeps_its_caller_waiting_is_not_tried_for_a_while();
  a_worker_leaves_its_callers_cpu();
  work_is_done_without_the_threads_that_the_system_refuses();
}
