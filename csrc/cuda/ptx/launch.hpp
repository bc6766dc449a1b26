// How a kernel is started.
#pragma once

#include "vgf/cuda.hpp"

namespace vgf::cuda {

template <class Parameter>
using Kernel = void (*)(Parameter);

struct Grid {
  unsigned x, y;
  int threads, shared_bytes;
};

// name: for errors. parameter: the address of what the kernel takes by value.
void launch(const char* name, const void* kernel, Grid, const void* parameter, Stream);

template <class Parameter>
void launch(const char* name, Kernel<Parameter> kernel, Grid grid, const Parameter& parameter, Stream stream) {
  launch(name, reinterpret_cast<const void*>(kernel), grid, static_cast<const void*>(&parameter), stream);
}

}  // namespace vgf::cuda
