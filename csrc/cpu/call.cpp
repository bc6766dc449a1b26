#include "call.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "unit.hpp"

namespace vgf::cpu {
namespace {

constexpr std::int64_t kMostParticles = 1 << 30;  // of a state, counted in 32 bits

}  // namespace

Call::Call(Sizes s, const FlowOptions& o, std::initializer_list<const PackedMlp*> critics, const PackedMlp* policy, int threads)
    : sizes(s), options(o) {
  if (s.B < 1 || s.N < 1 || s.A < 1 || s.O < 0)  // of an exported graph nobody else looks
    throw std::invalid_argument("expected at least one state, particle and action dimension, got B = " + std::to_string(s.B) +
                                ", N = " + std::to_string(s.N) + ", A = " + std::to_string(s.A) + "; skip empty calls");
  if (s.N > kMostParticles)
    throw std::invalid_argument("the cpu engine takes at most " + std::to_string(kMostParticles) +
                                " particles a state, got " + std::to_string(s.N) + "; give them more states");
  states_per_tile = static_cast<int>(kTileRows / s.N);
  states_per_unit = 1;
  std::int64_t tiles = (s.N + kTileRows - 1) / kTileRows;  // of a unit
  if (states_per_tile > 0) {
    // Several units a thread, so that threads end together.
    const std::int64_t share = s.B / states_per_tile / (4 * std::max(threads, 1));
    const std::int64_t most = std::clamp<std::int64_t>(share, 1, std::min(kGroupTiles, kUnitStates / states_per_tile));
    states_per_unit = static_cast<int>(std::min<std::int64_t>(most * states_per_tile, s.B));
    tiles = (states_per_unit + states_per_tile - 1) / states_per_tile;
  }
  group_tiles = static_cast<int>(std::min<std::int64_t>(tiles, kGroupTiles));
  units = (s.B + states_per_unit - 1) / states_per_unit;
  stride = padded(s.N);
  max_width = 0, max_hidden = 0, max_ensemble = 1;
  const auto make_room = [&](const PackedMlp& net) {
    max_width = std::max(max_width, net.max_width());
    max_hidden = std::max(max_hidden, net.spec().hidden());
    max_ensemble = std::max(max_ensemble, net.spec().ensemble);
  };
  for (const PackedMlp* critic : critics) make_room(*critic);
  if (policy) make_room(*policy);
  tasks = tiles * max_ensemble;
  // Where nobody evaluates a critic, all divide the panels of every product.
  if (policy && critics.size() == 0) tasks = std::max<std::int64_t>(tasks, threads);
  members = policy ? threads : static_cast<int>(std::min<std::int64_t>(threads, tasks));
  // One panel more than the widest keeps rows from falling on the same cache sets; action gradients may straddle one.
  row_stride = std::max(max_width, padded(s.A) + kPanel) + kPanel;
  const int tile_rows = states_per_tile > 0 ? static_cast<int>(states_per_tile * s.N) : kTileRows;
  group_tiles = std::min(group_tiles, Group::tiles_in_cache(*this, tile_rows));
  const Member alone;
  const Unit counted(*this, alone, nullptr, nullptr);  // touches no memory
  shared_floats = counted.shared_floats_;
  own_floats = counted.own_floats_;
}

}  // namespace vgf::cpu
