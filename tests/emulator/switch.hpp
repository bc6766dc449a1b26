// From one fiber to another. In a file of its own, so that callers know nothing of what it keeps of their registers.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

namespace emulator {

#if defined(__x86_64__) && !defined(__clang__)  // whose own jumps keep too little
using Place = void* [5];
#else
using Place = jmp_buf;
#endif

// Goes on at `there`, where somebody has left; returns when somebody comes back to `here`.
void switch_to(Place& there, Place& here);
// The same with a fiber that has not begun yet.
void start(const ucontext_t& there, Place& here);

}  // namespace emulator
