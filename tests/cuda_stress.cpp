// Runs every entry point of the emulated CUDA engine over awkward sizes, for the sanitizers and emulator/races.hpp. Caller's
// arrays lie on odd addresses, memory that the engine asks for ends where it said. With the argument "tiles", on Hopper's tile
// kernels.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "emulator.hpp"
#include "schedule.hpp"

using namespace vgf;

namespace vgf::cuda {
extern Machine emulated;
}

namespace {

struct Memory {  // aligned as a device's, poisoned
  unsigned char* bytes;
  explicit Memory(std::size_t count) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 256, count) != 0) std::abort();
    bytes = static_cast<unsigned char*>(memory);
    std::memset(bytes, 0xff, count);
    emulator::races::watch(bytes, count);
  }
  Memory(const Memory&) = delete;
  ~Memory() {
    emulator::races::forget(bytes);
    std::free(bytes);
  }
};

struct Floats {  // one float off any alignment
  std::vector<float> memory;
  explicit Floats(std::int64_t count) : memory(count + 1, std::nanf("")) {
    emulator::races::watch(memory.data(), memory.size() * sizeof(float));
  }
  Floats(const Floats&) = delete;
  Floats(Floats&&) = default;
  ~Floats() { emulator::races::forget(memory.data()); }
  Floats(std::mt19937& rng, std::int64_t count, float scale) : Floats(count) {
    std::normal_distribution<float> normal(0, scale);
    for (std::int64_t i = 0; i < count; i++) data()[i] = normal(rng);
  }
  float* data() { return memory.data() + 1; }
  void check(const char* what) {
    for (std::size_t i = 1; i < memory.size(); i++)
      if (!std::isfinite(memory[i])) std::printf("%s: number %zu is not finite\n", what, i - 1), std::exit(1);
  }
};

struct Packed {
  cuda::Network network;
  std::vector<Floats> weights;
  Memory memory;

  Packed(std::mt19937& rng, std::vector<int> widths, int ensemble, Activation activation, Norm norm, int observations,
         bool critic, bool gradient, Precision precision)
      : network{{widths, ensemble, activation, norm, 1e-6f}, observations, critic, gradient, precision, nullptr},
        memory(cuda::packed_bytes(network)) {
    network.packed = memory.bytes;
    std::vector<LayerWeights> layers;
    weights.reserve(2 * ensemble * widths.size());
    for (int e = 0; e < ensemble; e++)
      for (std::size_t l = 0; l + 1 < widths.size(); l++) {
        weights.emplace_back(rng, std::int64_t{widths[l]} * widths[l + 1], 1 / std::sqrt(widths[l] + 1.0f));
        weights.emplace_back(rng, widths[l + 1], 0.1f);
        float *matrix = weights[weights.size() - 2].data(), *bias = weights.back().data();
        layers.push_back({matrix, widths[l + 1], 1, bias, nullptr, nullptr});
      }
    cuda::pack(network, layers, nullptr);
  }
};

// call(workspace): asks, then runs in exactly what it was told.
template <class Call>
void run(Call call) {
  const Memory memory(call(cuda::Workspace{}));
  call(cuda::Workspace{memory.bytes, call(cuda::Workspace{}), nullptr});
}

struct Case {
  Sizes sizes;
  std::vector<int> hidden;
  Precision precision;
  Norm norm;
  Activation activation;
  cuda::Machine machine;
};

void everything(const Case& c) {
  const auto [B, N, O, A] = c.sizes;
  std::mt19937 rng(0);
  const auto widths = [&](int in, int out) {
    std::vector<int> all{in};
    all.insert(all.end(), c.hidden.begin(), c.hidden.end());
    all.push_back(out);
    return all;
  };
  cuda::emulated = c.machine;
  Packed critic(rng, widths(O + A, 1), 2, c.activation, c.norm, O, true, true, c.precision);
  Packed target(rng, widths(O + A, 1), 2, c.activation, c.norm, O, true, false, c.precision);
  Packed policy(rng, widths(O + A + 1, A), 1, c.activation, c.norm, O, false, false, c.precision);
  Floats obs(rng, B * O, 1), x(rng, B * N * A, 0.5f), reward(rng, B, 1), noise(rng, B * N, 0);
  for (std::int64_t i = 0; i < B * N; i++) noise.data()[i] = (i % 7 + 1) / 9.0f;
  FlowOptions options;
  options.num_steps = 2;
  options.clip = {true, -1, 1};
  FlowOptions through = options;
  through.bandwidth_grad = true;

  Floats q(2 * B * N), dq(B * N * A), jacobian(2 * B * N * A), phi(B * N * A), path(3 * B * N * A), drawn(B * N * A);
  Floats actions(B * A), result(B), first(B * N * A), second(B * N * A), moved(B * N * A);
  for (float& m : first.memory) m = 0;
  for (float& m : second.memory) m = 0;
  run([&](auto w) { return cuda::value(target.network, obs.data(), x.data(), q.data(), c.sizes, w); });
  q.check("value");
  run([&](auto w) {
    return cuda::value_and_grad(critic.network, obs.data(), x.data(), q.data(), dq.data(), jacobian.data(), c.sizes,
                                Aggregate::min, w);
  });
  dq.check("value_and_grad");
  jacobian.check("jacobian");
  for (const FlowOptions& o : {options, through}) {
    run([&](auto w) { return cuda::direction(critic.network, obs.data(), x.data(), phi.data(), c.sizes, o, w); });
    phi.check("direction");
  }
  run([&](auto w) { return cuda::flow(critic.network, obs.data(), x.data(), path.data(), true, c.sizes, options, w); });
  path.check("flow");
  run([&](auto w) {
    return cuda::sample(policy.network, obs.data(), x.data(), drawn.data(), c.sizes, 2, options.clip, w);
  });
  drawn.check("sample");
  const Selection selection{Select::softmax, 0.5f, Aggregate::min, noise.data()};
  run([&](auto w) {
    return cuda::act(critic.network, policy.network, obs.data(), x.data(), actions.data(), c.sizes, 2, options, selection, w);
  });
  actions.check("act");
  const Target reduction{reward.data(), reward.data(), 0.9, Aggregate::mean, Reduce::max};
  run([&](auto w) {
    return cuda::td_target(critic.network, target.network, policy.network, obs.data(), x.data(), result.data(), c.sizes, 2,
                           options, reduction, w);
  });
  result.check("td_target");
  run([&](auto w) {
    return cuda::update(x.data(), dq.data(), first.data(), second.data(), moved.data(), 1, c.sizes, options, w);
  });
  moved.check("update");
}

