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

// Weights that are operands of a call, network after network.
class Weights {
 public:
  explicit Weights(ffi::RemainingArgs arrays) : arrays_(arrays) {}

  // Those of the network that is next, member after member. The operands: for every layer W [E, in, out], b [E, out] and,
  // where a norm follows, scale and bias [E, out].
  std::vector<LayerWeights> of(const MlpSpec& spec) {
    std::vector<LayerWeights> layers(static_cast<std::size_t>(spec.ensemble) * spec.layers());
    for (int l = 0; l < spec.layers(); l++) {
      const std::ptrdiff_t in = spec.widths[l], width = spec.widths[l + 1];
      const bool norm = spec.norm != Norm::none && l + 1 < spec.layers();
      const std::size_t vectors = static_cast<std::size_t>(spec.ensemble) * width;
      const float *W = array(vectors * in), *b = array(vectors);
      const float *scale = norm ? array(vectors) : nullptr, *bias = norm ? array(vectors) : nullptr;
      for (int e = 0; e < spec.ensemble; e++)
        layers[static_cast<std::size_t>(e) * spec.layers() + l] = {
            W + e * in * width, width, 1, b + e * width, norm ? scale + e * width : nullptr,
            norm ? bias + e * width : nullptr};
    }
    return layers;
  }

 private:
  const float* array(std::size_t expected) {
    const auto buffer = arrays_.get<In>(next_++);
    if (!buffer) throw std::invalid_argument(buffer.error().message());
    if (buffer->element_count() != expected)
      throw std::invalid_argument("weights: expected " + std::to_string(expected) + " numbers of a layer, got " +
                                  std::to_string(buffer->element_count()));
    return buffer->typed_data();
  }

  ffi::RemainingArgs arrays_;
  std::size_t next_ = 0;
};

inline void check_bytes(const Packed& buffer, std::size_t expected) {
  if (buffer.element_count() != expected)
    throw std::invalid_argument("packed weights of another network, engine or version: expected " +
                                std::to_string(expected) + " bytes, got " + std::to_string(buffer.element_count()));
}

}  // namespace vgf::bindings
