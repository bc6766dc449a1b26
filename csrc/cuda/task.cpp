#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "launches.hpp"
#include "sm90_latency_layout.hpp"
#include "sm90_layout.hpp"

namespace vgf::cuda {
namespace {

Kernel<Program> tile_kernel_of(Precision precision, int M) {
  switch (precision) {
    case Precision::fp32: return tile_kernel_in<Precision::fp32>(M);
    case Precision::tf32: return tile_kernel_in<Precision::tf32>(M);
    default: return tile_kernel_in<Precision::bf16>(M);
  }
}

Kernel<Program> hopper_tile_kernel_of(Precision precision) {
  switch (precision) {
    case Precision::fp32: return hopper_tile_kernel_in<Precision::fp32>();
    case Precision::tf32: return hopper_tile_kernel_in<Precision::tf32>();
    default: return hopper_tile_kernel_in<Precision::bf16>();
  }
}

Layout layout_of(const Network& n) { return lay_out(n.spec, n.observations, n.critic, n.gradient, n.precision); }

Net net_of(const Network* network) {
  if (!network) return {};
  Net net = layout_of(*network).net;
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
  rule.inverse_scale = 1 / (2 * std::log(static_cast<double>(N) + 1));
  return rule;
}

UpdateRule update_rule(const FlowOptions& o, StepCount first_step) {
  return {o.adam, static_cast<float>(o.learning_rate), o.clip, first_step};
}

}  // namespace

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
  p.update = update_rule(t.options, t.first_step);
  p.given = t.given;
  p.first = t.first;
  p.second = t.second;
  p.q = t.q;
  p.dq = t.dq;
  p.jacobian = t.jacobian;
  p.phi = t.phi;
  p.particles = t.particles;
  p.trajectory = t.trajectory;
  p.judgement = {t.target ? t.reduction.aggregate : t.selection.aggregate, t.reduction.reduce, t.selection.how,
                 t.selection.temperature, t.selection.noise, t.reduction.reward, t.reduction.mask,
                 static_cast<float>(t.reduction.discount), t.actions, t.target};
  return p;
}

namespace {

// The kernels index packed weights by the sizes of the call.
void check_sizes(const Network& n, const Sizes& sizes) {
  const int inputs = sizes.O + sizes.A + (n.critic ? 0 : 1), outputs = n.critic ? 1 : sizes.A;
  if (n.observations != sizes.O || n.spec.widths.front() != inputs || n.spec.widths.back() != outputs)
    throw std::invalid_argument("expected a network from " + std::to_string(inputs) + " inputs, of which " +
                                std::to_string(sizes.O) + " are observations, to " + std::to_string(outputs) +
                                " outputs, got one packed from " + std::to_string(n.spec.widths.front()) + ", of which " +
                                std::to_string(n.observations) + " are, to " + std::to_string(n.spec.widths.back()));
}

void check(const Task& t) {
  if (t.sizes.N > kMostParticles)
    throw std::invalid_argument("the cuda engine takes at most " + std::to_string(kMostParticles) +
                                " particles a state, got " + std::to_string(t.sizes.N) + "; give them more states");
  for (const Network* network : {t.policy, t.critic, t.judge}) {
    if (!network) continue;
    if (network->precision != t.precision)
      throw std::invalid_argument("the networks of a call must be packed in one precision");
    check_sizes(*network, t.sizes);
  }
  const bool differentiates = t.critic && (t.steps.value > 0 || !t.judge);
  if (differentiates && (t.steps.value > 0 || t.dq || t.phi || t.jacobian) && !t.critic->gradient)
    throw std::invalid_argument("the critic was packed without what its gradient needs");
}

void check_alignment(const char* what, const void* memory, std::uintptr_t wanted) {
  if (reinterpret_cast<std::uintptr_t>(memory) % wanted != 0)
    throw std::invalid_argument(std::string(what) + ": expected memory aligned to " + std::to_string(wanted) + " bytes");
}

}  // namespace

Launches::Launches(const Workspace& workspace) : workspace_(workspace), machine_(machine()) {}

void Launches::program(Program p, Precision precision, bool whole_states) {
  const Schedule schedule = fit(p, precision, whole_states, machine_);
  scratch_ = std::max(scratch_, schedule.scratch_bytes);
  if (!real()) return;
  if (needed() > workspace_.bytes)
    throw std::logic_error("the cuda engine planned " + std::to_string(workspace_.bytes) + " bytes of workspace for a call that takes " +
                           std::to_string(needed()) + "; please report this");
  p.scratch = static_cast<unsigned char*>(workspace_.memory) + carver_.used();
  Grid grid{static_cast<unsigned>(schedule.blocks), 1, kThreads, schedule.shared_bytes, schedule.cluster};
  switch (schedule.family) {
    case Family::general: return launch("tile_kernel", tile_kernel_of(precision, schedule.M), grid, p, workspace_.stream);
    case Family::hopper_tiles:
      grid.threads = kHopperThreads;
      return launch("hopper_tile_kernel", hopper_tile_kernel_of(precision), grid, p, workspace_.stream);
    case Family::hopper_latency:
      return launch(schedule.M == kSmallLatencyTile ? "hopper_latency_kernel<16>" : "hopper_latency_kernel<32>",
                    hopper_latency_kernel_of(schedule.M), grid, p, workspace_.stream);
  }
}

std::size_t enqueue(const Task& t, const Workspace& workspace) {
  check(t);
  const bool together = (t.options.kernel && (t.steps.value > 0 || t.phi)) || t.actions || t.target;
  const auto describe = [&](Launches& launches) {
    if (together && t.sizes.N > largest_tile(t.precision))
      describe_wide(t, launches);
    else
      launches.program(program_of(t), t.precision, together);
  };
  Launches planned{{nullptr, 0, workspace.stream}};
  describe(planned);
  const std::size_t needed = planned.needed();
  if (!workspace.memory) return needed;
  if (workspace.bytes < needed)
    throw std::invalid_argument("workspace: expected " + std::to_string(needed) + " bytes, got " +
                                std::to_string(workspace.bytes));
  check_alignment("workspace", workspace.memory, 256);
  Launches launches(workspace);
  describe(launches);
  return needed;
}

int most_in_a_launch(Precision precision) { return largest_tile(precision); }

std::size_t packed_bytes(const Network& network) { return net_of(&network).bytes; }

void pack(const Network& network, const std::vector<LayerWeights>& weights, Stream stream) {
  check_alignment("a packed network", network.packed, 16);
  const Layout layout = layout_of(network);
  const std::vector<PackJob> jobs = pack_jobs(layout, network.spec, weights);
  const unsigned blocks = std::min(64, machine().multiprocessors);  // a job
  std::size_t job = 0, layer = 0;
  while (job < jobs.size() || layer < layout.layers.size()) {
    PackJobs some{};
    some.packed = static_cast<unsigned char*>(network.packed);
    some.first_layer = static_cast<int>(layer);
    some.layers = static_cast<int>(std::min<std::size_t>(kLayersPerLaunch, layout.layers.size() - layer));
    std::copy_n(layout.layers.begin() + layer, some.layers, some.layer);
    const unsigned count = std::min<std::size_t>(kJobsPerLaunch, jobs.size() - job);
    std::copy_n(jobs.begin() + job, count, some.job);
    launch("pack_kernel", pack_kernel_in(network.precision), {blocks, std::max(count, 1u), kThreads, 0}, some, stream);
    job += count;
    layer += some.layers;
  }
}

}  // namespace vgf::cuda
