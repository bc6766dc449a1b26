// Host-side decisions about a launch, in plain C++: how many rows a tile has, where the activations lie, what a block's
// scratch holds. Nothing here touches a GPU.
#pragma once

#include "program.hpp"

namespace vgf::cuda {

// What a launch is fitted to.
struct Machine {
  int multiprocessors;
  int shared_bytes;  // most a block may ask for
  bool hopper;       // of compute capability 9.0, whose own kernels are in this build
  int clusters;      // of its tile kernel that run at once
};

// Which kernel takes a program: the general one, or one of Hopper's: tiles of many particles (sm90_layout.hpp), or few of
// them in a cluster that keeps the weights (sm90_latency_layout.hpp).
enum class Family { general, hopper_tiles, hopper_latency };

constexpr int kLargestTile = 128;
VGF_HD constexpr int largest_tile(Precision precision) { return precision == Precision::bf16 ? 128 : 64; }

struct Schedule {
  Family family;
  int M;             // rows of a tile, of which whole states fill what they can
  int blocks;        // of the grid; each, or each cluster of hopper_latency, walks over tiles
  int cluster;       // blocks of a cluster
  int shared_bytes;  // of a block
  std::int64_t scratch_bytes;  // of all blocks
};
// Fits a program to a machine: fills in tiles, rows_per_tile, states_per_tile, the scratch layout and the shared memory.
// Hopper's kernels take networks with a norm before the activation or none, as wide as fits, on tiles in any precision, in a
// cluster in bf16; among what can run the program, a cost model decides.
// whole_states: the tile does what its particles do together, so that N <= largest_tile(precision).
Schedule fit(Program&, Precision, bool whole_states, const Machine&);

// Cuts pieces out of memory, each aligned to 256 bytes.
class Carver {
 public:
  std::int64_t take(std::int64_t bytes) {
    const std::int64_t at = used_;
    used_ = round_up(used_ + bytes, 256);
    return at;
  }
  std::int64_t used() const { return used_; }

 private:
  std::int64_t used_ = 0;
};

}  // namespace vgf::cuda
