// Runs every entry point of the CPU engine over awkward sizes, thread counts and concurrent callers, for the
// sanitizers (see csrc/README.md). Fails where a result depends on the number of threads, on other callers, or on whether
// weights are packed or borrowed; some problems have states that are not finite. With a file's name it writes the
// results of one thread there, raw float32, of finite problems only, and checks nothing.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <thread>

#include "vgf/cpu.hpp"

using namespace vgf;

namespace {

std::vector<float> draw(std::mt19937& rng, std::size_t count, float scale) {
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(count);
  for (float& v : values) v = normal(rng);
  return values;
}

struct Net {
  MlpSpec spec;
  std::vector<std::vector<float>> memory;
  std::vector<LayerWeights> weights;

  Net(std::mt19937& rng, std::vector<int> widths, int ensemble, Activation activation, Norm norm) {
    spec = {widths, ensemble, activation, norm, 1e-6f};
    for (int e = 0; e < ensemble; e++)
      for (int l = 0; l < spec.layers(); l++) {
        const int in = widths[l], out = widths[l + 1];
        memory.push_back(draw(rng, static_cast<std::size_t>(in) * out, 1 / std::sqrt(static_cast<float>(in))));
        memory.push_back(draw(rng, out, 0.1f));
        weights.push_back({memory[memory.size() - 2].data(), out, 1, memory.back().data(), nullptr, nullptr});
      }
  }
};

// Everything the engine computes for one problem, one after the other.
std::vector<float> everything(unsigned seed, int hidden, Sizes s, Activation activation, Norm norm,
                              Precision precision, int threads, bool borrows, bool finite) {
  std::mt19937 rng(seed);
  const Net critic_net(rng, {s.O + s.A, hidden, hidden + 3, 1}, 2, activation, norm);
  const Net policy_net(rng, {s.O + s.A + 1, hidden, hidden + 1, hidden, s.A}, 1, activation, norm);
  const auto packed = [&](const Net& net, bool gradient) {
    return borrows ? cpu::borrow(net.spec, net.weights, gradient, seed % 2, threads)
                   : cpu::pack(net.spec, net.weights, gradient, precision, threads);
  };
  const auto critic = packed(critic_net, true), policy = packed(policy_net, false);
  auto obs = draw(rng, s.B * s.O, 1), x = draw(rng, s.B * s.N * s.A, 0.5f);
  const auto reward = draw(rng, s.B, 1);
  if (!finite) obs.front() = x.back() = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> uniform(s.B * s.N, 0.25f);
  FlowOptions options;
  options.num_steps = 2;
  options.bandwidth_grad = seed % 2;
  options.aggregate = seed % 3 ? Aggregate::mean : Aggregate::min;

  std::vector<float> all;
  const auto room = [&](std::size_t count) {
    all.resize(all.size() + count);
    return all.data() + all.size() - count;
  };
  const std::size_t particles = x.size(), rows = s.B * s.N;
  cpu::value(*critic, obs.data(), x.data(), room(2 * rows), s, threads);
  float* q = room(2 * rows + particles);
  cpu::value_and_grad(*critic, obs.data(), x.data(), q, q + 2 * rows, s, options.aggregate, threads);
  cpu::direction(*critic, obs.data(), x.data(), room(particles), s, options, threads);
  cpu::flow(*critic, obs.data(), x.data(), room(3 * particles), true, s, options, threads);
  cpu::sample(*policy, obs.data(), x.data(), room(particles), s, 3, {true, -1, 1}, threads);
  cpu::act(*critic, *policy, obs.data(), x.data(), room(s.B * s.A), s, 2, options,
           {Select::softmax, 0.5f, Aggregate::min, uniform.data()}, threads);
  cpu::td_target(*critic, *critic, *policy, obs.data(), x.data(), room(s.B), s, 2, options,
                 {reward.data(), reward.data(), 0.9, Aggregate::min, Reduce::max}, threads);
  std::vector<float> first(particles), second(particles);
  cpu::update(x.data(), x.data(), first.data(), second.data(), room(particles), 1, s, options, threads);
  return all;
}

template <class F>
void problems(F f) {
  unsigned seed = 0;
  for (const int hidden : {1, 17, 32, 33, 300})
    for (const Sizes s : {Sizes{1, 1, 1, 1}, Sizes{3, 2, 5, 7}, Sizes{9, 10, 4, 3}, Sizes{1, 30, 3, 2}, Sizes{2, 150, 2, 2}})
      for (const Norm norm : {Norm::none, Norm::pre, Norm::post})
        for (const Precision precision : {Precision::fp32, Precision::bf16}) {
          // Wide enough that weights pass in slices; once for every precision is enough.
          if (hidden == 300 && (s.B != 9 || norm != Norm::pre)) continue;
          const Activation activation = seed % 2 ? Activation::relu : Activation::gelu;
          f(precision, [=](int threads, bool borrows, bool finite) {
            return everything(seed, hidden, s, activation, norm, precision, threads, borrows, finite);
          });
          seed++;
        }
}

// The same numbers, NaN in the same places.
bool same(const std::vector<float>& one, const std::vector<float>& other) {
  return std::equal(one.begin(), one.end(), other.begin(), other.end(),
                    [](float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); });
}

void check(bool good, const char* what) {
  if (good) return;
  std::fprintf(stderr, "%s\n", what);
  std::exit(1);
}

}  // namespace

int main(int count, char** arguments) {
  if (count > 1) {
    std::FILE* file = std::fopen(arguments[1], "wb");
    check(file != nullptr, "the file cannot be written");
    problems([&](Precision, auto run) {
      const auto results = run(1, false, true);
      std::fwrite(results.data(), sizeof results[0], results.size(), file);
    });
    std::printf("results on %s\n", cpu::isa());
    return std::fclose(file);
  }
  int done = 0;
  problems([&](Precision precision, auto run) {
    const bool finite = done % 5 != 2;
    const auto alone = run(1, false, finite);
    check(same(alone, run(3, false, finite)), "results differ with three threads");
    if (precision == Precision::fp32)
      check(same(alone, run(3, true, finite)), "results differ with borrowed weights");
    std::vector<std::thread> callers;
    std::vector<std::vector<float>> results(3);
    for (auto& result : results) callers.emplace_back([&, finite] { result = run(2, false, finite); });
    for (auto& caller : callers) caller.join();
    for (const auto& result : results) check(same(alone, result), "results differ with concurrent callers");
    done++;
  });
  std::printf("%d problems on %s: results do not depend on threads or callers\n", done, cpu::isa());
}
