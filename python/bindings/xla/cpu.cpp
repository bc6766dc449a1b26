// The seam between XLA and the CPU engine; the handlers are in handlers.inl.
#include "buffers.hpp"
#include "vgf/cpu.hpp"

namespace vgf::bindings {
namespace {

namespace engine = vgf::cpu;
using Options = FlowOptions;
using Place = std::int64_t;  // the largest number of threads

template <class Binding>
auto bind_place(Binding&& binding) {
  return std::move(binding).template Attr<Place>("threads");
}

template <class Call>
void run_at(Place threads, Call call) {
  call(static_cast<int>(threads));
}

std::size_t bytes_of(const Network& network) {
  return cpu::packed_bytes(network.spec(), network.gradient, precision_of(network.precision));
}

std::shared_ptr<const cpu::PackedMlp> packed(const Packed& buffer, const Network& network, Weights& borrowed,
                                             int threads) {
  if (network.in_place)  // a critic without its gradient is evaluated once, a policy in every step
    return cpu::borrow(network.spec(), borrowed.of(network.spec()), network.gradient, !network.critic, threads);
  check_bytes(buffer, bytes_of(network));
  return cpu::packed_at(reinterpret_cast<const float*>(buffer.typed_data()), network.spec(), network.gradient,
                        precision_of(network.precision));
}

void fill(Place threads, unsigned char* memory, const Network& network, const std::vector<LayerWeights>& weights) {
  cpu::pack_into(reinterpret_cast<float*>(memory), network.spec(), weights, network.gradient,
                 precision_of(network.precision), static_cast<int>(threads));
}

int count(const Steps& steps, int least) {
  const int count = *steps.typed_data();
  if (count < least)
    throw std::invalid_argument(std::string(least > 0 ? "euler_steps (num_steps of sample)" : "num_steps") +
                                ", traced: expected at least " + std::to_string(least) + " steps, got " + std::to_string(count));
  return count;
}

FlowOptions options(const Config& config, const Steps& num_steps, const Network&) {
  return config.options(count(num_steps, 0));
}

void gradient(const cpu::PackedMlp& critic, const float* obs, const float* actions, float* q, float* dq, Sizes s,
              Aggregate aggregate, int threads) {
  cpu::value_and_grad(critic, obs, actions, q, dq, s, aggregate, threads);
}

void jacobian(const Packed& weights, const Network& critic, Weights& borrowed, const float* obs, const float* actions,
              float* q, float* dq, Sizes s, int threads) {
  cpu::jacobian(*packed(weights, critic, borrowed, threads), obs, actions, q, dq, s, threads);
}

}  // namespace
}  // namespace vgf::bindings

#include "handlers.inl"

PYBIND11_MODULE(_xla, m) {
  m.doc() = "The CPU engine's XLA FFI handlers; see vgf_kernels/_xla.pyi.";
  vgf::bindings::define(m);
}
