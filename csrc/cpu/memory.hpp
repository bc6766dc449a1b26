// Memory, aligned to cache lines, that is not asked of the system at every call: new pages would cost more than what is
// written there.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>

namespace vgf::cpu {

struct Free {
  void operator()(float* p) const { std::free(p); }
};
using Memory = std::unique_ptr<float, Free>;

Memory allocate(std::size_t bytes);

// Grow-only scratch memory of the calling thread. The previous pointer dies with the next call.
float* thread_scratch(std::size_t floats);

// For one owner after the other. To be let go by the thread that asked for it, which keeps it for the next.
std::shared_ptr<float> kept_memory(std::size_t bytes);

}  // namespace vgf::cpu
