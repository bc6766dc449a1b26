// What a test sets and asks from Python, by ctypes: the order of threads, the device, the launches.
#include "../../csrc/cuda/schedule.hpp"
#include "../../csrc/cuda/sm90_layout.hpp"
#include "emulator.hpp"

namespace vgf::cuda {
extern Machine emulated;
}

extern "C" __attribute__((visibility("default"))) void emulator_set_seed(unsigned seed) { emulator::set_seed(seed); }

extern "C" __attribute__((visibility("default"))) void emulator_set_machine(int multiprocessors, int shared_bytes,
                                                                            bool hopper) {
  vgf::cuda::emulated = {multiprocessors, shared_bytes, hopper, multiprocessors / vgf::cuda::kCluster};
}

// How many launches of a kernel there have been.
extern "C" __attribute__((visibility("default"))) int emulator_launches_of(const char* name) {
  return emulator::launches[name];
}

// How many launches, clears and copies a stream has been given.
extern "C" __attribute__((visibility("default"))) int emulator_work_on(const void* stream) { return emulator::work[stream]; }
