// A unit of work on its way through the engine.
//
// Every member of the team working on a unit holds a Unit of its own over the same shared memory and calls the same
// phases in the same order (SPMD); phases end with all members in step. What a state computes never depends on the
// others.
#pragma once

#include "bandwidth.hpp"
#include "call.hpp"
#include "group.hpp"
#include "team.hpp"

namespace vgf::cpu {

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
  Unit(const Call&, const Member&, Carver team, Carver own, bool touch);
  int tiles() const;
  Tile tile(int t) const;
  // f(e, first, count) for this member's share of all tiles through all networks of an ensemble, a group at a time
  template <class F>
  void groups(int ensemble, F f) const;
  long at(int s, int a) const { return (static_cast<long>(s) * dims_ + a) * call_.stride; }
  template <class F>
  void chunks(F f) const;  // f(s, begin, end, chunk) for this member's share of all particles
  void load(const float* from, float* to);
  void store(const float* from, float* out) const;
  void gather(int first, int count);
  void values(const Net&, int e, int first, int count);
  void combine(int ensemble, Aggregate, int s);

  friend struct Call;

  const Call& call_;
  const Member& member_;
  const Kernels& kernels_;
  const int n_, dims_;
  long shared_floats_, own_floats_;
  std::int64_t first_ = 0;
  int states_ = 0, chunks_per_state_;

  // shared by the team
  float *observed_[3], *x_, *dq_, *phi_, *first_moment_, *second_moment_, *q_, *dq_members_, *d2k_, *team_median_;
  Bandwidth* bandwidth_;
  float* together_;
  // this member's own
  Group group_;
  float *own_median_, *scratch_;
};

}  // namespace vgf::cpu
