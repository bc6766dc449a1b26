// The seam between XLA and the CUDA engine; the handlers are in handlers.inl.
//
// Step counts lie in device memory, so the kernels read them: no handler waits for the device.
#include "buffers.hpp"
#include "vgf/cuda.hpp"
#include <place.hpp>

namespace vgf::bindings {
namespace {

namespace engine = vgf::cuda;
using engine::Options;

template <class Binding>
auto bind_place(Binding&& binding) {
  return std::move(binding).template Ctx<Place>();
}

template <class Call>
void run_at(Place& place, Call call) {
  const std::size_t bytes = call(cuda::Workspace{nullptr, 0, place.stream()});
  call(cuda::Workspace{place.allocate(bytes), bytes, place.stream()});
}

cuda::Network described(const Network& network, void* memory) {
  return {network.spec(),   static_cast<int>(network.observations),  network.critic,
          network.gradient, precision_of(network.precision), memory};
}

std::size_t bytes_of(const Network& network) { return cuda::packed_bytes(described(network, nullptr)); }

void* aligned(void* memory) {
  if (reinterpret_cast<std::uintptr_t>(memory) % 16 != 0)
    throw std::invalid_argument("packed weights: expected memory aligned to 16 bytes");
  return memory;
}

std::unique_ptr<const cuda::Network> packed(const Packed& buffer, const Network& network, Weights&,
                                            const cuda::Workspace&) {
  check_bytes(buffer, bytes_of(network));
  return std::make_unique<const cuda::Network>(described(network, aligned(buffer.typed_data())));
}

void fill(Place& place, void* memory, const Network& network, const std::vector<LayerWeights>& weights) {
  cuda::pack(described(network, aligned(memory)), weights, place.stream());
}

// The frontend has refused what it could see to be less than `least`; the device takes it for none.
cuda::StepCount count(const Steps& steps, int least) { return {least, steps.typed_data()}; }

// A critic comes without its gradient where the frontend knows that there are no steps.
Options options(const Config& config, const Steps& num_steps, const Network& critic) {
  return {config.options(0), critic.gradient ? num_steps.typed_data() : nullptr};
}

std::size_t gradient(const cuda::Network& critic, const float* obs, const float* actions, float* q, float* dq, Sizes s,
                     Aggregate aggregate, const cuda::Workspace& workspace) {
  return cuda::value_and_grad(critic, obs, actions, q, dq, nullptr, s, aggregate, workspace);
}

std::size_t jacobian(const Packed& weights, const Network& critic, Weights& borrowed, const float* obs,
                     const float* actions, float* q, float* dq, Sizes s, const cuda::Workspace& workspace) {
  return cuda::value_and_grad(*packed(weights, critic, borrowed, workspace), obs, actions, q, nullptr, dq, s,
                              Aggregate::mean, workspace);
}

}  // namespace
}  // namespace vgf::bindings

#include "handlers.inl"

PYBIND11_MODULE(_xla_cuda, m) {
  m.doc() = "The CUDA engine's XLA FFI handlers; see vgf_kernels/_xla_cuda.pyi.";
  vgf::bindings::define(m);
  m.def(
      "most_in_a_launch",
      [](const std::string& precision) { return vgf::cuda::most_in_a_launch(vgf::precision_of(precision)); },
      pybind11::arg("precision"));
}
