#include "task.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "runtime.hpp"

namespace vgf::cuda {
namespace {

Kernel<Program> tile_kernel_of(Precision precision, int M) {
  switch (precision) {
    case Precision::fp32: return tile_kernel_in<Precision::fp32>(M);
    case Precision::tf32: return tile_kernel_in<Precision::tf32>(M);
    default: return tile_kernel_in<Precision::bf16>(M);
  }
}

Net net_of(const Network* network) {
  if (!network) return {};
  Net net = lay_out(network->spec, network->observations, network->critic, network->gradient, network->precision);
  net.packed = static_cast<const unsigned char*>(network->packed);
  return net;
}

PairwiseRule pairwise_rule(const FlowOptions& o, std::int64_t N) {
  PairwiseRule rule{};
  rule.kernel = o.kernel;
  rule.median = o.median;
  rule.through = o.median && o.bandwidth_grad;
  rule.fixed_gamma = static_cast<float>(1 / (1e-6 + 2 * o.sigma * o.sigma));
  rule.inverse_alpha = static_cast<float>(1 / o.alpha);
  rule.inverse_n = 1.0f / static_cast<float>(N);
  rule.scale = 2 * std::log(static_cast<double>(N) + 1);
  return rule;
}

UpdateRule update_rule(const FlowOptions& o, int steps_before) {
  return {o.adam, static_cast<float>(o.learning_rate), o.clip, std::pow(0.9, steps_before), std::pow(0.999, steps_before)};
}

// The program of a task whose states fit tiles, or whose particles have nothing to do with each other.
Program program_of(const Task& t) {
  Program p{};
  p.policy = net_of(t.policy);
  p.critic = net_of(t.critic);
  p.judge = net_of(t.judge);
  p.B = t.sizes.B;
  p.N = static_cast<int>(t.sizes.N);
  p.rows = t.sizes.B * t.sizes.N;
  p.A = t.sizes.A;
  p.O = t.sizes.O;
  p.obs = t.obs;
  p.start = t.start;
  p.euler_steps = t.euler_steps;
  p.sample_clip = t.options.clip;
  p.differentiate = t.critic && !t.particles && !t.judge;
  p.steps = t.steps;
  p.aggregate = t.options.aggregate;
  p.pairwise = pairwise_rule(t.options, t.sizes.N);
  p.update = update_rule(t.options, t.steps_before);
  p.given = t.given;
  p.first = t.first;
  p.second = t.second;
  p.q = t.q;
  p.dq = t.dq;
  p.jacobian = t.jacobian;
  p.phi = t.phi;
  p.particles = t.particles;
  p.trajectory = t.trajectory;
  p.actions = t.actions;
  p.target = t.target;
  p.judge_aggregate = t.target ? t.reduction.aggregate : t.selection.aggregate;
  p.reduce = t.reduction.reduce;
  p.select = t.selection.how;
  p.temperature = t.selection.temperature;
  p.select_noise = t.selection.noise;
  p.reward = t.reduction.reward;
  p.mask = t.reduction.mask;
  p.discount = static_cast<float>(t.reduction.discount);
  return p;
}

void check_networks(const Task& t) {
  for (const Network* network : {t.policy, t.critic, t.judge})
    if (network && network->precision != t.precision)
      throw std::invalid_argument("the networks of a call must be packed in one precision");
  const bool differentiates = t.critic && (t.steps > 0 || !t.judge);
  if (differentiates && t.steps + (t.dq || t.phi || t.jacobian) > 0 && !t.critic->gradient)
    throw std::invalid_argument("the critic was packed without what its gradient needs");
}

class Workroom {
 public:
  explicit Workroom(const Workspace& workspace) : workspace_(workspace) {}
  unsigned char* take(std::int64_t bytes) {
    const std::int64_t at = carver_.take(bytes);
    return workspace_.memory ? static_cast<unsigned char*>(workspace_.memory) + at : nullptr;
  }
  // Whether to enqueue, now that all pieces are taken.
  bool given() const {
    if (!workspace_.memory) return false;
    if (workspace_.bytes < needed())
      throw std::invalid_argument("workspace: expected " + std::to_string(needed()) + " bytes, got " +
                                  std::to_string(workspace_.bytes));
    return true;
  }
  std::size_t needed() const { return std::max<std::int64_t>(carver_.used(), 256); }

 private:
  const Workspace& workspace_;
  Carver carver_;
};

}  // namespace

std::size_t enqueue(const Task& t, const Workspace& workspace) {
  check_networks(t);
  Program p = program_of(t);
  const bool together = (t.options.kernel && (t.steps > 0 || t.phi)) || t.actions || t.target;
  Workroom room(workspace);
  const Schedule schedule = fit(p, t.precision, together, machine());
  p.scratch = room.take(schedule.scratch_bytes);
  if (room.given())
    launch("tile_kernel", tile_kernel_of(t.precision, schedule.M),
           {static_cast<unsigned>(schedule.blocks), 1, kThreads, schedule.shared_bytes}, p, workspace.stream);
  return room.needed();
}

std::size_t packed_bytes(const Network& network) { return net_of(&network).bytes; }

void pack(const Network& network, const std::vector<LayerWeights>& weights, Stream stream) {
  const Net net = net_of(&network);
  const std::vector<PackJob> jobs = pack_jobs(net, network.spec, weights);
  constexpr unsigned blocks = 64;  // a job
  for (std::size_t first = 0; first < jobs.size(); first += kJobsPerLaunch) {
    PackJobs some{static_cast<unsigned char*>(network.packed), {}};
    const unsigned count = std::min<std::size_t>(kJobsPerLaunch, jobs.size() - first);
    std::copy_n(jobs.begin() + first, count, some.job);
    launch("pack_kernel", pack_kernel_in(network.precision), {blocks, count, kThreads, 0}, some, stream);
  }
}

}  // namespace vgf::cuda
