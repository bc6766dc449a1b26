// Which two accesses of a cluster nothing orders. The compiler's -fsanitize=thread reports every load and store, races.cpp
// takes it from there, in the place of ThreadSanitizer's own run time, which knows neither of the asynchronous proxy nor of
// what an mbarrier hands on. Nothing without EMULATOR_FIND_RACES, which goes with -fsanitize=thread for all but the emulator's
// own sources.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace emulator::races {

// How an arrival hands on what its thread has done, and how a wait takes it over. PTX ISA, "Memory Consistency Model": scopes.
enum class Scope { block, cluster };
enum class Space { shared, global };
// Where something completes: a phase of an mbarrier, and what stands for it.
struct Completion {
  const void *barrier, *point;
  unsigned phase;
};

#ifdef EMULATOR_FIND_RACES

constexpr bool kFind = true;

using Times = std::shared_ptr<const std::vector<std::uint32_t>>;  // of every agent, up to when it is known

// What a thread knew when it began what goes on without it.
struct View {
  int agent = 0;
  std::uint32_t shown = 0, code = 0;
  Times written, written_and_shown;
  // But for what either has done itself, which the other knows least of.
  bool operator==(const View& other) const {
    return written == other.written && written_and_shown == other.written_and_shown;
  }
};

void begin_launch();
// Threads are numbered through the cluster. `memory`: the blocks' shared memory, of so many bytes each.
void begin_cluster(int threads, const std::vector<unsigned char*>& memory, std::size_t bytes);
void run_as(int thread);  // from here on; -1: the emulator
// Memory of the device, until it is freed.
void watch(const void* begin, std::size_t bytes);
void forget(const void* begin);

// What comes before `before(point)` in one thread comes before what is after `after(point)` in another.
void before(const void* point);
void after(const void* point);
// The same of an mbarrier, `point` being that of the phase.
void arrive(const void* point, bool own_block, Scope);
void wait(const void* point, Scope);

// Accesses of the current thread; of the asynchronous proxy, those that complete in a phase of an mbarrier.
void read(const void* from, std::size_t bytes, const void* code = __builtin_return_address(0));
void written(void* to, std::size_t bytes, const void* code = __builtin_return_address(0));
void copied(void* to, const void* from, std::size_t bytes, const Completion&, const void* code);
void stored(void* to, std::size_t bytes, const Completion&, const void* code);
// fence.proxy.async
void show(Space);

// What a warp's product reads, from when its lanes issued it until one of them has waited for it.
View view();
std::uint32_t begin_product();
void read_by_product(const void* from, std::size_t bytes, std::uint32_t product, const View& lane);
void end_product(std::uint32_t product);

// What the emulator itself does on behalf of other threads.
void begin_ignoring();
void end_ignoring();

#else

constexpr bool kFind = false;

struct View {
  bool operator==(const View&) const { return true; }
};
inline void begin_launch() {}
inline void begin_cluster(int, const std::vector<unsigned char*>&, std::size_t) {}
inline void run_as(int) {}
inline void watch(const void*, std::size_t) {}
inline void forget(const void*) {}
inline void before(const void*) {}
inline void after(const void*) {}
inline void arrive(const void*, bool, Scope) {}
inline void wait(const void*, Scope) {}
inline void read(const void*, std::size_t, const void* = nullptr) {}
inline void written(void*, std::size_t, const void* = nullptr) {}
inline void copied(void*, const void*, std::size_t, const Completion&, const void*) {}
inline void stored(void*, std::size_t, const Completion&, const void*) {}
inline void show(Space) {}
inline View view() { return {}; }
inline std::uint32_t begin_product() { return 0; }
inline void read_by_product(const void*, std::size_t, std::uint32_t, const View&) {}
inline void end_product(std::uint32_t) {}
inline void begin_ignoring() {}
inline void end_ignoring() {}

#endif

}  // namespace emulator::races
