// From one fiber to another. In a file of its own, so that callers know nothing of what it keeps of their registers.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

namespace emulator {

#ifdef __x86_64__
using Place = void* [5];
#else
using Place = jmp_buf;
#endif

// Goes on at `there`, where somebody has left; returns when somebody comes back to `here`.
void switch_to(Place& there, Place& here);
// The same with a fiber that has not begun yet.
void start(const ucontext_t& there, Place& here);

}  // namespace emulator
