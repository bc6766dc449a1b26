// The seam between Python and the CUDA engine: names to enums, addresses to pointers, and the GIL let go.
// The frontends have checked shapes, dtypes and contiguity; see vgf_kernels/_cuda.pyi for the signatures.
#include "shared.hpp"
#include "vgf/cuda.hpp"

using namespace vgf;
using namespace vgf::bindings;
using cuda::Network;

namespace {

using Room = std::tuple<Address, std::size_t, Address>;

void* pointer(Address address) { return reinterpret_cast<void*>(address); }
cuda::Workspace workspace(const Room& room) {
  return {pointer(std::get<0>(room)), std::get<1>(room), pointer(std::get<2>(room))};
}

Network network(const std::vector<int>& widths, int ensemble, const std::string& activation, const std::string& norm,
                float norm_eps, int observations, bool critic, bool gradient, const std::string& precision) {
  return {mlp_spec(widths, ensemble, activation, norm, norm_eps), observations, critic, gradient,
          precision_of(precision), nullptr};
}

Network packed(const Network& network, const std::vector<Weights>& weights, Address memory, Address stream) {
  Network filled = network;
  filled.packed = pointer(memory);
  const std::vector<LayerWeights> layers = layer_weights(weights);
  const py::gil_scoped_release free;
  cuda::pack(filled, layers, pointer(stream));
  return filled;
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "The compiled CUDA engine: raw device pointers and sizes, checked by the caller.";
  m.def("driver_version", &cuda::driver_version);
  m.def("devices", [] {
    std::vector<std::tuple<std::string, int, int>> found;
    for (const cuda::Device& d : cuda::devices()) found.emplace_back(d.name, d.major, d.minor);
    return found;
  });

  py::class_<Network>(m, "Network", py::module_local())
      .def(py::init(&network), py::arg("widths"), py::arg("ensemble"), py::arg("activation"), py::arg("norm"),
           py::arg("norm_eps"), py::arg("observations"), py::arg("critic"), py::arg("gradient"), py::arg("precision"))
      .def_property_readonly("nbytes", &cuda::packed_bytes)
      .def("packed", &packed, py::arg("weights"), py::arg("memory"), py::arg("stream"));
  define_flow_options(m);

  m.def(
      "value",
      [](const Network& critic, Address obs, Address actions, Address q, const Dims& dims, const Room& room) {
        return cuda::value(critic, in(obs), in(actions), out(q), sizes(dims), workspace(room));
      },
      GilFree());
  m.def(
      "value_and_grad",
      [](const Network& critic, Address obs, Address actions, Address q, Address dq, Address jacobian,
         const std::string& agg, const Dims& dims, const Room& room) {
        return cuda::value_and_grad(critic, in(obs), in(actions), out(q), out(dq), out(jacobian), sizes(dims),
                                    aggregate_of(agg), workspace(room));
      },
      GilFree());
  m.def(
      "direction",
      [](const Network& critic, Address obs, Address particles, Address phi, const FlowOptions& options,
         const Dims& dims, const Room& room) {
        return cuda::direction(critic, in(obs), in(particles), out(phi), sizes(dims), options, workspace(room));
      },
      GilFree());
  m.def(
      "flow",
      [](const Network& critic, Address obs, Address particles, Address result, bool trajectory,
         const FlowOptions& options, const Dims& dims, const Room& room) {
        return cuda::flow(critic, in(obs), in(particles), out(result), trajectory, sizes(dims), options,
                          workspace(room));
      },
      GilFree());
  m.def(
      "sample",
      [](const Network& policy, Address obs, Address noise, Address result, int num_steps, const Bounds& bounds,
         const Dims& dims, const Room& room) {
        return cuda::sample(policy, in(obs), in(noise), out(result), sizes(dims), num_steps, clip(bounds),
                            workspace(room));
      },
      GilFree());
  m.def(
      "act",
      [](const Network& critic, const Network& policy, Address obs, Address noise, Address select_noise,
         Address result, int euler_steps, const FlowOptions& options, const std::string& select, float temperature,
         const std::string& agg, const Dims& dims, const Room& room) {
        const Select how = select_of(select);
        if (how != Select::max && !select_noise) throw std::invalid_argument("select_noise is missing");
        return cuda::act(critic, policy, in(obs), in(noise), out(result), sizes(dims), euler_steps, options,
                         {how, temperature, aggregate_of(agg), in(select_noise)}, workspace(room));
      },
      GilFree());
  m.def(
      "td_target",
      [](const Network& critic, const Network& target_critic, const Network& policy, Address next_obs, Address noise,
         Address reward, Address mask, Address result, double discount, int euler_steps, const FlowOptions& options,
         const std::string& agg, const std::string& reduce, const Dims& dims, const Room& room) {
        return cuda::td_target(critic, target_critic, policy, in(next_obs), in(noise), out(result), sizes(dims),
                               euler_steps, options, {in(reward), in(mask), discount, aggregate_of(agg), reduce_of(reduce)},
                               workspace(room));
      },
      GilFree());
  m.def(
      "update",
      [](Address particles, Address dq, Address first, Address second, Address result, int step,
         const FlowOptions& options, const Dims& dims, const Room& room) {
        return cuda::update(in(particles), in(dq), out(first), out(second), out(result), step, sizes(dims), options,
                            workspace(room));
      },
      GilFree());
}
