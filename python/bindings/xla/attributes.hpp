// What a handler is told besides its operands: networks and settings, decoded from attributes of an XLA custom call.
#pragma once

#include <stdexcept>
#include <string>

#include "../names.hpp"
#include "xla/ffi/api/c_api.h"
#include "xla/ffi/api/ffi.h"

namespace vgf::bindings {

namespace ffi = xla::ffi;

// A network, and what it is used for: vgf_kernels.jax.attributes.PackedNetwork.
struct Network {
  ffi::Span<const std::int64_t> widths;
  std::int64_t ensemble;
  std::string_view activation, norm;
  double norm_eps;
  bool gradient;
  std::string_view precision;
  std::int64_t observations;  // of its inputs
  bool critic;                // else a policy
  bool in_place;              // not packed: its weights are the last operands

  MlpSpec spec() const {
    return mlp_spec({widths.begin(), widths.end()}, ensemble, activation, norm, norm_eps);
  }
};

// FlowConfig without num_steps.
struct Config {
  double learning_rate, alpha;
  std::string_view aggregate;
  bool kernel, median;
  double sigma;
  bool bandwidth_grad;
  std::string_view optimizer;
  Clip clip;

  FlowOptions options(int num_steps) const {
    return {num_steps, learning_rate,  alpha,           aggregate_of(aggregate), kernel, median,
            sigma,     bandwidth_grad, is_adam(optimizer), clip};
  }
};

}  // namespace vgf::bindings

XLA_FFI_REGISTER_STRUCT_ATTR_DECODING(vgf::bindings::Network, StructMember<Span<const std::int64_t>>("widths"),
                                      StructMember<std::int64_t>("ensemble"),
                                      StructMember<std::string_view>("activation"),
                                      StructMember<std::string_view>("norm"), StructMember<double>("norm_eps"),
                                      StructMember<bool>("gradient"), StructMember<std::string_view>("precision"),
                                      StructMember<std::int64_t>("observations"), StructMember<bool>("critic"),
                                      StructMember<bool>("in_place"));
XLA_FFI_REGISTER_STRUCT_ATTR_DECODING(vgf::Clip, StructMember<bool>("on"), StructMember<float>("low"),
                                      StructMember<float>("high"));
XLA_FFI_REGISTER_STRUCT_ATTR_DECODING(vgf::bindings::Config, StructMember<double>("learning_rate"),
                                      StructMember<double>("alpha"), StructMember<std::string_view>("aggregate"),
                                      StructMember<bool>("kernel"), StructMember<bool>("median"),
                                      StructMember<double>("sigma"), StructMember<bool>("bandwidth_grad"),
                                      StructMember<std::string_view>("optimizer"), StructMember<vgf::Clip>("clip"));
