// python/bindings/xla/place.hpp on the emulator: a stream of its own, and memory of the host that begins as NaN.
#pragma once

#include <cstdlib>
#include <memory>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace vgf::bindings {

class Place {
 public:
  void* stream() const { return reinterpret_cast<void*>(1); }
  void* allocate(std::size_t bytes) {
    const std::size_t whole = (bytes + 255) / 256 * 256;
    memory_.emplace_back(std::aligned_alloc(256, whole), &std::free);
    std::memset(memory_.back().get(), 0xff, whole);
    return memory_.back().get();
  }

 private:
  std::vector<std::unique_ptr<void, void (*)(void*)>> memory_;
};

}  // namespace vgf::bindings

namespace xla::ffi {

template <>
struct CtxDecoding<vgf::bindings::Place> {
  using Type = vgf::bindings::Place;
  static std::optional<Type> Decode(const XLA_FFI_Api*, XLA_FFI_ExecutionContext*, DiagnosticEngine&) { return Type(); }
};

}  // namespace xla::ffi
