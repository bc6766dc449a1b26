// How a kernel is started.
#pragma once

#include "grid.hpp"

namespace vgf::cuda {

// name: for errors. parameter: the address of what the kernel takes by value.
void launch(const char* name, const void* kernel, Grid, const void* parameter, Stream);

template <class Parameter>
void launch(const char* name, Kernel<Parameter> kernel, Grid grid, const Parameter& parameter, Stream stream) {
  launch(name, reinterpret_cast<const void*>(kernel), grid, static_cast<const void*>(&parameter), stream);
}

}  // namespace vgf::cuda
