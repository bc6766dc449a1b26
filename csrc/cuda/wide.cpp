// States larger than a tile: gradient, pairs and update of a step in launches of their own.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "launches.hpp"

namespace vgf::cuda {
namespace {

class Wide {
 public:
  Wide(const Task& task, Launches& launches) : t(task), launches(launches) {
    numbers = t.sizes.B * t.sizes.N * t.sizes.A;
    pairwise = t.options.kernel && (t.steps.value > 0 || t.phi);
    x = t.particles && !t.trajectory ? t.particles : launches.take<float>(numbers);
    if (pairwise) take_pairs();
    if (pairwise && t.critic) {
      const int width = padded(t.critic->spec.widths[1]);
      observed = launches.take<float>(std::int64_t{t.critic->spec.ensemble} * t.sizes.B * width);
    }
    if (t.judge) q = launches.take<float>(t.sizes.B * t.sizes.N * t.judge->spec.ensemble);
  }

  void describe() {
    begin();
    if (pairwise) move();
    if (t.judge) judge();
  }

 private:
  void take_pairs() {
    if (t.steps.at)
      throw std::invalid_argument("states of " + std::to_string(t.sizes.N) + " interacting particles take launches of their own "
                                  "every step, so the host must know num_steps; only up to " +
                                  std::to_string(largest_tile(t.precision)) + " may it lie on the device");
    if (t.options.median && t.sizes.N > kMostCounted)
      throw std::invalid_argument("the cuda engine takes at most " + std::to_string(kMostCounted) +
                                  " particles a state with the median bandwidth, got " + std::to_string(t.sizes.N) +
                                  "; pass a fixed bandwidth");
    if (!t.given) dq = launches.take<float>(numbers);
    first = t.first ? t.first : launches.take<float>(numbers);
    second = t.second ? t.second : launches.take<float>(numbers);
    const Program p = program_of(t);
    pairs.x = x;
    pairs.dq = t.given ? t.given : dq;
    pairs.phi = t.phi ? t.phi : launches.take<float>(numbers);
    pairs.N = p.N;
    pairs.A = p.A;
    pairs.rule = p.pairwise;
    const std::int64_t most = std::int64_t{kPairBlocks} * launches.device().multiprocessors / pairs.tiles();
    states_at_once = std::min(std::max<std::int64_t>(most, 1), t.sizes.B);
    if (p.pairwise.median) {  // one piece of memory, cleared as one
      const std::int64_t counts = states_at_once * kDigits * kDigitBins;
      pairs.counts = launches.take<Count>(counts + states_at_once);
      pairs.notes = reinterpret_cast<unsigned*>(pairs.counts + counts);
      count_bytes = (counts + states_at_once) * static_cast<std::int64_t>(sizeof(Count));
    }
    if (p.pairwise.through) {
      pairs.weighted = launches.take<float>(t.sizes.B * t.sizes.N);
      pairs.equals = launches.take<unsigned>(t.sizes.B * t.sizes.N * 2);
    }
  }

  // The task without the pairs and what comes after them.
  Task part() const {
    Task some = t;
    some.policy = some.critic = some.judge = nullptr;
    some.steps = 0;
    some.given = nullptr;
    some.q = some.dq = some.phi = some.particles = some.actions = some.target = nullptr;
    some.first = some.second = nullptr;
    some.trajectory = false;
    some.start = x;
    return some;
  }
  void run(const Task& some) { launches.program(program_of(some), t.precision, false); }

  // Particles to x: sampled, and moved where they look at nobody; or as given.
  void begin() {
    if (t.policy || !pairwise) {
      Task some = part();
      some.start = t.start;
      some.policy = t.policy;
      some.particles = x;
      if (!pairwise) some.critic = t.critic, some.steps = t.steps;
      run(some);
    } else if (x != t.start) {
      launches.copy(x, t.start, numbers);
    }
  }

  void move() {
    if (t.trajectory) launches.copy(t.particles, x, numbers);
    if (!t.first && t.steps.value > 0) {
      launches.clear(first, numbers * sizeof(float));
      launches.clear(second, numbers * sizeof(float));
    }
    if (t.critic) observe();
    Step step{x, first, second, pairs.phi, nullptr, numbers, program_of(t).update};
    for (int i = 0; i < std::max(t.steps.value, 1); i++) {
      if (!t.given) differentiate();
      interact();
      if (t.phi) return;
      if (t.trajectory) step.path = t.particles + (i + 1) * numbers;
      constexpr std::int64_t most_blocks = 4096;
      launches.start("step_kernel", step_kernel_of(), std::min((numbers + kThreads - 1) / kThreads, most_blocks), 0, step);
      step.rule.first_step.value++;
    }
  }

  // The first layer's observation part, once a state: a row a state.
  void observe() {
    Task some = part();
    some.critic = t.critic;
    some.sizes.N = 1;
    Program p = program_of(some);
    p.observe_to = observed;
    launches.program(p, t.precision, false);
  }

  void differentiate() {
    Task some = part();
    some.critic = t.critic;
    some.dq = dq;
    Program p = program_of(some);
    p.observed = observed;
    launches.program(p, t.precision, false);
  }

  void interact() {
    if (!launches.real()) return;
    for (std::int64_t first = 0; first < t.sizes.B; first += states_at_once)
      interact(pairs.from(first), std::min(states_at_once, t.sizes.B - first));
  }
  void interact(Pairs p, std::int64_t states) {
    const std::int64_t blocks = states * p.tiles();
    int shared = 0;
    if (p.rule.median) {
      launches.clear(p.counts, count_bytes);
      const Kernel<Pairs> count = count_kernel_of(shared);
      for (p.digit = 0; p.digit < kDigits; p.digit++) launches.start("count_kernel", count, blocks, shared, p);
    }
    const Kernel<Pairs> interact = interact_kernel_of(p.A, shared);
    launches.start("interact_kernel", interact, blocks, shared, p);
    if (!p.rule.through) return;
    const Kernel<Pairs> through = through_kernel_of(shared);
    launches.start("through_kernel", through, states, shared, p);
  }

  void judge() {
    Task some = part();
    some.judge = t.judge;
    some.q = q;
    run(some);
    if (!t.actions && !t.target) return;
    const Program whole = program_of(t);
    const Judging judging{q, x, t.sizes.B, t.judge->spec.ensemble, whole.N, whole.A, whole.judgement};
    launches.start("judge_kernel", judge_kernel_of(), (t.sizes.B + kWarps - 1) / kWarps, 0, judging);
  }

  const Task& t;
  Launches& launches;
  std::int64_t numbers, states_at_once = 0, count_bytes = 0;
  bool pairwise;
  float *x, *observed = nullptr, *q = nullptr, *dq = nullptr, *first = nullptr, *second = nullptr;
  Pairs pairs{};
};

}  // namespace

void describe_wide(const Task& task, Launches& launches) { Wide(task, launches).describe(); }

}  // namespace vgf::cuda
