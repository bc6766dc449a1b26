// A tile of particles on its way through networks, interaction and update: the block's whole program, in one launch.
//
// Pointers: those of Program (program.hpp). The kThreads that work keep a multiprocessor to themselves and walk over tiles
// of M rows (particles of whole states, where they look at each other). Passes through networks (passes.cuh) are run by a
// class of their own (network.cuh, which also lays out shared memory); this file is what happens between them. All threads
// call everything, and every phase ends with all of them in step. In scratch, private to the block and reused by its tiles:
// particles, moments, and what the networks keep there. From memory: 8 A bytes a particle and call, 4 O a state.
#pragma once

#include "../reduce.cuh"
#include "../update.cuh"
#include "gradient.cuh"
#include "interaction.cuh"
#include "place.cuh"
#include "warp_step.cuh"

namespace vgf::cuda {

class Tile {
 public:
  // bandwidths, work: shared memory that passes leave alone; work: pair_bytes
  __device__ Tile(const Place& place, Bandwidth* its_bandwidths, float* its_work)
      : here(place), p(place.p), bandwidths(its_bandwidths), work(its_work) {}

  // Does what lies between a pass, at first that of Role::start, and the next, which it becomes. False: the tile is done.
  __device__ bool next(Pass& pass) const {
    const Pass done = pass;
    pass = following(p, done, here.side);
    if (p.observe_to) return pass.role != Role::end;
    if (done.role == Role::start) load(p.start, here.x());
    if (done.role == Role::policy && !done.observes) drift();
    bool concludes = done.role == Role::critic && ends_round(p, done);  // all members have given their gradients
    if (done.role <= Role::policy && pass.role > Role::policy) {
      if (p.policy.present()) clip_samples();
      if (moves()) begin_moving();
      concludes = p.given && moves();  // there is no critic's pass to conclude
    }
    if (concludes) conclude(done.role == Role::critic ? done.round : 0);
    if (done.role <= Role::critic && pass.role > Role::critic && moves()) end_moving();
    if (done.role == Role::judge && pass.role == Role::end) judge();
    return pass.role != Role::end;
  }

 private:
  __device__ void load(const float* from, float* to) const {
    here.for_numbers([&](int i) { to[i] = from[here.first_row * p.A + i]; });
    ptx::sync_block();
  }
  __device__ void store(const float* from, float* to) const {
    if (!here.speaks) return;
    here.for_numbers([&](int i) { to[here.first_row * p.A + i] = from[i]; });
  }

  __device__ void drift() const {
    const float* v = here.velocity();
    const int pitch = padded(p.A);
    const float steps = static_cast<float>(counted(p.euler_steps));
    here.for_numbers([&](int i) { here.x()[i] += v[i / p.A * pitch + i % p.A] / steps; });
    ptx::sync_block();
  }

  __device__ void clip_samples() const {
    here.for_numbers([&](int i) { here.x()[i] = clipped(here.x()[i], p.sample_clip); });
    ptx::sync_block();
  }

  __device__ float value_of(int ensemble, Aggregate how, int row) const {
    return aggregated(ensemble, how, [&](int e) { return here.q(e)[row]; });
  }

  __device__ void combine() const {
    const int fours = (p.A + 3) / 4;
#pragma unroll 1
    for (int i = ptx::thread(); i < here.rows * fours; i += kThreads) {
      const int row = i / fours, four = i % fours;
      const Four g = combined_gradient(here, row, four);
      for (int k = 0; k < 4 && 4 * four + k < p.A; k++) here.dq()[row * p.A + 4 * four + k] = g.x[k];
    }
    ptx::sync_block();
  }

  __device__ void direction() const {
    const Interaction interaction{here.x(), here.dq(), here.phi(), here.floats(p.at.repulsion), here.rows, p.N, p.A,
                                  ptx::in_shared(bandwidths), ptx::in_shared(work)};
    interaction.run(p.pairwise);
  }

  __device__ void update(int round) const {
    const Corrections corrections = Corrections::of(counted(p.update.first_step) + round);
    float *first = here.floats(p.at.first), *second = here.floats(p.at.second);
    float* x = here.x();
    here.for_numbers([&](int i) { x[i] = moved(x[i], here.phi()[i], first[i], second[i], p.update, corrections); });
    ptx::sync_block();
  }

  // What was asked for of the gradients, or a step. Where a warp can, it takes a state's, so that nobody waits for the slowest
  // at every phase.
  __device__ void conclude(int round) const {
    const bool steps = !p.differentiate;
    if (steps && WarpStep::takes(p)) {
      for (int state = ptx::thread() / kLanes; state < here.rows / p.N; state += kWarps) WarpStep(here, work, state).run(round);
      ptx::sync_block();
    } else {
      if (!p.given) combine();
      if (!steps) results();
      if (steps || p.phi) direction();
      if (steps)
        update(round);
      else if (p.phi)
        store(here.phi(), p.phi);
    }
    if (steps && p.trajectory) store(here.x(), p.particles + (round + 1) * p.rows * p.A);
  }

  // The particles' moments from the caller's, or zero.
  __device__ void start_moments() const {
    float *first = here.floats(p.at.first), *second = here.floats(p.at.second);
    if (p.first) {
      load(p.first, first);
      load(p.second, second);
    } else {
      here.for_numbers([&](int i) { first[i] = second[i] = 0; });
    }
  }

  __device__ bool moves() const { return p.differentiate || p.steps.value > 0 || p.particles; }

  __device__ void begin_moving() const {
    start_moments();
    if (p.trajectory) store(here.x(), p.particles);
    if (p.given) load(p.given, here.dq());
  }

  __device__ void end_moving() const {
    if (p.particles && !p.trajectory) store(here.x(), p.particles);
    if (p.first) {
      store(here.floats(p.at.first), p.first);
      store(here.floats(p.at.second), p.second);
    }
  }

  __device__ void store_values(int ensemble) const {
    if (!here.speaks) return;
    for (int e = 0; e < ensemble; e++)
      for (int row = ptx::thread(); row < here.rows; row += kThreads)
        p.q[e * p.rows + here.first_row + row] = here.q(e)[row];
  }

  // What a single gradient was asked for.
  __device__ void results() const {
    if (p.q) store_values(p.critic.ensemble);
    if (p.dq) store(here.dq(), p.dq);
    if (p.jacobian && here.speaks) {
      const int pitch = padded(p.A);
      for (int e = 0; e < p.critic.ensemble; e++)
        here.for_numbers([&](int i) {
          p.jacobian[(e * p.rows + here.first_row) * p.A + i] = here.member(e)[i / p.A * pitch + i % p.A];
        });
    }
  }

  __device__ void judge() const {
    if (p.q) store_values(p.judge.ensemble);
    const Judgement& j = p.judgement;
    if ((!j.actions && !j.target) || !here.speaks) return;
    for (int s = ptx::thread() / kLanes; s < here.rows / p.N; s += kWarps) {
      const auto value = [&](int i) { return value_of(p.judge.ensemble, j.aggregate, s * p.N + i); };
      judge_state(j, here.first_state + s, p.N, p.A, here.x() + s * p.N * p.A, value);
    }
  }

  const Place& here;
  const Program& p;
  Bandwidth* bandwidths;
  float* work;
};

}  // namespace vgf::cuda
