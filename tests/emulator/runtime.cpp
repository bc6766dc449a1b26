// csrc/cuda/runtime.cpp on the emulator: one device, whose size a test may choose.
#include "../../csrc/cuda/runtime.hpp"

#include "emulator.hpp"

namespace vgf::cuda {

Machine emulated{2, 99 * 1024, false, 0};

std::vector<Device> devices() { return {{"emulator", 8, 0}}; }
int driver_version() { return 13000; }
Machine machine() { return emulated; }
void clear(void* memory, std::size_t bytes, Stream stream) {
  emulator::work[stream]++;
  std::memset(memory, 0, bytes);
}
void copy(void* to, const void* from, std::size_t bytes, Stream stream) {
  emulator::work[stream]++;
  std::memcpy(to, from, bytes);
}

}  // namespace vgf::cuda
