// Every handler, written once for all engines: operands to pointers, attributes to options, a call of the engine.
// Header-only: nothing of jaxlib is linked. The frontend has checked shapes and settings.
//
// Operands common to most handlers: packed networks (uint8, as `pack` fills them), obs [B, O], particles [B, N, A] and
// step counts, which are operands so that another count compiles nothing anew. Of a network in place the packed one is
// empty, and its weights come last, as `pack` takes them.
//
// The file that includes this one has first defined what its engine is, in this namespace:
//   engine                           the namespace of the entry points
//   Place, bind_place(binding)       where a call runs, and what binds it as the last argument of a handler
//   run_at(place, call)              calls call(where), `where` being the last argument of the entry points
//   bytes_of(network), packed(buffer, network, borrowed, where), fill(place, memory, network, weights)
//   count(steps, least), options(config, num_steps, critic)
//   gradient(critic, ..., where), jacobian(weights, critic, borrowed, ..., where)
namespace vgf::bindings {
namespace {

const float* at(const In& buffer) { return buffer.typed_data(); }
float* at(Out& buffer) { return buffer->typed_data(); }

Sizes sizes(const In& obs, const In& particles) {
  const auto p = particles.dimensions();
  return {p[0], p[1], static_cast<int>(obs.dimensions()[1]), static_cast<int>(p[2])};
}

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
template <class Call>
ffi::Error run(Place& place, Call call) {
  return guarded([&] { run_at(place, call); });
}

ffi::Error pack(ffi::RemainingArgs arrays, ffi::ResultBuffer<ffi::U8> out, Network network, Place place) {
  return guarded([&] { fill(place, out->typed_data(), network, Weights(arrays).of(network.spec())); });
}

ffi::Error value(Packed weights, In obs, In actions, ffi::RemainingArgs last, Out q, Network critic, Place place) {
  return run(place, [&](auto where) {
    Weights borrowed(last);
    return engine::value(*packed(weights, critic, borrowed, where), at(obs), at(actions), at(q), sizes(obs, actions),
                         where);
  });
}

ffi::Error value_and_grad(Packed weights, In obs, In actions, ffi::RemainingArgs last, Out q, Out dq, Network critic,
                          std::string_view aggregate, Place place) {
  return run(place, [&](auto where) {
    Weights borrowed(last);
    return gradient(*packed(weights, critic, borrowed, where), at(obs), at(actions), at(q), at(dq), sizes(obs, actions),
                    aggregate_of(aggregate), where);
  });
}

// Like value_and_grad, of every critic on its own: dq [E, B, N, A]
ffi::Error value_and_jacobian(Packed weights, In obs, In actions, ffi::RemainingArgs last, Out q, Out dq,
                              Network critic, Place place) {
  return run(place, [&](auto where) {
    Weights borrowed(last);
    return jacobian(weights, critic, borrowed, at(obs), at(actions), at(q), at(dq), sizes(obs, actions), where);
  });
}

ffi::Error direction(Packed weights, In obs, In particles, ffi::RemainingArgs last, Out phi, Network critic,
                     Config config, Place place) {
  return run(place, [&](auto where) {
    Weights borrowed(last);
    return engine::direction(*packed(weights, critic, borrowed, where), at(obs), at(particles), at(phi),
                             sizes(obs, particles), config.options(1), where);
  });
}

// out [B, N, A], or [num_steps + 1, B, N, A] with trajectory
ffi::Error flow(Packed weights, In obs, In particles, Steps num_steps, ffi::RemainingArgs last, Out out, Network critic,
                Config config, bool trajectory, Place place) {
  return run(place, [&](auto where) {
    Weights borrowed(last);
    const auto how = trajectory ? Options(config.options(static_cast<int>(out->dimensions()[0]) - 1))
                                : options(config, num_steps, critic);
    return engine::flow(*packed(weights, critic, borrowed, where), at(obs), at(particles), at(out), trajectory,
                        sizes(obs, particles), how, where);
  });
}

ffi::Error sample(Packed weights, In obs, In noise, Steps num_steps, ffi::RemainingArgs last, Out out, Network policy,
                  Clip clip, Place place) {
  return run(place, [&](auto where) {
    Weights borrowed(last);
    return engine::sample(*packed(weights, policy, borrowed, where), at(obs), at(noise), at(out), sizes(obs, noise),
                          count(num_steps, 1), clip, where);
  });
}

// select_noise [B, N], or [B, 0] for select = "max"
ffi::Error act(Packed critic_weights, Packed policy_weights, In obs, In noise, In select_noise, Steps euler_steps,
               Steps num_steps, ffi::RemainingArgs last, Out out, Network critic, Network policy, Config config,
               std::string_view select, double temperature, std::string_view aggregate, Place place) {
  return run(place, [&](auto where) {
    Weights borrowed(last);
    const auto judge = packed(critic_weights, critic, borrowed, where);
    const auto velocity = packed(policy_weights, policy, borrowed, where);
    return engine::act(
        *judge, *velocity, at(obs), at(noise), at(out), sizes(obs, noise), count(euler_steps, 1),
        options(config, num_steps, critic),
        {select_of(select), static_cast<float>(temperature), aggregate_of(aggregate), at(select_noise)}, where);
  });
}

ffi::Error td_target(Packed critic_weights, Packed target_weights, Packed policy_weights, In next_obs, In noise,
                     In reward, In mask, Steps euler_steps, Steps num_steps, ffi::RemainingArgs last, Out out,
                     Network critic, Network target, Network policy, Config config, double discount,
                     std::string_view aggregate, std::string_view reduce, Place place) {
  return run(place, [&](auto where) {
    Weights borrowed(last);
    const auto online = packed(critic_weights, critic, borrowed, where);
    const auto judge = packed(target_weights, target, borrowed, where);
    const auto velocity = packed(policy_weights, policy, borrowed, where);
    return engine::td_target(
        *online, *judge, *velocity, at(next_obs), at(noise), at(out), sizes(next_obs, noise), count(euler_steps, 1),
        options(config, num_steps, critic),
        {at(reward), at(mask), discount, aggregate_of(aggregate), reduce_of(reduce)}, where);
  });
}

// One step of transport. The moments are updated in place: each result is the memory of its operand.
ffi::Error update(In particles, In dq, In, In, Steps step, Out out, Out first, Out second, Config config, Place place) {
  return run(place, [&](auto where) {
    const auto p = particles.dimensions();
    return engine::update(at(particles), at(dq), at(first), at(second), at(out), count(step, 1),
                          {p[0], p[1], 0, static_cast<int>(p[2])}, config.options(1), where);
  });
}

// ---- what each handler takes: operands, results, attributes, place

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

XLA_FFI_DEFINE_HANDLER(kPack, pack, bind_place(
    ffi::Ffi::Bind().RemainingArgs().Ret<ffi::Buffer<ffi::U8>>()
        .Attr<Network>("network")));
XLA_FFI_DEFINE_HANDLER(kValue, value, bind_place(
    operands<Packed, In, In>().RemainingArgs().Ret<In>()
        .Attr<Network>("critic")));
XLA_FFI_DEFINE_HANDLER(kValueAndGrad, value_and_grad, bind_place(
    operands<Packed, In, In>().RemainingArgs().Ret<In>().Ret<In>()
        .Attr<Network>("critic").Attr<Name>("aggregate")));
XLA_FFI_DEFINE_HANDLER(kJacobian, value_and_jacobian, bind_place(
    operands<Packed, In, In>().RemainingArgs().Ret<In>().Ret<In>()
        .Attr<Network>("critic")));
XLA_FFI_DEFINE_HANDLER(kDirection, direction, bind_place(
    operands<Packed, In, In>().RemainingArgs().Ret<In>()
        .Attr<Network>("critic").Attr<Config>("config")));
XLA_FFI_DEFINE_HANDLER(kFlow, flow, bind_place(
    operands<Packed, In, In, Steps>().RemainingArgs().Ret<In>()
        .Attr<Network>("critic").Attr<Config>("config").Attr<bool>("trajectory")));
XLA_FFI_DEFINE_HANDLER(kSample, sample, bind_place(
    operands<Packed, In, In, Steps>().RemainingArgs().Ret<In>()
        .Attr<Network>("policy").Attr<Clip>("clip")));
XLA_FFI_DEFINE_HANDLER(kAct, act, bind_place(
    operands<Packed, Packed, In, In, In, Steps, Steps>().RemainingArgs().Ret<In>()
        .Attr<Network>("critic").Attr<Network>("policy").Attr<Config>("config").Attr<Name>("select")
        .Attr<double>("temperature").Attr<Name>("aggregate")));
XLA_FFI_DEFINE_HANDLER(kTdTarget, td_target, bind_place(
    operands<Packed, Packed, Packed, In, In, In, In, Steps, Steps>().RemainingArgs().Ret<In>()
        .Attr<Network>("critic").Attr<Network>("target_critic").Attr<Network>("policy").Attr<Config>("config")
        .Attr<double>("discount").Attr<Name>("aggregate").Attr<Name>("reduce")));
XLA_FFI_DEFINE_HANDLER(kUpdate, update, bind_place(
    operands<In, In, In, In, Steps>().Ret<In>().Ret<In>().Ret<In>()
        .Attr<Config>("config")));

// ---- what Python sees; see vgf_kernels/_xla.pyi

void define(py::module_& m) {
  m.def("api_version", [] { return std::pair(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR); });
  m.def("handlers", [] {
    py::dict found;
    for (const auto& [name, handler] : std::initializer_list<std::pair<const char*, XLA_FFI_Handler*>>{
             {"pack", kPack}, {"value", kValue}, {"value_and_grad", kValueAndGrad}, {"jacobian", kJacobian},
             {"direction", kDirection}, {"flow", kFlow}, {"sample", kSample}, {"act", kAct},
             {"td_target", kTdTarget}, {"update", kUpdate}})
      found[name] = py::capsule(reinterpret_cast<void*>(handler));
    return found;
  });
  m.def(
      "packed_bytes",
      [](const std::vector<std::int64_t>& widths, std::int64_t ensemble, bool gradient, const std::string& precision,
         std::int64_t observations, bool critic) {
        return bytes_of({widths, ensemble, "relu", "none", 0, gradient, precision, observations, critic, false});
      },
      py::arg("widths"), py::arg("ensemble"), py::arg("gradient"), py::arg("precision"), py::arg("observations"),
      py::arg("critic"));
}

}  // namespace
}  // namespace vgf::bindings
