// The order in which the networks of a program see a tile: what follows what, and nothing of what happens in between.
#pragma once

#include "../program.hpp"

namespace vgf::cuda {

enum class Role { start, policy, critic, judge, end };

// One network on the tile: what its first layer makes of the observations, of all members that are evaluated here; or one
// member forward, and back where its gradient is wanted.
struct Pass {
  Role role = Role::start;
  bool observes = false;
  int round = 0, member = 0;  // round: the Euler step, the step of the flow
};

VGF_HD inline const Net& net_of(const Program& p, const Pass& pass) {
  return pass.role == Role::policy ? p.policy : pass.role == Role::critic ? p.critic : p.judge;
}
VGF_HD inline int rounds_of(const Program& p, Role role) {
  switch (role) {
    case Role::policy: return p.policy.present() ? counted(p.euler_steps) : 0;
    case Role::critic: return p.critic.present() && !p.given ? (p.differentiate ? 1 : counted(p.steps)) : 0;
    default: return p.judge.present() ? 1 : 0;
  }
}

// Where critics are evaluated side by side, a side takes every at_once-th, from its own number on; a policy all of them take.
VGF_HD inline int first_member(Role role, int side) { return role == Role::policy ? 0 : side; }
VGF_HD inline int members_apart(const Program& p, Role role) { return role == Role::policy ? 1 : p.at_once; }
// Whether no member follows in this round: of this side, and every side has one that is its last.
VGF_HD inline bool ends_round(const Program& p, const Pass& pass) {
  return !pass.observes && pass.member + members_apart(p, pass.role) >= net_of(p, pass).ensemble;
}

// The pass behind this one; Role::end behind the last.
VGF_HD inline Pass following(const Program& p, const Pass& pass, int side = 0) {
  if (p.observe_to) return pass.role == Role::start ? Pass{Role::critic, true, 0, 0} : Pass{Role::end, false, 0, 0};
  if (pass.observes) return {pass.role, false, 0, pass.member};
  if (pass.role != Role::start) {
    if (!ends_round(p, pass)) return {pass.role, false, pass.round, pass.member + members_apart(p, pass.role)};
    if (pass.round + 1 < rounds_of(p, pass.role)) return {pass.role, false, pass.round + 1, first_member(pass.role, side)};
  }
  for (int role = static_cast<int>(pass.role) + 1; role < static_cast<int>(Role::end); role++)
    if (rounds_of(p, Role(role)) > 0) return {Role(role), !p.observed, 0, first_member(Role(role), side)};
  return {Role::end, false, 0, 0};
}

}  // namespace vgf::cuda
