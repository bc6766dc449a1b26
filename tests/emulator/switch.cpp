#include "switch.hpp"

// The compiler's own jumps where they serve, in functions that AddressSanitizer leaves alone: at every jump it knows of, it
// clears what it holds about the whole stack.
#if defined(__x86_64__) && !defined(__clang__)
#define SAVE(place) __builtin_setjmp(place)
#define GO_TO(place) __builtin_longjmp(place, 1)
#else
#define SAVE(place) _setjmp(place)
#define GO_TO(place) _longjmp(place, 1)
#endif

namespace emulator {

// Of one function, only one of the two may be part.
__attribute__((noinline, no_sanitize("address"))) static void go_to(Place& there) { GO_TO(there); }

__attribute__((no_sanitize("address"))) void switch_to(Place& there, Place& here) {
  if (SAVE(here) == 0) go_to(there);
}

__attribute__((no_sanitize("address"))) void start(const ucontext_t& there, Place& here) {
  if (SAVE(here) == 0) setcontext(&there);
}

}  // namespace emulator
