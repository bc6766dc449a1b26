// NVTX ranges of the engine's phases, in domain "vgf" with the number of rows as payload. Nothing where the headers
// were not found at build time; some nanoseconds where no tool is attached.
#pragma once

#include <cstdint>

#if VGF_NVTX
#include <nvtx3/nvtx3.hpp>
#endif

namespace vgf::cpu {

#if VGF_NVTX
struct Domain {
  static constexpr char const* name{"vgf"};
};
class Range {
 public:
  Range(const char* phase, std::int64_t rows) : range_(nvtx3::event_attributes{phase, nvtx3::payload{rows}}) {}

 private:
  nvtx3::scoped_range_in<Domain> range_;
};
#else
class Range {
 public:
  Range(const char*, std::int64_t) {}
};
#endif

}  // namespace vgf::cpu
