// The seam between XLA and the CPU engine: typed FFI handlers over the engine's entry points, and the capsules that
// vgf_kernels.jax registers. Header-only: nothing of jaxlib is linked. The frontend has checked shapes and settings.
//
// Operands common to most handlers: packed networks (uint8, as vgf_pack fills them), obs [B, O], particles [B, N, A]
// and step counts, which are operands so that another count compiles nothing anew. Attributes: the networks'
// descriptions, the settings, and `threads`, the largest number of threads to use.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>

#include "names.hpp"
#include "vgf/cpu.hpp"
#include "xla/ffi/api/c_api.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
namespace py = pybind11;
using namespace vgf;

using In = ffi::Buffer<ffi::F32>;
using Out = ffi::ResultBuffer<ffi::F32>;
using Packed = ffi::Buffer<ffi::U8>;
using Steps = ffi::Buffer<ffi::S32>;  // one number

// A packed network: what vgf_kernels.jax.networks.Description holds.
struct Network {
  ffi::Span<const std::int64_t> widths;
  std::int64_t ensemble;
  std::string_view activation, norm;
  double norm_eps;
  bool gradient;
  std::string_view precision;

  MlpSpec spec() const {
    MlpSpec spec;
    spec.widths.assign(widths.begin(), widths.end());
    spec.ensemble = static_cast<int>(ensemble);
    spec.activation = activation_of(activation);
    spec.norm = norm_of(norm);
    spec.norm_eps = static_cast<float>(norm_eps);
    return spec;
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

}  // namespace

XLA_FFI_REGISTER_STRUCT_ATTR_DECODING(Network, StructMember<Span<const std::int64_t>>("widths"),
                                      StructMember<std::int64_t>("ensemble"),
                                      StructMember<std::string_view>("activation"),
                                      StructMember<std::string_view>("norm"), StructMember<double>("norm_eps"),
                                      StructMember<bool>("gradient"), StructMember<std::string_view>("precision"));
XLA_FFI_REGISTER_STRUCT_ATTR_DECODING(vgf::Clip, StructMember<bool>("on"), StructMember<float>("low"),
                                      StructMember<float>("high"));
XLA_FFI_REGISTER_STRUCT_ATTR_DECODING(Config, StructMember<double>("learning_rate"), StructMember<double>("alpha"),
                                      StructMember<std::string_view>("aggregate"), StructMember<bool>("kernel"),
                                      StructMember<bool>("median"), StructMember<double>("sigma"),
                                      StructMember<bool>("bandwidth_grad"),
                                      StructMember<std::string_view>("optimizer"), StructMember<vgf::Clip>("clip"));

namespace {

// An exception must not pass through XLA's C interface.
template <class Run>
ffi::Error guarded(Run run) {
  try {
    run();
    return ffi::Error::Success();
  } catch (const std::exception& error) {
    return ffi::Error::InvalidArgument(std::string("vgf_kernels: ") + error.what());
  }
}

int steps(const Steps& buffer, int least) {
  const int count = *buffer.typed_data();
  if (count < least)
    throw std::invalid_argument("expected at least " + std::to_string(least) + " steps, got " + std::to_string(count));
  return count;
}

std::shared_ptr<const cpu::PackedMlp> packed(const Packed& buffer, const Network& network) {
  const MlpSpec spec = network.spec();
  const Precision precision = precision_of(network.precision);
  if (buffer.element_count() != cpu::packed_bytes(spec, network.gradient, precision))
    throw std::invalid_argument("packed weights of another network or version");
  return cpu::packed_at(reinterpret_cast<const float*>(buffer.typed_data()), spec, network.gradient, precision);
}

Sizes sizes(const In& obs, const In& particles) {
  const auto p = particles.dimensions();
  return {p[0], p[1], static_cast<int>(obs.dimensions()[1]), static_cast<int>(p[2])};
}

// weights: for every layer W [E, in, out], b [E, out] and, where a norm follows, scale and bias [E, out]
ffi::Error pack(ffi::RemainingArgs weights, ffi::ResultBuffer<ffi::U8> out, Network network, std::int64_t threads) {
  return guarded([&] {
    const MlpSpec spec = network.spec();
    std::size_t next = 0;
    const auto array = [&] {
      const auto buffer = weights.get<In>(next++);
      if (!buffer) throw std::invalid_argument(buffer.error().message());
      return buffer->typed_data();
    };
    std::vector<LayerWeights> layers(static_cast<std::size_t>(spec.ensemble) * spec.layers());
    for (int l = 0; l < spec.layers(); l++) {
      const std::ptrdiff_t in = spec.widths[l], width = spec.widths[l + 1];
      const bool norm = spec.norm != Norm::none && l + 1 < spec.layers();
      const float *W = array(), *b = array(), *scale = norm ? array() : nullptr, *bias = norm ? array() : nullptr;
      for (int e = 0; e < spec.ensemble; e++)
        layers[static_cast<std::size_t>(e) * spec.layers() + l] = {
            W + e * in * width, width, 1, b + e * width, norm ? scale + e * width : nullptr,
            norm ? bias + e * width : nullptr};
    }
    cpu::pack_into(reinterpret_cast<float*>(out->typed_data()), spec, layers, network.gradient,
                   precision_of(network.precision), static_cast<int>(threads));
  });
}

ffi::Error value(Packed weights, In obs, In actions, Out q, Network critic, std::int64_t threads) {
  return guarded([&] {
    cpu::value(*packed(weights, critic), obs.typed_data(), actions.typed_data(), q->typed_data(), sizes(obs, actions),
               static_cast<int>(threads));
  });
}

ffi::Error value_and_grad(Packed weights, In obs, In actions, Out q, Out dq, Network critic,
                          std::string_view aggregate, std::int64_t threads) {
  return guarded([&] {
    cpu::value_and_grad(*packed(weights, critic), obs.typed_data(), actions.typed_data(), q->typed_data(),
                        dq->typed_data(), sizes(obs, actions), aggregate_of(aggregate), static_cast<int>(threads));
  });
}

// q [E, B, N] and the gradient of every critic, [E, B, N, A]
ffi::Error jacobian(Packed weights, In obs, In actions, Out q, Out dq, Network critic, std::int64_t threads) {
  return guarded([&] {
    packed(weights, critic);  // checks
    const Sizes s = sizes(obs, actions);
    MlpSpec member = critic.spec();
    const std::size_t part = weights.element_count() / sizeof(float) / member.ensemble;
    const auto* at = reinterpret_cast<const float*>(weights.typed_data());
    member.ensemble = 1;
    for (std::int64_t e = 0; e < critic.ensemble; e++) {
      const auto one = cpu::packed_at(at + e * part, member, critic.gradient, precision_of(critic.precision));
      cpu::value_and_grad(*one, obs.typed_data(), actions.typed_data(), q->typed_data() + e * s.B * s.N,
                          dq->typed_data() + e * s.B * s.N * s.A, s, Aggregate::mean, static_cast<int>(threads));
    }
  });
}

ffi::Error direction(Packed weights, In obs, In particles, Out phi, Network critic, Config config,
                     std::int64_t threads) {
  return guarded([&] {
    cpu::direction(*packed(weights, critic), obs.typed_data(), particles.typed_data(), phi->typed_data(),
                   sizes(obs, particles), config.options(1), static_cast<int>(threads));
  });
}

// out [B, N, A], or [num_steps + 1, B, N, A] with trajectory
ffi::Error flow(Packed weights, In obs, In particles, Steps num_steps, Out out, Network critic, Config config,
                bool trajectory, std::int64_t threads) {
  return guarded([&] {
    cpu::flow(*packed(weights, critic), obs.typed_data(), particles.typed_data(), out->typed_data(), trajectory,
              sizes(obs, particles), config.options(steps(num_steps, 0)), static_cast<int>(threads));
  });
}

ffi::Error sample(Packed weights, In obs, In noise, Steps num_steps, Out out, Network policy, Clip clip,
                  std::int64_t threads) {
  return guarded([&] {
    cpu::sample(*packed(weights, policy), obs.typed_data(), noise.typed_data(), out->typed_data(), sizes(obs, noise),
                steps(num_steps, 1), clip, static_cast<int>(threads));
  });
}

// select_noise [B, N], or [B, 0] for select = "max"
ffi::Error act(Packed critic_weights, Packed policy_weights, In obs, In noise, In select_noise, Steps euler_steps,
               Steps num_steps, Out out, Network critic, Network policy, Config config, std::string_view select,
               double temperature, std::string_view aggregate, std::int64_t threads) {
  return guarded([&] {
    cpu::act(*packed(critic_weights, critic), *packed(policy_weights, policy), obs.typed_data(), noise.typed_data(),
             out->typed_data(), sizes(obs, noise), steps(euler_steps, 1), config.options(steps(num_steps, 0)),
             {select_of(select), static_cast<float>(temperature), aggregate_of(aggregate), select_noise.typed_data()},
             static_cast<int>(threads));
  });
}

ffi::Error td_target(Packed critic_weights, Packed target_weights, Packed policy_weights, In next_obs, In noise,
                     In reward, In mask, Steps euler_steps, Steps num_steps, Out out, Network critic, Network target,
                     Network policy, Config config, double discount, std::string_view aggregate,
                     std::string_view reduce, std::int64_t threads) {
  return guarded([&] {
    cpu::td_target(*packed(critic_weights, critic), *packed(target_weights, target), *packed(policy_weights, policy),
                   next_obs.typed_data(), noise.typed_data(), out->typed_data(), sizes(next_obs, noise),
                   steps(euler_steps, 1), config.options(steps(num_steps, 0)),
                   {reward.typed_data(), mask.typed_data(), discount, aggregate_of(aggregate), reduce_of(reduce)},
                   static_cast<int>(threads));
  });
}

// One step of transport. The engine updates the moments in place, XLA's operands must stay: so they are copied first.
ffi::Error update(In particles, In dq, In first, In second, Steps step, Out out, Out new_first, Out new_second,
                  Config config, std::int64_t threads) {
  return guarded([&] {
    std::memcpy(new_first->typed_data(), first.typed_data(), first.size_bytes());
    std::memcpy(new_second->typed_data(), second.typed_data(), second.size_bytes());
    const auto p = particles.dimensions();
    cpu::update(particles.typed_data(), dq.typed_data(), new_first->typed_data(), new_second->typed_data(),
                out->typed_data(), steps(step, 1), {p[0], p[1], 0, static_cast<int>(p[2])}, config.options(1),
                static_cast<int>(threads));
  });
}

// ---- what each handler takes: operands, results, attributes

template <class T>
struct Operand {};
template <class Binding, class T>
auto operator|(Binding&& binding, Operand<T>) {
  return std::move(binding).template Arg<T>();
}
template <class... Ts>
auto operands() {
  return (ffi::Ffi::Bind() | ... | Operand<Ts>{});
}

using Name = std::string_view;
using Count = std::int64_t;

XLA_FFI_DEFINE_HANDLER(kPack, pack,
    (ffi::Ffi::Bind().RemainingArgs().Ret<ffi::Buffer<ffi::U8>>()
         .Attr<Network>("network").Attr<Count>("threads")));
XLA_FFI_DEFINE_HANDLER(kValue, value,
    (operands<Packed, In, In>().Ret<In>()
         .Attr<Network>("critic").Attr<Count>("threads")));
XLA_FFI_DEFINE_HANDLER(kValueAndGrad, value_and_grad,
    (operands<Packed, In, In>().Ret<In>().Ret<In>()
         .Attr<Network>("critic").Attr<Name>("aggregate").Attr<Count>("threads")));
XLA_FFI_DEFINE_HANDLER(kJacobian, jacobian,
    (operands<Packed, In, In>().Ret<In>().Ret<In>()
         .Attr<Network>("critic").Attr<Count>("threads")));
XLA_FFI_DEFINE_HANDLER(kDirection, direction,
    (operands<Packed, In, In>().Ret<In>()
         .Attr<Network>("critic").Attr<Config>("config").Attr<Count>("threads")));
XLA_FFI_DEFINE_HANDLER(kFlow, flow,
    (operands<Packed, In, In, Steps>().Ret<In>()
         .Attr<Network>("critic").Attr<Config>("config").Attr<bool>("trajectory").Attr<Count>("threads")));
XLA_FFI_DEFINE_HANDLER(kSample, sample,
    (operands<Packed, In, In, Steps>().Ret<In>()
         .Attr<Network>("policy").Attr<Clip>("clip").Attr<Count>("threads")));
XLA_FFI_DEFINE_HANDLER(kAct, act,
    (operands<Packed, Packed, In, In, In, Steps, Steps>().Ret<In>()
         .Attr<Network>("critic").Attr<Network>("policy").Attr<Config>("config").Attr<Name>("select")
         .Attr<double>("temperature").Attr<Name>("aggregate").Attr<Count>("threads")));
XLA_FFI_DEFINE_HANDLER(kTdTarget, td_target,
    (operands<Packed, Packed, Packed, In, In, In, In, Steps, Steps>().Ret<In>()
         .Attr<Network>("critic").Attr<Network>("target_critic").Attr<Network>("policy").Attr<Config>("config")
         .Attr<double>("discount").Attr<Name>("aggregate").Attr<Name>("reduce").Attr<Count>("threads")));
XLA_FFI_DEFINE_HANDLER(kUpdate, update,
    (operands<In, In, In, In, Steps>().Ret<In>().Ret<In>().Ret<In>()
         .Attr<Config>("config").Attr<Count>("threads")));

py::capsule capsule(XLA_FFI_Handler* handler) { return py::capsule(reinterpret_cast<void*>(handler)); }

}  // namespace

PYBIND11_MODULE(_xla, m) {
  m.doc() = "The CPU engine's XLA FFI handlers; see vgf_kernels/_xla.pyi.";
  m.def("api_version", [] { return std::pair(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR); });
  m.def("handlers", [] {
    py::dict found;
    found["pack"] = capsule(kPack);
    found["value"] = capsule(kValue);
    found["value_and_grad"] = capsule(kValueAndGrad);
    found["jacobian"] = capsule(kJacobian);
    found["direction"] = capsule(kDirection);
    found["flow"] = capsule(kFlow);
    found["sample"] = capsule(kSample);
    found["act"] = capsule(kAct);
    found["td_target"] = capsule(kTdTarget);
    found["update"] = capsule(kUpdate);
    return found;
  });
  m.def(
      "packed_bytes",
      [](const std::vector<std::int64_t>& widths, std::int64_t ensemble, bool gradient, const std::string& precision) {
        const Network network{widths, ensemble, "relu", "none", 0, gradient, precision};
        return cpu::packed_bytes(network.spec(), gradient, precision_of(precision));
      },
      py::arg("widths"), py::arg("ensemble"), py::arg("gradient"), py::arg("precision"));
}
