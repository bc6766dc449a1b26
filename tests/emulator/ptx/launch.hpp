// csrc/cuda/ptx/launch.hpp on the emulator.
#pragma once

#include "../emulator.hpp"
#include "grid.hpp"

namespace vgf::cuda {

template <class Parameter>
void launch(const char* name, Kernel<Parameter> kernel, Grid grid, const Parameter& parameter, Stream stream) {
  emulator::launches[name]++;
  emulator::work[stream]++;
  emulator::run([&] { kernel(parameter); }, grid.x, grid.y, grid.threads, grid.shared_bytes, grid.cluster);
}

}  // namespace vgf::cuda
