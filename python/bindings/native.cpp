// The seam between Python and the CPU engine: names to enums, addresses to pointers, and the GIL let go.
// The frontends have checked shapes, dtypes and contiguity; see vgf_kernels/_native.pyi for the signatures.
#include "shared.hpp"
#include "vgf/cpu.hpp"

using namespace vgf;
using namespace vgf::bindings;

namespace {

struct PackedHandle {
  std::shared_ptr<const cpu::PackedMlp> packed;
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
      });

  py::class_<PackedHandle>(m, "PackedMLP")
      .def(py::init(&pack), py::arg("widths"), py::arg("ensemble"), py::arg("activation"), py::arg("norm"),
           py::arg("norm_eps"), py::arg("weights"), py::arg("gradient"), py::arg("threads"), py::arg("precision"));

  define_flow_options(m);

  m.def(
      "value",
      [](const PackedHandle& critic, Address obs, Address actions, Address q, const Dims& dims, int threads) {
        cpu::value(*critic.packed, in(obs), in(actions), out(q), sizes(dims), threads);
      },
      GilFree());
  m.def(
      "value_and_grad",
      [](const PackedHandle& critic, Address obs, Address actions, Address q, Address dq, const std::string& agg,
         const Dims& dims, int threads) {
        cpu::value_and_grad(*critic.packed, in(obs), in(actions), out(q), out(dq), sizes(dims), aggregate_of(agg), threads);
      },
      GilFree());
  m.def(
      "jacobian",
      [](const PackedHandle& critic, Address obs, Address actions, Address q, Address dq, const Dims& dims, int threads) {
        cpu::jacobian(*critic.packed, in(obs), in(actions), out(q), out(dq), sizes(dims), threads);
      },
      GilFree());
  m.def(
      "direction",
      [](const PackedHandle& critic, Address obs, Address particles, Address phi, const FlowOptions& options,
         const Dims& dims, int threads) {
        cpu::direction(*critic.packed, in(obs), in(particles), out(phi), sizes(dims), options, threads);
      },
      GilFree());
  m.def(
      "flow",
      [](const PackedHandle& critic, Address obs, Address particles, Address result, bool trajectory,
         const FlowOptions& options, const Dims& dims, int threads) {
        cpu::flow(*critic.packed, in(obs), in(particles), out(result), trajectory, sizes(dims), options, threads);
      },
      GilFree());
  m.def(
      "sample",
      [](const PackedHandle& policy, Address obs, Address noise, Address result, int num_steps, const Bounds& bounds,
         const Dims& dims, int threads) {
        cpu::sample(*policy.packed, in(obs), in(noise), out(result), sizes(dims), num_steps, clip(bounds), threads);
      },
      GilFree());
  m.def(
      "act",
      [](const PackedHandle& critic, const PackedHandle& policy, Address obs, Address noise, Address select_noise,
         Address result, int euler_steps, const FlowOptions& options, const std::string& select, float temperature,
         const std::string& agg, const Dims& dims, int threads) {
        const Select how = select_of(select);
        if (how != Select::max && !select_noise) throw std::invalid_argument("select_noise is missing");
        cpu::act(*critic.packed, *policy.packed, in(obs), in(noise), out(result), sizes(dims), euler_steps, options,
                 {how, temperature, aggregate_of(agg), in(select_noise)}, threads);
      },
      GilFree());
  m.def(
      "td_target",
      [](const PackedHandle& critic, const PackedHandle& target_critic, const PackedHandle& policy, Address next_obs,
         Address noise, Address reward, Address mask, Address result, double discount, int euler_steps,
         const FlowOptions& options, const std::string& agg, const std::string& reduce, const Dims& dims, int threads) {
        cpu::td_target(*critic.packed, *target_critic.packed, *policy.packed, in(next_obs), in(noise), out(result),
                       sizes(dims), euler_steps, options,
                       {in(reward), in(mask), discount, aggregate_of(agg), reduce_of(reduce)}, threads);
      },
      GilFree());
  m.def(
      "update",
      [](Address particles, Address dq, Address first, Address second, Address result, int step,
         const FlowOptions& options, const Dims& dims, int threads) {
        cpu::update(in(particles), in(dq), out(first), out(second), out(result), step, sizes(dims), options, threads);
      },
      GilFree());
}
