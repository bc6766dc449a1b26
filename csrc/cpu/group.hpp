// Tiles on their way through the layers of a network.
//
// Loop order: layer, slice of its weights, tile. A slice is small enough to stay in L2 while every tile of the group
// passes; only its first tile waits for L3. Cost model, a 512-wide fp32 layer (1 MB) and a tile of 10 rows: 5.2 MFLOP
// take 29 us at 178 GFLOP/s; a core that streams 1 MB from L3 for each tile reaches 130 GFLOP/s where it was measured,
// so of 37 us a group of 8 saves 7. The tiles' own numbers (140 KB for 10 rows and 4 hidden layers) must stay in L2 too:
// with 16 tiles on a core of 1 MB, norms and activations took twice as long. But where only two fit (512 KB, Zen 3), whose
// share of L3 did not hold the weights of two critics either, 8 took 0.78 to 1.04 of the time, 0.9 in the median of ten runs.
#pragma once

#include "call.hpp"
#include "team.hpp"

namespace vgf::cpu {

struct Tile {
  int begin, end;  // rows of the unit: state * N + particle
  int rows() const { return end - begin; }
};

class Group {
 public:
  // `own`: this member's memory; `together`: two tiles of shared memory
  Group(const Call&, const Member&, Carver& own, float* together, bool touch);
  static long together_floats(const Call& call) { return 2 * kTileRows * call.row_stride; }
  // Tiles of `rows` whose activations and gradients stay in L2 beside a slice of weights, or more where those would be few.
  static int tiles_in_cache(const Call&, int rows);

  // Rows of a tile that a product takes together, and what it takes of them.
  struct Part {
    int begin, end;
    Active k;
    const float* a;  // from its first row on
  };
  // A tile's own memory.
  struct Passenger {
    Tile tile;
    float* input;  // blocked: what the first layer takes besides the observations
    float* a;      // what the next product takes: forward, the last activations; backward, the gradient of the last
                   // Dense output
    float* z;      // row-major, per hidden layer, as HiddenForward leaves it
    float* dy;     // row-major: the gradient of the last layer's input
    float *mean, *rstd;
    ActiveUnits* active;   // per hidden layer
    int parts;             // of the product under way: how many of the following
    Part part[kMaxParts];
    ColumnPlan* columns;
  };
  Passenger& operator[](int i) { return passengers_[i]; }

  // Runs the hidden layers of member e on the first `count` passengers' input. `states` of the unit have observations.
  // Together: all members of the team run the same tile and share its products.
  void forward(const Net&, int e, int count, int states, int inputs, bool together = false);
  // The last layer, after forward: [rows][outputs] in `dy`.
  void output(const Net&, int e, int count);
  // The same for one output: q[row].
  void head(const Net&, int e, int i, float* q);
  // Pulls the head's weights back to the input: row-major in `dy`, the actions from column first_action() on.
  void backward(const Net&, int e, int count);
  int first_action() const { return call_.sizes.O % kPanel; }
  // k = 0, 1, ..., count - 1
  Active all(int count) const { return {count, all_, nullptr}; }

 private:
  bool skips(const PackedMlp& mlp, int e) const {
    const MlpSpec& spec = mlp.spec();
    return skipping_ && mlp.finite(e) && spec.activation == Activation::relu && spec.norm != Norm::post;
  }
  bool follows(const PackedLayer&) const;
  Panels after(const Net&, int e, int l) const;
  void whole(Passenger&, const Active& k, const float* a) const;
  bool gathers(const PackedMlp&, int e, const PackedLayer&) const;
  Operand dense(const PackedLayer&) const;
  Operand operand(const PackedMlp&, int e, const PackedLayer&) const;
  void take_active(Passenger&, const ActiveUnits&, long row_stride) const;
  template <class F>
  void products(int count, void (*run)(const Gemm&), F product, const Panels& after);
  void pull(const PackedLayer&, int count, int below);
  void share(const Passenger&, Gemm, void (*run)(const Gemm&), int panel_width);

  const Call& call_;
  const Member& member_;
  const Kernels& kernels_;
  const bool skipping_;
  unsigned meetings_ = 0;  // products computed together so far
  Passenger passengers_[kGroupTiles];
  float* work_;
  int* all_;        // 0, 1, 2, ...
  Active actions_;  // the actions among the columns that `backward` computes of the first layer
  float* together_[2];
};

}  // namespace vgf::cpu
