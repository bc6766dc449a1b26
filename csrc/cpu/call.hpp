// What a call works on, and how its particles are cut into pieces.
//
// A tile is up to kTileRows particles: as many whole states as it holds, or a piece of one large state. A group is some
// tiles that go through a network together. A unit is some whole states, or one large state, that a thread or the team
// takes through the whole call.
#pragma once

#include <initializer_list>

#include "kernels.hpp"
#include "packed.hpp"

namespace vgf::cpu {

constexpr int kGroupTiles = 16;   // most tiles of a group, and of a unit of small states
constexpr int kUnitStates = 32;  // most states of a unit

// Hands out pieces of one block of memory, aligned to cache lines. With a null base it only counts.
class Carver {
 public:
  explicit Carver(float* base) : base_(base) {}
  float* take(long count) {
    float* piece = base_ ? base_ + used_ : nullptr;
    used_ += padded(count);
    return piece;
  }
  int* take_ints(long count) {
    static_assert(sizeof(int) == sizeof(float), "the carver counts in floats");
    return reinterpret_cast<int*>(take(count));
  }
  long used() const { return used_; }

 private:
  float* base_;
  long used_ = 0;
};

// One network of a call and, per unit, what its first layer makes of the observations (computed once a state).
struct Net {
  const PackedMlp* mlp;
  float* observed = nullptr;  // [E][states][row stride]
};

// Fixed before any unit starts.
struct Call {
  Sizes sizes;
  FlowOptions options;
  int states_per_tile;  // 0 where a state needs several tiles
  int states_per_unit;
  int group_tiles;  // tiles of the largest group
  std::int64_t units;
  std::int64_t tasks;  // of a unit, that a team divides: its tiles through every critic
  int members;         // of a team
  long stride;      // of a particle row in struct of arrays: N padded to a panel
  long row_stride;  // of row-major tile buffers
  long max_width;   // of k-major tile buffers
  int max_hidden, max_ensemble;
  long shared_floats, own_floats;  // memory a unit needs, and each member on top

  // policy: of a call that samples, else null
  Call(Sizes, const FlowOptions&, std::initializer_list<const PackedMlp*> critics, const PackedMlp* policy, int threads);
};

}  // namespace vgf::cpu
