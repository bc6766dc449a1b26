// Where XLA runs a call on a GPU: its stream, and memory for the time of the call. The memory goes back when the handler
// returns, before the work is done; XLA hands it only to work that the stream does later.
#pragma once

#include <stdexcept>
#include <string>

#include "xla/ffi/api/ffi.h"

namespace vgf::bindings {

class Place {
 public:
  Place(void* stream, xla::ffi::ScratchAllocator scratch) : stream_(stream), scratch_(std::move(scratch)) {}

  void* stream() const { return stream_; }

  // XLA promises no alignment.
  void* allocate(std::size_t bytes) {
    constexpr std::uintptr_t alignment = 256;
    const std::optional<void*> memory = scratch_.Allocate(bytes + alignment - 1);
    if (!memory || !*memory)
      throw std::runtime_error("XLA has no " + std::to_string(bytes) + " bytes of device memory left for a workspace");
    const auto address = reinterpret_cast<std::uintptr_t>(*memory);
    return reinterpret_cast<void*>((address + alignment - 1) / alignment * alignment);
  }

 private:
  void* stream_;
  xla::ffi::ScratchAllocator scratch_;
};

}  // namespace vgf::bindings

namespace xla::ffi {

template <>
struct CtxDecoding<vgf::bindings::Place> {
  using Type = vgf::bindings::Place;

  static std::optional<Type> Decode(const XLA_FFI_Api* api, XLA_FFI_ExecutionContext* context,
                                    DiagnosticEngine& diagnostic) {
    const auto stream = CtxDecoding<PlatformStream<void*>>::Decode(api, context, diagnostic);
    auto scratch = CtxDecoding<ScratchAllocator>::Decode(api, context, diagnostic);
    if (!stream || !scratch) return std::nullopt;
    return Type(*stream, std::move(*scratch));
  }
};

}  // namespace xla::ffi
