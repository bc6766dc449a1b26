// What ThreadSanitizer is told, so that it takes every emulated thread for a thread and knows only of the order that the
// device keeps: barriers of the warp, of the block and of the cluster, and mbarriers. Shuffles, votes and matrix operations
// order no memory; a copy is at work from its start until it is waited for. Clusters follow each other. Nothing without
// EMULATOR_FIND_RACES, which goes with -fsanitize=thread for all but emulator.cpp.
#pragma once

#include <cstddef>

#ifdef EMULATOR_FIND_RACES
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned);
void __tsan_switch_to_fiber(void*, unsigned);
void __tsan_acquire(void*);
void __tsan_release(void*);
void __tsan_read_range(void*, unsigned long);
void __tsan_write_range(void*, unsigned long);
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}

namespace emulator::races {
inline void* current() { return __tsan_get_current_fiber(); }
inline void* create() { return __tsan_create_fiber(0); }
inline void switch_to(void* thread) { __tsan_switch_to_fiber(thread, 1); }  // 1: which orders nothing
// What comes before `before(point)` in one thread comes before what is after `after(point)` in another.
inline void before(void* point) { __tsan_release(point); }
inline void after(void* point) { __tsan_acquire(point); }
inline void read(const void* from, std::size_t bytes) { __tsan_read_range(const_cast<void*>(from), bytes); }
inline void written(void* to, std::size_t bytes) { __tsan_write_range(to, bytes); }
// What the emulator itself does on behalf of other threads.
inline void begin_ignoring() {
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
}
inline void end_ignoring() {
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
}
}  // namespace emulator::races
#else
namespace emulator::races {
inline void* current() { return nullptr; }
inline void* create() { return nullptr; }
inline void switch_to(void*) {}
inline void before(void*) {}
inline void after(void*) {}
inline void read(const void*, std::size_t) {}
inline void written(void*, std::size_t) {}
inline void begin_ignoring() {}
inline void end_ignoring() {}
}  // namespace emulator::races
#endif
