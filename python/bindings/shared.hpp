// What the bindings of all engines share: names to enums, addresses to pointers, networks and options.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <variant>

#include "names.hpp"

namespace vgf::bindings {

namespace py = pybind11;

using Address = std::uintptr_t;
using Bounds = std::optional<std::pair<float, float>>;
using GilFree = py::call_guard<py::gil_scoped_release>;

using Dims = std::tuple<std::int64_t, std::int64_t, int, int>;  // B, N, O, A
inline Sizes sizes(const Dims& d) { return {std::get<0>(d), std::get<1>(d), std::get<2>(d), std::get<3>(d)}; }

inline const float* in(Address address) { return reinterpret_cast<const float*>(address); }
inline float* out(Address address) { return reinterpret_cast<float*>(address); }

inline Clip clip(const Bounds& bounds) { return bounds ? Clip{true, bounds->first, bounds->second} : Clip{}; }

// Weights as the stub describes them: (W, stride_in, stride_out, b, scale, bias).
using Weights = std::tuple<Address, std::ptrdiff_t, std::ptrdiff_t, Address, Address, Address>;

inline std::vector<LayerWeights> layer_weights(const std::vector<Weights>& weights) {
  std::vector<LayerWeights> layers;
  for (const auto& [w, stride_in, stride_out, b, scale, bias] : weights)
    layers.push_back({in(w), stride_in, stride_out, in(b), in(scale), in(bias)});
  return layers;
}

inline MlpSpec mlp_spec(const std::vector<int>& widths, int ensemble, const std::string& activation,
                        const std::string& norm, float norm_eps) {
  MlpSpec spec;
  spec.widths = widths;
  spec.ensemble = ensemble;
  spec.activation = activation_of(activation);
  spec.norm = norm_of(norm);
  spec.norm_eps = norm_eps;
  return spec;
}

inline FlowOptions flow_options(int num_steps, double learning_rate, double alpha, const std::string& agg,
                         const std::optional<std::string>& kernel, const std::variant<double, std::string>& bandwidth,
                         bool bandwidth_grad, const std::string& optimizer, const Bounds& bounds) {
  FlowOptions o;
  o.num_steps = num_steps;
  o.learning_rate = learning_rate;
  o.alpha = alpha;
  o.aggregate = aggregate_of(agg);
  o.kernel = kernel.has_value();
  o.median = std::holds_alternative<std::string>(bandwidth);
  o.sigma = o.median ? 0 : std::get<double>(bandwidth);
  o.bandwidth_grad = bandwidth_grad;
  o.adam = is_adam(optimizer);
  o.clip = clip(bounds);
  return o;
}

inline void define_flow_options(py::module_& m) {
  py::class_<FlowOptions>(m, "FlowOptions", py::module_local())
      .def(py::init(&flow_options), py::arg("num_steps"), py::arg("learning_rate"), py::arg("alpha"),
           py::arg("aggregate"), py::arg("kernel").none(true), py::arg("bandwidth"), py::arg("bandwidth_grad"),
           py::arg("optimizer"), py::arg("clip").none(true));
}

}  // namespace vgf::bindings
