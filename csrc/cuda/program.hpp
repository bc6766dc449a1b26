// What the tile kernel is told: one struct of numbers and pointers, by value in its parameters.
#pragma once

#include "layout.hpp"
#include "vgf/cuda.hpp"

namespace vgf::cuda {

constexpr int kMostParticles = 1 << 30;  // a state; particles of a state are numbered by int

// Where a block's private scratch holds what; bytes from its start. M rows a tile, pitches padded to kGroup.
struct Scratch {
  std::int64_t tape;      // [hidden, or 1 without gradient][M][max width], stored format: z of every layer
  std::int64_t work;      // [M][max width], stored format: gradients on their way down; of Hopper's kernels, nothing or others
  std::int64_t stats;     // [hidden][M][2] floats: mean and 1 / std
  std::int64_t observed;  // [E][states a tile][first width] floats
  std::int64_t members;   // [E][M][padded A] floats: a member's dq; the velocity
  std::int64_t q;         // [E][M] floats
  std::int64_t x, dq, phi, first, second, repulsion;  // [M][A] floats each
  std::int64_t a;         // [k-blocks][M][64 bytes], where shared memory does not hold the activations
  std::int64_t bytes;
};

// What a number is by the time the kernel runs.
VGF_INLINE int counted(const StepCount& count) {
  const int there = count.at ? *count.at : count.value;
  return there > 0 ? there : 0;
}

struct PairwiseRule {
  bool kernel, median, through;  // through: differentiate the bandwidth too
  float fixed_gamma, inverse_alpha, inverse_n;
  double inverse_scale;  // 1 / (2 ln(N + 1))
};

struct UpdateRule {
  bool adam;
  float learning_rate;
  Clip clip;
  StepCount first_step;  // its number, from 1
};

// How a state's values become one result.
struct Judgement {
  Aggregate aggregate;
  Reduce reduce;
  Select select;
  float temperature;
  const float* select_noise;   // [B, N], or null for Select::max
  const float *reward, *mask;  // [B]
  float discount;
  float* actions;  // [B, A], or null
  float* target;   // [B], or null
};

// A launch of the tile kernel does, tile by tile, what is asked for, in this order:
//   particles = start; sampled by the policy, if there is one
//   gradient of the critic, and its results q, dq, jacobian; the direction phi
//   `steps` times: gradient (or the given dq), direction, update
//   q of `judge`, stored or reduced
struct Program {
  Net policy, critic, judge;
  std::int64_t B, rows;  // rows = B N
  std::int64_t tiles;
  int N, A, O, rows_per_tile;

  const float* obs;       // [B, O]
  const float* start;     // [B, N, A] noise or particles
  float* observed;        // [E, B, padded(first width)] of the one net of this launch, if known already, else null
  float* observe_to;      // the same, to be computed; nothing else is done then

  StepCount euler_steps;
  Clip sample_clip;

  bool differentiate;  // q, dq, jacobian or phi is asked for
  StepCount steps;
  Aggregate aggregate;
  PairwiseRule pairwise;
  UpdateRule update;
  const float* given;      // [B, N, A] the caller's gradient, for one step
  float *first, *second;   // [B, N, A] the caller's moments, or null

  // results, each null where not asked for
  float* q;          // [E, B, N]
  float* dq;         // [B, N, A]
  float* jacobian;   // [E, B, N, A]
  float* phi;        // [B, N, A]
  float* particles;  // [B, N, A], or [L+1, B, N, A] with `trajectory`
  bool trajectory;
  Judgement judgement;

  unsigned char* scratch;
  Scratch at;
  int states_per_tile;  // at most
  bool resident;        // the activations lie in shared memory
  int team;             // of the latency kernel: blocks that hold a member
  int at_once = 1;      // of Hopper's tile kernel: critics that blocks of a cluster evaluate side by side
  int stage_bytes, stage_a, work_bytes;
};
static_assert(sizeof(Program) <= 4096, "kernel parameters hold 4 KB");

constexpr int kHeadBytes = 128;  // the number of the tile

// Shared memory of the tile kernel: a head, the bandwidths of its states, then stages (or, between products, the work of the
// pairwise part), then the activations where they fit.
struct Bandwidth {
  float gamma;
  float pull;             // of the gradient through the median; 0 where there is none
  short row[2], column[2];  // its middle entries; row -1: absent
};
constexpr int kDigitBits = 8, kBins = 1 << kDigitBits;
constexpr int kCounts = kBins + 8;  // and the flags beside them
constexpr int kPairColumns = 32;    // particles j that the interaction takes at a time
constexpr int kPairPitch = kPairColumns + 1;
// A state of so few particles and numbers each is a warp's: tile/warp_step.cuh.
constexpr int kFewParticles = 19, kFewDims = 32, kFewKernelPitch = 20;
constexpr int kFewPitch = kFewKernelPitch + 2 * kFewDims + 12;  // floats a particle
static_assert(kFewPitch % 4 == 0 && 12 * kFewParticles >= kFewParticles * (kFewParticles - 1) / 2 + 3 + 8);
VGF_HD constexpr int bandwidth_bytes(int M) { return round_up(M * static_cast<int>(sizeof(Bandwidth)), 128); }
VGF_HD constexpr int pair_bytes(int M) {
  const int kernel = M * (kFewPitch > kPairPitch ? kFewPitch : kPairPitch) * static_cast<int>(sizeof(float));
  const int counts = kCounts * static_cast<int>(sizeof(unsigned));
  return round_up(kernel > counts ? kernel : counts, 128);
}

}  // namespace vgf::cuda
