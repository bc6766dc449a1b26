// A unit of work: some whole states, or one large state, on their way through the engine.
//
// Every member of the team working on a unit holds a Unit of its own over the same shared memory and calls the same
// phases in the same order (SPMD); phases end with all members in step. Where N fits a tile, a tile is as many states as
// it holds and a unit some such tiles, which go through each network one after the other while its weights are in
// cache; a larger state is a unit of several tiles. What a state computes never depends on the others.
#pragma once

#include "bandwidth.hpp"
#include "kernels.hpp"
#include "packed.hpp"
#include "team.hpp"

namespace vgf::cpu {

// One network of a call and, per unit, what its first layer makes of the observations (computed once a state).
struct Net {
  const PackedMlp* mlp;
  float* observed = nullptr;  // [E][states][row stride]
};

// What a call works on; fixed before any unit starts.
struct Call {
  Sizes sizes;
  FlowOptions options;
  int states_per_tile;  // 0 where a state needs several tiles
  int states_per_unit;
  std::int64_t units;
  long stride;      // of a particle row in struct of arrays: N padded to a panel
  long row_stride;  // of row-major tile buffers
  long max_width;   // of k-major tile buffers
  int max_hidden, max_ensemble;
  long shared_floats, own_floats;  // memory a unit needs, and each member on top

  Call(Sizes, const FlowOptions&, std::initializer_list<const PackedMlp*>, int threads);
};

class Unit {
 public:
  Unit(const Call&, const Member&, float* shared, float* own);

  void begin(std::int64_t unit);
  void observe(Net&, const float* obs, int slot);  // slot: which of the call's networks, 0 to 2

  void load(const float* particles);
  void store(float* out) const { store(x_, out); }
  void store_values(int ensemble, float* out) const;  // q [E, B, N]
  void store_direction(float* out) const { store(phi_, out); }
  void store_gradient(float* out) const { store(dq_, out); }

  void sample(const Net& policy, const float* noise, int euler_steps, const Clip&);
  void evaluate(const Net& critic);               // -> q()
  void gradient(const Net& critic, Aggregate);    // -> q(), dq
  void load_gradient(const float* dq);            // -> dq
  void direction();                               // dq -> phi
  void start_moments();
  void load_moments(const float* first, const float* second);
  void store_moments(float* first, float* second) const;
  void update(int step);                          // phi -> particles

  std::int64_t first_state() const { return first_; }
  int states() const { return states_; }
  // q of critic e, state s of this unit, particle i
  float q(int e, int s, int i) const { return q_[(static_cast<long>(e) * states_ + s) * n_ + i]; }
  float aggregated(int ensemble, Aggregate, int s, int i) const;
  float particle(int s, int a, int i) const { return x_[at(s, a) + i]; }
  const Member& member() const { return member_; }

 private:
  struct Tile {
    int begin, end;  // rows of the unit: state * N + particle
    int rows() const { return end - begin; }
  };
  int tiles() const;
  Tile tile(int t) const;
  long at(int s, int a) const { return (static_cast<long>(s) * dims_ + a) * call_.stride; }
  template <class F>
  void chunks(F f) const;  // f(s, begin, end, chunk) for this member's share of all particles
  void load(const float* from, float* to);
  void store(const float* from, float* out) const;
  void gather(const Tile&);
  struct Activations {
    const float* a;  // k-major
    Active active;
  };
  Active all(int count) const { return {count, all_}; }
  bool skips(const MlpSpec& spec) const {
    return skipping_ && spec.activation == Activation::relu && spec.norm != Norm::post;
  }
  Active active_units(const MlpSpec&, int l) const;
  Active gathered_units(const MlpSpec&, int l) const;
  Activations forward(const Net&, int e, const Tile&, int inputs, bool together = false);
  void product(Gemm, bool rows16, bool together, float* z);
  void backward(const Net&, int e, const Tile&);
  void combine(int ensemble, Aggregate, int s);

  friend struct Call;

  const Call& call_;
  const Member& member_;
  const Kernels& kernels_;
  const bool skipping_;
  const int n_, dims_;
  long shared_floats_, own_floats_;
  std::int64_t first_ = 0;
  int states_ = 0, chunks_per_state_;
  unsigned meetings_ = 0;  // products computed together so far

  // shared by the team
  float *observed_[3], *x_, *dq_, *phi_, *first_moment_, *second_moment_, *q_, *dq_members_, *d2k_, *z_together_[2];
  Bandwidth* bandwidth_;
  // this member's own
  float *input_, *a_[2], *pairs_, *z_, *work_, *dy_, *mean_, *rstd_, *scratch_;
  int *all_, *active_, *active_count_;  // 0, 1, 2, ...; per hidden layer: its active units and their number
};

}  // namespace vgf::cpu
