// The names that frontends give to the engine's choices.
#pragma once

#include <map>
#include <stdexcept>
#include <string>
#include <string_view>

#include "vgf/types.hpp"

namespace vgf {

template <class Enum>
Enum named(const char* what, const std::map<std::string_view, Enum>& names, std::string_view name) {
  const auto found = names.find(name);
  if (found == names.end())
    throw std::invalid_argument(std::string(what) + ": unknown name \"" + std::string(name) + "\"");
  return found->second;
}

inline Activation activation_of(std::string_view name) {
  return named<Activation>("activation",
                           {{"relu", Activation::relu},
                            {"gelu", Activation::gelu},
                            {"gelu_erf", Activation::gelu_erf},
                            {"silu", Activation::silu},
                            {"mish", Activation::mish},
                            {"tanh", Activation::tanh},
                            {"elu", Activation::elu}},
                           name);
}
inline Norm norm_of(std::string_view name) {
  return named<Norm>("norm", {{"none", Norm::none}, {"pre", Norm::pre}, {"post", Norm::post}}, name);
}
inline Precision precision_of(std::string_view name) {
  return named<Precision>(
      "precision", {{"fp32", Precision::fp32}, {"tf32", Precision::tf32}, {"bf16", Precision::bf16}}, name);
}
inline Aggregate aggregate_of(std::string_view name) {
  return named<Aggregate>("aggregate", {{"mean", Aggregate::mean}, {"min", Aggregate::min}}, name);
}
inline Select select_of(std::string_view name) {
  return named<Select>("select", {{"max", Select::max}, {"softmax", Select::softmax}, {"uniform", Select::uniform}},
                       name);
}
inline Reduce reduce_of(std::string_view name) {
  return named<Reduce>("reduce", {{"mean", Reduce::mean}, {"max", Reduce::max}}, name);
}
inline MlpSpec mlp_spec(std::vector<int> widths, std::int64_t ensemble, std::string_view activation,
                        std::string_view norm, double norm_eps) {
  return {std::move(widths), static_cast<int>(ensemble), activation_of(activation), norm_of(norm),
          static_cast<float>(norm_eps)};
}
inline bool is_adam(std::string_view name) { return named<bool>("optimizer", {{"adam", true}, {"sgd", false}}, name); }

}  // namespace vgf