template <class Call>
void refused(const char* what, Call call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    if (std::strstr(error.what(), what)) return;
    std::printf("%s\n", error.what());
  }
  std::printf("expected to be refused: %s\n", what), std::exit(1);
}

// What needs the number of steps on the host.
void counts_on_the_device() {
  std::mt19937 rng(0);
  const Packed critic(rng, {8, 17, 1}, 1, Activation::relu, Norm::none, 5, true, true, Precision::fp32);
  FlowOptions options;
  const int steps = 2;
  const auto flow = [&](std::int64_t N, bool trajectory) {
    const Sizes sizes{1, N, 5, 3};
    return cuda::flow(critic.network, nullptr, nullptr, nullptr, trajectory, sizes, {options, &steps}, cuda::Workspace{});
  };
  if (flow(10, false) == 0) std::exit(1);
  refused("a trajectory has num_steps in its size", [&] { flow(10, true); });
  refused("the host must know num_steps", [&] { flow(70, false); });
  options.kernel = false;  // who looks at nobody is one launch at any size
  if (flow(70, false) == 0) std::exit(1);
}

}  // namespace

// Hopper's tile kernels: a cluster's blocks take a tile each, several in turns, or one with a critic each.
void tiles() {
  constexpr int kShared = 227 * 1024;
  for (const Precision precision : {Precision::bf16, Precision::tf32, Precision::fp32}) {
    everything({{7, 10, 5, 3}, {33, 48}, precision, Norm::pre, Activation::silu, {4, kShared, true, 2}});
    everything({{13, 10, 5, 3}, {33}, precision, Norm::none, Activation::relu, {2, kShared, true, 1}});
  }
}

int main(int count, char** arguments) {
  const std::string asked = count > 1 ? arguments[1] : "";
  if (asked == "tiles") return tiles(), 0;
  counts_on_the_device();
  cuda::emulated.multiprocessors = 1;  // one block, which walks over all tiles
  cuda::Machine small = cuda::emulated, large = cuda::emulated;
  small.shared_bytes = 80 * 1024;
  large.shared_bytes = 227 * 1024;
  const cuda::Machine hopper{18, 227 * 1024, true, 4};  // few states go to its latency kernel
  const cuda::Machine larger{18, 227 * 1024, true, 8};  // which is no kernel for the parts of a call on a large state
  const Case cases[] = {
      {{4, 10, 5, 3}, {33, 48}, Precision::bf16, Norm::pre, Activation::relu, large},
      {{4, 10, 5, 3}, {300, 33}, Precision::fp32, Norm::post, Activation::silu, small},  // activations in scratch
      {{2, 40, 0, 1}, {17}, Precision::tf32, Norm::none, Activation::tanh, large},
      {{1, 131, 3, 9}, {33}, Precision::bf16, Norm::pre, Activation::gelu, small},
      {{1, 66, 3, 35}, {33, 1}, Precision::fp32, Norm::pre, Activation::mish, large},
      {{5, 10, 5, 3}, {33, 100}, Precision::bf16, Norm::pre, Activation::relu, hopper},  // two teams of two blocks
      {{5, 10, 5, 3}, {33, 100, 48, 70}, Precision::bf16, Norm::none, Activation::relu, hopper},
      {{1, 131, 5, 3}, {33, 48}, Precision::bf16, Norm::pre, Activation::relu, larger},
  };
  for (const Case& c : cases) everything(c);
  return 0;
}
