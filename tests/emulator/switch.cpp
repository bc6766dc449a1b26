#include "switch.hpp"

// The compiler's own jumps where all compilers have them, in functions that AddressSanitizer leaves alone: at every jump it
// knows of, it clears what it holds about the whole stack.
#ifdef __x86_64__
#define SAVE(place) __builtin_setjmp(place)
#define GO_TO(place) __builtin_longjmp(place, 1)
#else
#define SAVE(place) _setjmp(place)
#define GO_TO(place) _longjmp(place, 1)
#endif

namespace emulator {

// Of one function, only one of the two may be part.
[[gnu::noinline, gnu::no_sanitize("address")]] static void go_to(Place& there) { GO_TO(there); }

[[gnu::no_sanitize("address")]] void switch_to(Place& there, Place& here) {
  if (SAVE(here) == 0) go_to(there);
}

[[gnu::no_sanitize("address")]] void start(const ucontext_t& there, Place& here) {
  if (SAVE(here) == 0) setcontext(&there);
}

}  // namespace emulator
