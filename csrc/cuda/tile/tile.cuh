// A tile of particles on its way through networks, interaction and update: the block's whole program, in one launch.
//
// Pointers: those of Program (program.hpp). The kThreads that work keep a multiprocessor to themselves and walk over tiles
// of M rows (particles of whole states, where they look at each other). Networks are run by a class of their own
// (network.cuh, which also lays out shared memory); this file is all the rest. All threads call everything, and every
// phase ends with all of them in step. In scratch, private to the block and reused by its tiles: particles, moments, and
// what the networks keep there. From memory: 8 A bytes a particle and call, 4 O a state.
#pragma once

#include "../reduce.cuh"
#include "../update.cuh"
#include "interaction.cuh"
#include "place.cuh"

namespace vgf::cuda {

// Network: its observe(net, to, stride) writes b + obs W of the first layer to [E] x `stride` apart, [states][padded(width)];
// its propagate(net, e, observed, time, gradient) runs member e on the tile's particles, to q and dq, or the velocity.
template <class Network>
class Tile {
 public:
  __device__ Tile(const Place& place, const Network& its_network) : here(place), network(its_network), p(place.p) {}

  __device__ void run() {
    if (p.observe_to) {
      const int width = padded(p.critic.layers[0].width);
      return network.observe(p.critic, p.observe_to + here.first_state * width, p.B * width);
    }
    load(p.start, here.x());
    if (p.policy.present()) sample();
    if (p.differentiate || p.steps > 0 || p.particles) move();
    if (p.judge.present()) judge();
  }

 private:
  __device__ __noinline__ void load(const float* from, float* to) const {
    here.for_numbers([&](int i) { to[i] = from[here.first_row * p.A + i]; });
    ptx::sync_block();
  }
  __device__ __noinline__ void store(const float* from, float* to) const {
    here.for_numbers([&](int i) { to[here.first_row * p.A + i] = from[i]; });
  }

  __device__ Observed observed(const Net& net) const {
    const std::int64_t width = padded(net.layers[0].width);
    if (p.observed) return {p.observed + here.first_state * width, p.B * width};
    const std::int64_t stride = p.states_per_tile * width;
    network.observe(net, here.floats(p.at.observed), stride);
    return {here.floats(p.at.observed), stride};
  }

  __device__ __noinline__ void drift() const {
    const float* v = here.member(0);
    const int pitch = padded(p.A);
    here.for_numbers([&](int i) { here.x()[i] += v[i / p.A * pitch + i % p.A] / static_cast<float>(p.euler_steps); });
    ptx::sync_block();
  }

  __device__ __noinline__ void sample() {
    const Observed seen = observed(p.policy);
    for (step = 0; step < p.euler_steps; step++) {
      network.propagate(p.policy, 0, seen, static_cast<float>(step) / static_cast<float>(p.euler_steps), false);
      drift();
    }
    here.for_numbers([&](int i) { here.x()[i] = clipped(here.x()[i], p.sample_clip); });
    ptx::sync_block();
  }

  __device__ float value_of(int ensemble, Aggregate how, int row) const {
    return aggregated(ensemble, how, [&](int e) { return here.q(e)[row]; });
  }

  // dq of the aggregate from the members' own: their mean, or the smallest critic's, shared evenly at a tie.
  __device__ __noinline__ void combine() const {
    const int ensemble = p.critic.ensemble, pitch = padded(p.A);
    here.for_numbers([&](int i) {
      const int row = i / p.A, at = row * pitch + i % p.A;
      const bool mean = p.aggregate == Aggregate::mean;
      const float smallest = mean ? 0 : value_of(ensemble, Aggregate::min, row);
      float sum = 0;
      int sharing = 0;
      for (int e = 0; e < ensemble; e++) {
        if (!mean && here.q(e)[row] != smallest) continue;
        sum += here.member(e)[at];
        sharing++;
      }
      // nobody is smallest where q is NaN
      here.dq()[i] = sharing > 0 ? sum / sharing : ptx::as_float(0x7fc00000u);
    });
    ptx::sync_block();
  }

  __device__ __noinline__ void direction() const {
    const Interaction interaction{here.x(), here.dq(), here.phi(), here.floats(p.at.attraction),
                                  here.floats(p.at.repulsion), here.rows, p.N, p.A,
                                  network.bandwidths(), network.pair_memory()};
    interaction.run(p.pairwise);
  }

  __device__ __noinline__ void update() const {
    const Corrections corrections = Corrections::of(p.update.steps_before + step + 1);
    float *first = here.floats(p.at.first), *second = here.floats(p.at.second);
    float* x = here.x();
    here.for_numbers([&](int i) { x[i] = moved(x[i], here.phi()[i], first[i], second[i], p.update, corrections); });
    ptx::sync_block();
  }

  // The particles' moments from the caller's, or zero.
  __device__ __noinline__ void start_moments() const {
    float *first = here.floats(p.at.first), *second = here.floats(p.at.second);
    if (p.first) {
      load(p.first, first);
      load(p.second, second);
    } else {
      here.for_numbers([&](int i) { first[i] = second[i] = 0; });
    }
  }

  __device__ __noinline__ void move() {
    Observed seen{};
    const int rounds = p.differentiate ? 1 : p.steps;
    if (p.critic.present() && rounds > 0) seen = observed(p.critic);
    start_moments();
    if (p.trajectory) store(here.x(), p.particles);
    for (step = 0; step < rounds; step++) {
      if (p.given) {
        load(p.given, here.dq());
      } else {
        for (int e = 0; e < p.critic.ensemble; e++) network.propagate(p.critic, e, seen, 0, true);
        combine();
      }
      if (p.differentiate) return results();
      direction();
      update();
      if (p.trajectory) store(here.x(), p.particles + (step + 1) * p.rows * p.A);
    }
    if (p.particles && !p.trajectory) store(here.x(), p.particles);
    if (p.first) {
      store(here.floats(p.at.first), p.first);
      store(here.floats(p.at.second), p.second);
    }
  }

  __device__ __noinline__ void store_values(int ensemble) const {
    for (int e = 0; e < ensemble; e++)
      for (int row = ptx::thread(); row < here.rows; row += kThreads)
        p.q[e * p.rows + here.first_row + row] = here.q(e)[row];
  }

  // What a single gradient was asked for.
  __device__ __noinline__ void results() const {
    if (p.q) store_values(p.critic.ensemble);
    if (p.dq) store(here.dq(), p.dq);
    if (p.jacobian) {
      const int pitch = padded(p.A);
      for (int e = 0; e < p.critic.ensemble; e++)
        here.for_numbers([&](int i) {
          p.jacobian[(e * p.rows + here.first_row) * p.A + i] = here.member(e)[i / p.A * pitch + i % p.A];
        });
    }
    if (p.phi) {
      direction();
      store(here.phi(), p.phi);
    }
  }

  __device__ __noinline__ void judge() const {
    const Observed seen = observed(p.judge);
    for (int e = 0; e < p.judge.ensemble; e++) network.propagate(p.judge, e, seen, 0, false);
    if (p.q) store_values(p.judge.ensemble);
    const Judgement& j = p.judgement;
    if (!j.actions && !j.target) return;
    for (int s = ptx::thread() / kLanes; s < here.rows / p.N; s += kWarps) {
      const auto value = [&](int i) { return value_of(p.judge.ensemble, j.aggregate, s * p.N + i); };
      judge_state(j, here.first_state + s, p.N, p.A, here.x() + s * p.N * p.A, value);
    }
  }

  const Place& here;
  const Network& network;
  const Program& p;
  int step = 0;
};

}  // namespace vgf::cuda
