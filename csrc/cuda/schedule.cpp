#include "schedule.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "sm90_latency_layout.hpp"
#include "sm90_layout.hpp"

namespace vgf::cuda {
namespace {

// How many times d it takes to make n.
constexpr std::int64_t per(std::int64_t n, std::int64_t d) { return (n + d - 1) / d; }

// The largest sizes among the networks of a program.
struct Extent {
  int columns = 0;   // of a product
  int k_blocks = 0;  // of an operand
  int widest = 0, first = 0, hidden = 0, taped = 1, ensemble = 1;
  int fewest_critics = std::numeric_limits<int>::max();
  bool post = false;          // a norm behind an activation
  bool few_normed = false;    // a norm over one or two units: its slope is what cancellation leaves, nothing of it may be rounded
  std::int64_t resident = 0;  // bytes of the hidden products' weights, of 64 columns

  void include(const Net& net, Precision precision) {
    if (!net.present()) return;
    post = post || net.norm == Norm::post;
    few_normed = few_normed || (net.norm != Norm::none && net.narrowest < 3);
    first = std::max(first, net.first_width);
    widest = std::max(widest, net.widest);
    const int out = !net.critic ? net.outputs : net.gradient ? net.inputs : 0;  // of the product that leads out
    columns = std::max({columns, widest, padded(out)});
    for (const int k : {widest, net.inputs, net.observations}) k_blocks = std::max(k_blocks, cuda::k_blocks(k, precision));
    hidden = std::max(hidden, net.hidden);
    if (net.gradient) taped = std::max(taped, net.hidden);
    ensemble = std::max(ensemble, net.ensemble);
    if (net.critic) fewest_critics = std::min(fewest_critics, net.ensemble);
    resident = std::max(resident, std::int64_t{net.hidden - 1} * slice_pitch(net.widest));
  }
};

std::int64_t rows_per_tile(const Program& p, int M, bool whole_states) { return whole_states ? M / p.N * p.N : M; }

// Whole clusters, as many as run at once.
int hopper_blocks(std::int64_t tiles, int at_once, const Machine& machine) {
  return static_cast<int>(std::min<std::int64_t>(round_up(tiles * at_once, kCluster), machine.clusters * kCluster));
}

// Rows of a Hopper tile: in bf16 no more warps have any than it takes to keep all clusters at work equally often. Weights of
// four bytes, and of eight, are as many bytes from L2 that more tiles would take longer.
std::int64_t hopper_rows_per_tile(const Program& p, Precision precision, bool whole_states, int at_once,
                                  const Machine& machine) {
  const std::int64_t most = rows_per_tile(p, kHopperRows, whole_states), at_a_time = machine.clusters * kCluster / at_once;
  if (precision != Precision::bf16) return most;
  const std::int64_t tiles = per(per(p.rows, most), at_a_time) * at_a_time;
  const std::int64_t fewest = whole_states ? per(p.rows / p.N, tiles) * p.N : per(p.rows, tiles);
  return rows_per_tile(p, static_cast<int>(round_up(fewest, kWarpRows)), whole_states);
}

// How much faster all networks are evaluated where `at_once` critics are at a time; sampling has one network.
double gain_of(const Program& p, int at_once) {
  if (at_once == 1) return 1;
  const int members = p.critic.present() ? p.critic.ensemble : p.judge.present() ? p.judge.ensemble : 1;
  const double gain = static_cast<double>(members) / per(members, at_once);
  return p.policy.present() ? (1 + gain) / 2 : gain;
}

// Relative time of a program with tiles of M rows. A tile streams all weights from L2, which is shared by the blocks
// under way, and multiplies M rows with them. Microseconds a 512 x 512 layer in bf16, from public figures of an H200's L2
// bandwidth and mma.sync rates, times five, which an H100 was measured to take; only their ratios matter.
double cost(const Program& p, Precision precision, int M, bool whole_states, const Machine& machine) {
  const std::int64_t rows = rows_per_tile(p, M, whole_states), tiles = per(p.rows, rows);
  const double active = std::min(1.0, static_cast<double>(tiles) / machine.multiprocessors);
  const double weights = (4.7 + 7.8 * active) * element_bytes(precision) / 2;
  const double slower = precision == Precision::bf16 ? 1 : precision == Precision::tf32 ? 2 : 6;
  const double multiply = 0.116 * M * slower, between = 0.02 * M * element_bytes(precision) / 2;
  const std::int64_t waves = per(tiles, machine.multiprocessors);
  return 5 * waves * (std::max(weights, multiply) + between);
}

// The same of Hopper's tile kernels, in bf16 from times on an H100 (sm90_design.md): tiles of 64 rows. Products in tf32 take twice
// as long, in fp32 six times, and what lies between them a fifth longer.
double hopper_cost(const Program& p, Precision precision, int at_once, bool whole_states, const Machine& machine) {
  const std::int64_t rows = rows_per_tile(p, kHopperRows, whole_states), tiles = per(p.rows, rows);
  const int blocks = hopper_blocks(tiles, at_once, machine);
  const std::int64_t waves = per(tiles * at_once, blocks);
  const double layer = (at_once == 1 ? 11.0 : 13.0) * (precision == Precision::bf16 ? 1 : precision == Precision::tf32 ? 1.7 : 4);
  return waves * layer / gain_of(p, at_once);
}

// How the latency kernel's blocks are put together. A team has a block for 64 columns of the widest layer, a cluster a team
// for each member; sizes are powers of two. A block alone has no cluster's shared memory to send to, itself included.
struct Teams {
  int team = 1, cluster, clusters;
  Teams(const Extent& extent, const Machine& machine) {
    while (team * kSlice < extent.widest) team *= 2;
    cluster = std::max(team, 2);
    while (cluster < team * extent.ensemble) cluster *= 2;
    // A GPC has at most 18 multiprocessors. There are eight, so where there are more than 8 x 15 one of them has 16.
    constexpr int most_in_gpc = 18, gpcs = 8;
    clusters = machine.multiprocessors / most_in_gpc * kMostBlocks / cluster;
    if (cluster > kMostPortable && machine.multiprocessors <= gpcs * (kMostBlocks - 1)) clusters = 0;
  }
  bool possible() const { return team <= kMostTeam && cluster <= kMostBlocks && clusters > 0; }
};

// The same of the latency kernel, which runs all members at once, from times on an H100 (sm90_latency.md). In narrow layers
// all kernels wait for latencies.
double latency_cost(const Program& p, int M, bool whole_states, const Teams& teams) {
  const std::int64_t rows = rows_per_tile(p, M, whole_states), tiles = per(p.rows, rows);
  const std::int64_t waves = per(tiles, teams.clusters);
  return waves * (4.4 + 0.06 * M) / gain_of(p, kMostBlocks);
}

struct Shared {
  int stage, stage_a, work;
  std::int64_t bytes;
  Shared(const Extent& extent, int M, bool resident) {
    stage_a = std::min(extent.columns, kChunk) * kBlockBytes;
    stage = stage_a + (resident ? 0 : M * kBlockBytes);
    work = std::max(kStages * stage, pair_bytes(M));
    bytes = kHeadBytes + bandwidth_bytes(M) + work + (resident ? std::int64_t{extent.k_blocks} * M * kBlockBytes : 0);
  }
};

Scratch carve(const Program& p, const Extent& extent, Precision precision, Family family, int M) {
  Carver carver;
  const bool latency = family == Family::hopper_latency;
  const std::int64_t stored = std::int64_t{M} * extent.widest * element_bytes(precision);
  const std::int64_t numbers = std::int64_t{M} * p.A * sizeof(float);
  Scratch s{};
  s.tape = carver.take(extent.taped * (latency ? std::int64_t{kThreads} * kKeptBytes : stored));
  switch (family) {
    case Family::general: s.work = carver.take(stored); break;
    case Family::hopper_tiles: s.work = carver.take(0); break;
    case Family::hopper_latency: s.work = carver.take(2 * (numbers + M * std::int64_t{sizeof(float)}));
  }
  s.stats = carver.take(std::int64_t{extent.hidden} * M * 2 * sizeof(float));
  s.observed = carver.take(std::int64_t{extent.ensemble} * p.states_per_tile * extent.first * sizeof(float));
  s.members = carver.take(std::int64_t{extent.ensemble} * M * padded(p.A) * sizeof(float));
  s.q = carver.take(std::int64_t{extent.ensemble} * M * sizeof(float));
  for (std::int64_t* piece : {&s.x, &s.dq, &s.phi, &s.first, &s.second, &s.repulsion})
    *piece = carver.take(numbers);
  s.a = carver.take(p.resident ? 0 : std::int64_t{extent.k_blocks} * M * kBlockBytes);
  s.bytes = carver.used();
  return s;
}

}  // namespace

Schedule fit(Program& p, Precision precision, bool whole_states, const Machine& machine) {
  p.at_once = 1;
  Extent extent;
  for (const Net* net : {&p.policy, &p.critic, &p.judge}) extent.include(*net, precision);
  Schedule best{Family::general, 0, 0, 1, 0, 0};
  double least = 0;
  for (const bool resident : {true, false}) {
    if (best.M > 0) break;  // activations stay on chip wherever a tile of some height fits
    for (const int M : {32, 64, kLargestTile}) {
      if (M > largest_tile(precision) || (whole_states && M < p.N)) continue;
      const Shared shared(extent, M, resident);
      if (shared.bytes > machine.shared_bytes) continue;
      const double time = cost(p, precision, M, whole_states, machine);
      if (best.M > 0 && time >= least) continue;
      least = time;
      best.M = M;
      best.shared_bytes = static_cast<int>(shared.bytes);
      p.resident = resident;
      p.stage_bytes = shared.stage;
      p.stage_a = shared.stage_a;
      p.work_bytes = shared.work;
    }
  }
  const bool hopper = machine.hopper && !extent.post;
  const auto consider = [&](Family family, int M, std::int64_t shared, int cluster, int at_once, auto cost_of) {
    if (shared > machine.shared_bytes || (whole_states && M < p.N)) return;
    const double time = cost_of();
    if (best.M > 0 && time >= least) return;
    least = time;
    best.family = family;
    best.M = M;
    best.shared_bytes = static_cast<int>(shared);
    best.cluster = cluster;
    p.at_once = at_once;
    p.resident = true;
  };
  const bool in_parts = p.observe_to || p.observed || p.given;  // a part of a call on larger states, or of a transport
  for (const int at_once : {1, kMostAtOnce}) {
    if (!hopper || machine.clusters == 0 || extent.columns > kWidestHopper || extent.few_normed) break;
    if (at_once > 1 && (in_parts || extent.fewest_critics < at_once)) break;
    consider(Family::hopper_tiles, kHopperRows, hopper_shared_bytes(precision, extent.k_blocks), kCluster, at_once,
             [&] { return hopper_cost(p, precision, at_once, whole_states, machine); });
  }
  const Teams teams(extent, machine);
  if (hopper && precision == Precision::bf16 && teams.possible() && !in_parts)
    for (const int M : {kSmallLatencyTile, kLargestLatencyTile})
      consider(Family::hopper_latency, M, latency_shared_bytes(M, teams.team, extent.resident), teams.cluster, 1,
               [&] { return latency_cost(p, M, whole_states, teams); });
  if (best.M == 0)
    throw std::invalid_argument("the cuda engine needs more than the " + std::to_string(machine.shared_bytes) +
                                " bytes of shared memory that a block of this device has; use another engine");
  p.rows_per_tile = static_cast<int>(best.family == Family::hopper_tiles
                                         ? hopper_rows_per_tile(p, precision, whole_states, p.at_once, machine)
                                         : rows_per_tile(p, best.M, whole_states));
  p.tiles = per(p.rows, p.rows_per_tile);
  p.states_per_tile = whole_states ? p.rows_per_tile / p.N : std::min(p.rows_per_tile, (p.rows_per_tile - 2) / p.N + 2);
  p.team = teams.team;
  p.at = carve(p, extent, precision, best.family, best.M);
  switch (best.family) {
    case Family::general:
      best.blocks = static_cast<int>(std::min<std::int64_t>(p.tiles, machine.multiprocessors));
      break;
    case Family::hopper_tiles: best.blocks = hopper_blocks(p.tiles, p.at_once, machine); break;
    case Family::hopper_latency:
      best.blocks = static_cast<int>(std::min<std::int64_t>(p.tiles, teams.clusters)) * teams.cluster;
  }
  best.scratch_bytes = best.blocks * p.at.bytes;
  return best;
}

}  // namespace vgf::cuda
