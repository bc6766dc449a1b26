// The order in which the networks of a program see a tile: what follows what, and nothing of what happens in between.
#pragma once

#include "../program.hpp"

namespace vgf::cuda {

enum class Role { start, policy, critic, judge, end };

// One network on the tile: what its first layer makes of the observations, of all members; or one member forward, and back
// where its gradient is wanted.
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

// The pass behind this one; Role::end behind the last.
VGF_HD inline Pass following(const Program& p, const Pass& pass) {
  if (p.observe_to) return pass.role == Role::start ? Pass{Role::critic, true, 0, 0} : Pass{Role::end, false, 0, 0};
  if (pass.observes) return {pass.role, false, 0, 0};
  if (pass.role != Role::start) {
    if (pass.member + 1 < net_of(p, pass).ensemble) return {pass.role, false, pass.round, pass.member + 1};
    if (pass.round + 1 < rounds_of(p, pass.role)) return {pass.role, false, pass.round + 1, 0};
  }
  for (int role = static_cast<int>(pass.role) + 1; role < static_cast<int>(Role::end); role++)
    if (rounds_of(p, Role(role)) > 0) return {Role(role), !p.observed, 0, 0};
  return {Role::end, false, 0, 0};
}

}  // namespace vgf::cuda
