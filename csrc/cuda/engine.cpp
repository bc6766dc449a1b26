// The entry points: each describes its call as a Task, which `enqueue` turns into launches.
#include <limits>
#include <stdexcept>

#include "task.hpp"

namespace vgf::cuda {
namespace {

Task begin(Sizes sizes, const float* obs, const float* start, Precision precision) {
  Task task{};
  task.precision = precision;
  task.obs = obs;
  task.start = start;
  task.sizes = sizes;
  task.first_step = 1;
  return task;
}

// As many as there may be, where the host does not know.
StepCount steps_of(const Options& options) {
  return {options.num_steps_at ? std::numeric_limits<int>::max() : options.num_steps, options.num_steps_at};
}

}  // namespace

std::size_t value(const Network& critic, const float* obs, const float* actions, float* q, Sizes sizes,
                  Workspace workspace) {
  Task task = begin(sizes, obs, actions, critic.precision);
  task.judge = &critic;
  task.q = q;
  return enqueue(task, workspace);
}

std::size_t value_and_grad(const Network& critic, const float* obs, const float* actions, float* q, float* dq,
                           float* jacobian, Sizes sizes, Aggregate aggregate, Workspace workspace) {
  Task task = begin(sizes, obs, actions, critic.precision);
  task.critic = &critic;
  task.options.aggregate = aggregate;
  task.q = q;
  task.dq = dq;
  task.jacobian = jacobian;
  return enqueue(task, workspace);
}

std::size_t direction(const Network& critic, const float* obs, const float* particles, float* phi, Sizes sizes,
                      const FlowOptions& options, Workspace workspace) {
  Task task = begin(sizes, obs, particles, critic.precision);
  task.critic = &critic;
  task.options = options;
  task.phi = phi;
  return enqueue(task, workspace);
}

std::size_t flow(const Network& critic, const float* obs, const float* particles, float* out, bool trajectory,
                 Sizes sizes, const Options& options, Workspace workspace) {
  if (trajectory && options.num_steps_at)
    throw std::invalid_argument("flow: a trajectory has num_steps in its size, so the host must know it");
  Task task = begin(sizes, obs, particles, critic.precision);
  task.critic = &critic;
  task.options = options;
  task.steps = steps_of(options);
  task.particles = out;
  task.trajectory = trajectory;
  return enqueue(task, workspace);
}

std::size_t sample(const Network& policy, const float* obs, const float* noise, float* out, Sizes sizes,
                   StepCount euler_steps, Clip clip, Workspace workspace) {
  Task task = begin(sizes, obs, noise, policy.precision);
  task.policy = &policy;
  task.euler_steps = euler_steps;
  task.options.clip = clip;
  task.particles = out;
  return enqueue(task, workspace);
}

std::size_t act(const Network& critic, const Network& policy, const float* obs, const float* noise, float* out,
                Sizes sizes, StepCount euler_steps, const Options& options, const Selection& selection,
                Workspace workspace) {
  Task task = begin(sizes, obs, noise, critic.precision);
  task.policy = &policy;
  task.critic = task.judge = &critic;
  task.euler_steps = euler_steps;
  task.options = options;
  task.steps = steps_of(options);
  task.selection = selection;
  task.actions = out;
  return enqueue(task, workspace);
}

std::size_t td_target(const Network& critic, const Network& target_critic, const Network& policy, const float* next_obs,
                      const float* noise, float* out, Sizes sizes, StepCount euler_steps, const Options& options,
                      const Target& target, Workspace workspace) {
  Task task = begin(sizes, next_obs, noise, critic.precision);
  task.policy = &policy;
  task.critic = &critic;
  task.judge = &target_critic;
  task.euler_steps = euler_steps;
  task.options = options;
  task.steps = steps_of(options);
  task.reduction = target;
  task.target = out;
  return enqueue(task, workspace);
}

std::size_t update(const float* particles, const float* dq, float* first, float* second, float* out, StepCount step,
                   Sizes sizes, const FlowOptions& options, Workspace workspace) {
  Task task = begin(sizes, nullptr, particles, Precision::fp32);
  task.options = options;
  task.steps = 1;
  task.first_step = step;
  task.given = dq;
  task.first = first;
  task.second = second;
  task.particles = out;
  return enqueue(task, workspace);
}

}  // namespace vgf::cuda
