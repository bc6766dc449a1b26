// What a launch is: a kernel of one parameter, and the shape of its grid.
#pragma once

#include "vgf/cuda.hpp"

namespace vgf::cuda {

template <class Parameter>
using Kernel = void (*)(Parameter);

struct Grid {
  unsigned x, y;
  int threads, shared_bytes;
  int cluster = 1;  // blocks along x that form one
};

}  // namespace vgf::cuda
