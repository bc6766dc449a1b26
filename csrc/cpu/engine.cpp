// The entry points: which phases a unit goes through.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <stdexcept>

#include "memory.hpp"
#include "ranges.hpp"
#include "unit.hpp"
#include "vgf/cpu.hpp"

namespace vgf::cpu {
namespace {

// Whether each thread should take whole units. A team takes one after the other, and only as many members as there are tasks in a
// unit have work in it; so it pays where it is done before the thread with the most units would be.
bool takes_whole_units(const Call& call, int threads) {
  if (call.units >= 2 * static_cast<std::int64_t>(threads)) return true;
  const std::int64_t most = (call.units + threads - 1) / threads, useful = std::min<std::int64_t>(threads, call.tasks);
  return most * useful < call.units;
}

// Calls fn(unit) for all units. Many units: each member takes whole units as it gets free. Few: the team works
// through them together.
template <class F>
void run_units(const Call& call, int threads, F fn) {
  if (takes_whole_units(call, threads)) {
    std::atomic<std::int64_t> next{0};
    share_work(static_cast<int>(std::min<std::int64_t>(threads, call.units)), [&] {
      const Member alone;
      float* memory = thread_scratch(call.shared_floats + call.own_floats);
      Unit unit(call, alone, memory, memory + call.shared_floats);
      for (std::int64_t i; (i = next.fetch_add(1)) < call.units;) {
        unit.begin(i);
        fn(unit);
      }
    });
    return;
  }
  // Everybody's memory at once: a member that got none would leave the others waiting for it.
  float* shared = thread_scratch(call.shared_floats + call.members * call.own_floats);
  run_team(call.members, [&](const Member& member) {
    Unit unit(call, member, shared, shared + call.shared_floats + member.rank * call.own_floats);
    for (std::int64_t i = 0; i < call.units; i++) {
      unit.begin(i);
      fn(unit);
    }
  });
}

void need_gradient(const PackedMlp& critic) {
  if (!critic.gradient()) throw std::invalid_argument("the critic was packed without gradient=True");
}

void check_widths(const PackedMlp& mlp, int inputs, int outputs) {
  if (mlp.input() != inputs || mlp.output() != outputs)
    throw std::invalid_argument("packed network: expected " + std::to_string(inputs) + " inputs and " +
                                std::to_string(outputs) + " outputs, got " + std::to_string(mlp.input()) + " and " +
                                std::to_string(mlp.output()));
}

void check_critic(const PackedMlp& critic, const Sizes& sizes) { check_widths(critic, sizes.O + sizes.A, 1); }

void check_policy(const PackedMlp& policy, const Sizes& sizes) {
  check_widths(policy, sizes.O + sizes.A + 1, sizes.A);
}

// The flow of a unit whose particles are loaded; calls after(l) when step l = 1.. is done.
template <class F>
void move(Unit& unit, const Net& critic, const FlowOptions& options, F after) {
  unit.start_moments();
  for (int step = 1; step <= options.num_steps; step++) {
    unit.gradient(critic, options.aggregate);
    unit.direction();
    unit.update(step);
    after(step);
  }
}

int selected(const Unit& unit, int ensemble, const Selection& how, int s, int n) {
  int best = 0;
  float best_score = 0;
  for (int i = 0; i < n; i++) {
    float score = how.how == Select::uniform ? 0 : unit.aggregated(ensemble, how.aggregate, s, i);
    if (how.how != Select::max) {
      const float u = how.noise[(unit.first_state() + s) * n + i];
      score = how.how == Select::uniform ? u : score / how.temperature - std::log(-std::log(u));
    }
    // the first largest; NaN counts as largest
    if (i == 0 || score > best_score || (std::isnan(score) && !std::isnan(best_score))) best = i, best_score = score;
  }
  return best;
}

}  // namespace

void value(const PackedMlp& critic, const float* obs, const float* actions, float* q, Sizes sizes, int threads) {
  check_critic(critic, sizes);
  const Range range("value", sizes.B * sizes.N);
  const Call call(sizes, {}, {&critic}, nullptr, threads);
  run_units(call, threads, [&](Unit& unit) {
    Net net{&critic};
    unit.observe(net, obs, 0);
    unit.load(actions);
    unit.evaluate(net);
    unit.store_values(critic.spec().ensemble, q);
  });
}

void value_and_grad(const PackedMlp& critic, const float* obs, const float* actions, float* q, float* dq, Sizes sizes,
                    Aggregate aggregate, int threads) {
  check_critic(critic, sizes);
  need_gradient(critic);
  const Range range("value_and_grad", sizes.B * sizes.N);
  const Call call(sizes, {}, {&critic}, nullptr, threads);
  run_units(call, threads, [&](Unit& unit) {
    Net net{&critic};
    unit.observe(net, obs, 0);
    unit.load(actions);
    unit.gradient(net, aggregate);
    unit.store_values(critic.spec().ensemble, q);
    unit.store_gradient(dq);
  });
}

void jacobian(const PackedMlp& critic, const float* obs, const float* actions, float* q, float* dq, Sizes sizes,
              int threads) {
  const std::int64_t rows = sizes.B * sizes.N;
  for (int e = 0; e < critic.spec().ensemble; e++)
    value_and_grad(PackedMlp(critic, e), obs, actions, q + e * rows, dq + e * rows * sizes.A, sizes, Aggregate::mean,
                   threads);
}

void direction(const PackedMlp& critic, const float* obs, const float* particles, float* phi, Sizes sizes,
               const FlowOptions& options, int threads) {
  check_critic(critic, sizes);
  need_gradient(critic);
  const Range range("direction", sizes.B * sizes.N);
  const Call call(sizes, options, {&critic}, nullptr, threads);
  run_units(call, threads, [&](Unit& unit) {
    Net net{&critic};
    unit.observe(net, obs, 0);
    unit.load(particles);
    unit.gradient(net, options.aggregate);
    unit.direction();
    unit.store_direction(phi);
  });
}

void flow(const PackedMlp& critic, const float* obs, const float* particles, float* out, bool trajectory, Sizes sizes,
          const FlowOptions& options, int threads) {
  check_critic(critic, sizes);
  need_gradient(critic);
  const Range range("flow", sizes.B * sizes.N);
  const Call call(sizes, options, {&critic}, nullptr, threads);
  const std::int64_t one = sizes.B * sizes.N * sizes.A;
  run_units(call, threads, [&](Unit& unit) {
    Net net{&critic};
    unit.observe(net, obs, 0);
    unit.load(particles);
    if (trajectory) unit.store(out);
    move(unit, net, options, [&](int step) {
      if (trajectory) unit.store(out + step * one);
    });
    if (!trajectory) unit.store(out);
  });
}

void sample(const PackedMlp& policy, const float* obs, const float* noise, float* out, Sizes sizes, int euler_steps,
            Clip clip, int threads) {
  check_policy(policy, sizes);
  const Range range("sample", sizes.B * sizes.N);
  const Call call(sizes, {}, {}, &policy, threads);
  run_units(call, threads, [&](Unit& unit) {
    Net net{&policy};
    unit.observe(net, obs, 0);
    unit.sample(net, noise, euler_steps, clip);
    unit.store(out);
  });
}

void act(const PackedMlp& critic, const PackedMlp& policy, const float* obs, const float* noise, float* out,
         Sizes sizes, int euler_steps, const FlowOptions& options, const Selection& selection, int threads) {
  check_critic(critic, sizes);
  check_policy(policy, sizes);
  if (options.num_steps > 0) need_gradient(critic);
  const Range range("act", sizes.B * sizes.N);
  const Call call(sizes, options, {&critic}, &policy, threads);
  run_units(call, threads, [&](Unit& unit) {
    Net net{&critic}, velocity{&policy};
    unit.observe(net, obs, 0);
    unit.observe(velocity, obs, 1);
    unit.sample(velocity, noise, euler_steps, options.clip);
    move(unit, net, options, [](int) {});
    if (selection.how != Select::uniform) unit.evaluate(net);
    unit.member().share(unit.states(), [&](std::int64_t state) {
      const int s = static_cast<int>(state);
      const int i = selected(unit, critic.spec().ensemble, selection, s, static_cast<int>(sizes.N));
      for (int a = 0; a < sizes.A; a++) out[(unit.first_state() + s) * sizes.A + a] = unit.particle(s, a, i);
    });
    unit.member().sync();
  });
}

void td_target(const PackedMlp& critic, const PackedMlp& target_critic, const PackedMlp& policy, const float* next_obs,
               const float* noise, float* out, Sizes sizes, int euler_steps, const FlowOptions& options,
               const Target& target, int threads) {
  check_critic(critic, sizes);
  check_critic(target_critic, sizes);
  check_policy(policy, sizes);
  if (options.num_steps > 0) need_gradient(critic);
  const Range range("td_target", sizes.B * sizes.N);
  const Call call(sizes, options, {&critic, &target_critic}, &policy, threads);
  run_units(call, threads, [&](Unit& unit) {
    Net online{&critic}, judge{&target_critic}, velocity{&policy};
    unit.observe(online, next_obs, 0);
    unit.observe(velocity, next_obs, 1);
    unit.observe(judge, next_obs, 2);
    unit.sample(velocity, noise, euler_steps, options.clip);
    move(unit, online, options, [](int) {});
    unit.evaluate(judge);
    unit.member().share(unit.states(), [&](std::int64_t state) {
      const int s = static_cast<int>(state), ensemble = target_critic.spec().ensemble;
      const std::int64_t b = unit.first_state() + state;
      double sum = 0;
      float largest = unit.aggregated(ensemble, target.aggregate, s, 0);
      for (int i = 0; i < sizes.N; i++) {
        const float q = unit.aggregated(ensemble, target.aggregate, s, i);
        sum += q;
        if (!(q <= largest) && !std::isnan(largest)) largest = q;  // larger, or NaN
      }
      const double next = target.reduce == Reduce::max ? largest : sum / static_cast<double>(sizes.N);
      out[b] = static_cast<float>(target.reward[b] + target.discount * target.mask[b] * next);
    });
    unit.member().sync();
  });
}

void update(const float* particles, const float* dq, float* first, float* second, float* out, int step, Sizes sizes,
            const FlowOptions& options, int threads) {
  const Range range("update", sizes.B * sizes.N);
  // Without a network, a few states are done before another thread has woken.
  const double pairs = static_cast<double>(sizes.B) * sizes.N * sizes.N;
  if (pairs * sizes.A < 1 << 15) threads = 1;
  const Call call(sizes, options, {}, nullptr, threads);
  run_units(call, threads, [&](Unit& unit) {
    unit.load(particles);
    unit.load_gradient(dq);
    unit.load_moments(first, second);
    unit.direction();
    unit.update(step);
    unit.store_moments(first, second);
    unit.store(out);
  });
}

}  // namespace vgf::cpu
