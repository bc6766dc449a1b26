// csrc/cuda/ptx/launch.hpp on the emulator.
#pragma once

#include "../emulator.hpp"
#include "vgf/cuda.hpp"

namespace vgf::cuda {

template <class Parameter>
using Kernel = void (*)(Parameter);

struct Grid {
  unsigned x, y;
  int threads, shared_bytes;
};

template <class Parameter>
void launch(const char*, Kernel<Parameter> kernel, Grid grid, const Parameter& parameter, Stream) {
  emulator::run([&] { kernel(parameter); }, grid.x, grid.y, grid.threads, grid.shared_bytes);
}

}  // namespace vgf::cuda
