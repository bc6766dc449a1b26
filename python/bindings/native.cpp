// The seam between Python and the CPU engine: names to enums, addresses to pointers, and the GIL let go.
// The frontends have checked shapes, dtypes and contiguity; see vgf_kernels/_native.pyi for the signatures.
#include "shared.hpp"
#include "vgf/cpu.hpp"

using namespace vgf;
using namespace vgf::bindings;

namespace {

using Packed = std::shared_ptr<const cpu::PackedMlp>;

struct PackedHandle {
  Packed packed;
};

PackedHandle pack(const std::vector<int>& widths, int ensemble, const std::string& activation, const std::string& norm,
                  float norm_eps, const std::vector<Weights>& weights, bool gradient, int threads,
                  const std::string& precision) {
  const MlpSpec spec = mlp_spec(widths, ensemble, activation, norm, norm_eps);
  const std::vector<LayerWeights> layers = layer_weights(weights);
  const py::gil_scoped_release free;
  return {cpu::pack(spec, layers, gradient, precision_of(precision), threads)};
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "The compiled CPU engine: raw pointers and sizes, checked by the caller.";
  m.def("isa", &cpu::isa);
  m.def("supported_isas", &cpu::supported_isas);
  m.def(
      "fingerprint",
      [](const std::vector<std::pair<Address, std::size_t>>& buffers, int threads) {
        std::vector<std::pair<const void*, std::size_t>> views;
        for (const auto& [address, bytes] : buffers) views.emplace_back(in(address), bytes);
        const py::gil_scoped_release free;
        return cpu::fingerprint(views, threads);
      },
      py::arg("buffers"), py::arg("threads"));

  py::class_<PackedHandle>(m, "PackedMLP")
      .def(py::init(&pack), py::arg("widths"), py::arg("ensemble"), py::arg("activation"), py::arg("norm"),
           py::arg("norm_eps"), py::arg("weights"), py::arg("gradient"), py::arg("threads"), py::arg("precision"));

  define_flow_options(m);

  m.def(
      "value",
      [](const PackedHandle& critic, Address obs, Address actions, Address q, std::int64_t B, std::int64_t N, int O,
         int A, int threads) {
        cpu::value(*critic.packed, in(obs), in(actions), out(q), {B, N, O, A}, threads);
      },
      GilFree(), py::arg("critic"), py::arg("obs"), py::arg("actions"), py::arg("q"), py::arg("B"), py::arg("N"),
      py::arg("O"), py::arg("A"), py::arg("threads"));
  m.def(
      "value_and_grad",
      [](const PackedHandle& critic, Address obs, Address actions, Address q, Address dq, std::int64_t B,
         std::int64_t N, int O, int A, const std::string& agg, int threads) {
        cpu::value_and_grad(*critic.packed, in(obs), in(actions), out(q), out(dq), {B, N, O, A},
                            aggregate_of(agg), threads);
      },
      GilFree(), py::arg("critic"), py::arg("obs"), py::arg("actions"), py::arg("q"), py::arg("dq"), py::arg("B"),
      py::arg("N"), py::arg("O"), py::arg("A"), py::arg("aggregate"), py::arg("threads"));
  m.def(
      "direction",
      [](const PackedHandle& critic, Address obs, Address particles, Address phi, std::int64_t B, std::int64_t N,
         int O, int A, const FlowOptions& options, int threads) {
        cpu::direction(*critic.packed, in(obs), in(particles), out(phi), {B, N, O, A}, options, threads);
      },
      GilFree(), py::arg("critic"), py::arg("obs"), py::arg("particles"), py::arg("phi"), py::arg("B"), py::arg("N"),
      py::arg("O"), py::arg("A"), py::arg("options"), py::arg("threads"));
  m.def(
      "flow",
      [](const PackedHandle& critic, Address obs, Address particles, Address result, bool trajectory, std::int64_t B,
         std::int64_t N, int O, int A, const FlowOptions& options, int threads) {
        cpu::flow(*critic.packed, in(obs), in(particles), out(result), trajectory, {B, N, O, A}, options, threads);
      },
      GilFree(), py::arg("critic"), py::arg("obs"), py::arg("particles"), py::arg("out"), py::arg("trajectory"),
      py::arg("B"), py::arg("N"), py::arg("O"), py::arg("A"), py::arg("options"), py::arg("threads"));
  m.def(
      "sample",
      [](const PackedHandle& policy, Address obs, Address noise, Address result, std::int64_t B, std::int64_t N, int O,
         int A, int num_steps, const Bounds& bounds, int threads) {
        cpu::sample(*policy.packed, in(obs), in(noise), out(result), {B, N, O, A}, num_steps, clip(bounds), threads);
      },
      GilFree(), py::arg("policy"), py::arg("obs"), py::arg("noise"), py::arg("out"), py::arg("B"), py::arg("N"),
      py::arg("O"), py::arg("A"), py::arg("num_steps"), py::arg("clip").none(true), py::arg("threads"));
  m.def(
      "act",
      [](const PackedHandle& critic, const PackedHandle& policy, Address obs, Address noise, Address select_noise,
         Address result, std::int64_t B, std::int64_t N, int O, int A, int euler_steps, const FlowOptions& options,
         const std::string& select, float temperature, const std::string& agg, int threads) {
        const Select how = select_of(select);
        if (how != Select::max && !select_noise) throw std::invalid_argument("select_noise is missing");
        cpu::act(*critic.packed, *policy.packed, in(obs), in(noise), out(result), {B, N, O, A}, euler_steps, options,
                 {how, temperature, aggregate_of(agg), in(select_noise)}, threads);
      },
      GilFree(), py::arg("critic"), py::arg("policy"), py::arg("obs"), py::arg("noise"), py::arg("select_noise"),
      py::arg("out"), py::arg("B"), py::arg("N"), py::arg("O"), py::arg("A"), py::arg("euler_steps"),
      py::arg("options"), py::arg("select"), py::arg("temperature"), py::arg("aggregate"), py::arg("threads"));
  m.def(
      "td_target",
      [](const PackedHandle& critic, const PackedHandle& target_critic, const PackedHandle& policy, Address next_obs,
         Address noise, Address reward, Address mask, Address result, std::int64_t B, std::int64_t N, int O, int A,
         double discount, int euler_steps, const FlowOptions& options, const std::string& agg,
         const std::string& reduce, int threads) {
        cpu::td_target(*critic.packed, *target_critic.packed, *policy.packed, in(next_obs), in(noise), out(result),
                       {B, N, O, A}, euler_steps, options, {in(reward), in(mask), discount, aggregate_of(agg), reduce_of(reduce)},
                       threads);
      },
      GilFree(), py::arg("critic"), py::arg("target_critic"), py::arg("policy"), py::arg("next_obs"),
      py::arg("noise"), py::arg("reward"), py::arg("mask"), py::arg("out"), py::arg("B"), py::arg("N"), py::arg("O"),
      py::arg("A"), py::arg("discount"), py::arg("euler_steps"), py::arg("options"), py::arg("aggregate"),
      py::arg("reduce"), py::arg("threads"));
  m.def(
      "update",
      [](Address particles, Address dq, Address first, Address second, Address result, int step, std::int64_t B,
         std::int64_t N, int A, const FlowOptions& options, int threads) {
        cpu::update(in(particles), in(dq), out(first), out(second), out(result), step, {B, N, 0, A}, options,
                    threads);
      },
      GilFree(), py::arg("particles"), py::arg("dq"), py::arg("first_moment"), py::arg("second_moment"),
      py::arg("out"), py::arg("step"), py::arg("B"), py::arg("N"), py::arg("A"), py::arg("options"),
      py::arg("threads"));
}
