// The arrays of a custom call, and what every engine's file needs to speak of them.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "attributes.hpp"

namespace vgf::bindings {

namespace py = pybind11;

using In = ffi::Buffer<ffi::F32>;
using Out = ffi::ResultBuffer<ffi::F32>;
using Packed = ffi::Buffer<ffi::U8>;
using Steps = ffi::Buffer<ffi::S32>;  // one number

inline void check_bytes(const Packed& buffer, std::size_t expected) {
  if (buffer.element_count() != expected)
    throw std::invalid_argument("packed weights of another network, engine or version: expected " +
                                std::to_string(expected) + " bytes, got " + std::to_string(buffer.element_count()));
}

}  // namespace vgf::bindings
