// A call on its way to the device: described twice, first to learn what it needs, then to enqueue it.
#pragma once

#include <algorithm>
#include <cstdint>

#include "runtime.hpp"
#include "task.hpp"

namespace vgf::cuda {

// Hands out pieces of a workspace and enqueues kernels; without memory it only counts. Pieces are taken before the first
// program, whose scratch lies behind them; programs follow each other and share it.
class Launches {
 public:
  explicit Launches(const Workspace&);

  bool real() const { return workspace_.memory != nullptr; }
  const Machine& device() const { return machine_; }
  // Never null, though nobody may look there while it only counts: how a program runs depends on which pointers it has.
  template <class T>
  T* take(std::int64_t count) {
    constexpr std::uintptr_t kNowhere = 256;
    const std::uintptr_t memory = real() ? reinterpret_cast<std::uintptr_t>(workspace_.memory) : kNowhere;
    return reinterpret_cast<T*>(memory + carver_.take(count * static_cast<std::int64_t>(sizeof(T))));
  }
  std::size_t needed() const { return std::max<std::int64_t>(carver_.used() + scratch_, 256); }

  // whole_states: see fit (schedule.hpp).
  void program(Program, Precision, bool whole_states);
  template <class Parameter>
  void start(const char* name, Kernel<Parameter> kernel, std::int64_t blocks, int shared_bytes,
             const Parameter& parameter) const {
    if (real()) launch(name, kernel, {static_cast<unsigned>(blocks), 1, kThreads, shared_bytes}, parameter, workspace_.stream);
  }
  void clear(void* memory, std::int64_t bytes) const {
    if (real()) cuda::clear(memory, bytes, workspace_.stream);
  }
  void copy(float* to, const float* from, std::int64_t count) const {
    if (real()) cuda::copy(to, from, count * sizeof(float), workspace_.stream);
  }

 private:
  Workspace workspace_;
  Machine machine_;
  Carver carver_;
  std::int64_t scratch_ = 0;
};

// The program of a task as one launch: its states fit tiles, or its particles have nothing to do with each other.
Program program_of(const Task&);

// A task whose states are larger than a tile and whose particles look at each other: a few launches a step.
void describe_wide(const Task&, Launches&);

}  // namespace vgf::cuda
