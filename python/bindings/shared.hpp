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

inline FlowOptions flow_options(int num_steps, double learning_rate, double alpha, const std::string& agg,
                         const std::optional<std::string>& kernel, const std::variant<double, std::string>& bandwidth,
                         bool bandwidth_grad, const std::string& optimizer, const Bounds& bounds) {
  const double* sigma = std::get_if<double>(&bandwidth);
  return {num_steps, learning_rate, alpha, aggregate_of(agg), kernel.has_value(), !sigma, sigma ? *sigma : 0,
          bandwidth_grad, is_adam(optimizer), clip(bounds)};
}

inline void define_flow_options(py::module_& m) {
  py::class_<FlowOptions>(m, "FlowOptions", py::module_local())
      .def(py::init(&flow_options), py::arg("num_steps"), py::arg("learning_rate"), py::arg("alpha"),
           py::arg("aggregate"), py::arg("kernel"), py::arg("bandwidth"), py::arg("bandwidth_grad"),
           py::arg("optimizer"), py::arg("clip"));
}

}  // namespace vgf::bindings
