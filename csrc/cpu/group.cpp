#include "group.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace vgf::cpu {
namespace {

constexpr long kSliceFloats = 64 * 1024;  // 256 KB of weights: a quarter of the smallest L2 of servers today

// The product `g` for some of its panels.
Gemm slice(Gemm g, int begin, int end) {
  g.begin = begin;
  g.end = end;
  return g;
}

}  // namespace

int Group::tiles_in_cache(const Call& call, int rows) {
  const long a = call.max_width * kRowStride, row_major = (call.max_hidden + 1L) * rows * call.row_stride;
  const long room = cache_bytes() / static_cast<long>(sizeof(float)) - kSliceFloats;
  return static_cast<int>(std::clamp(room / std::max(a + row_major, 1L), 1L, long{kGroupTiles}));
}

Group::Group(const Call& call, const Member& member, Carver& own, float* together, bool touch)
    : call_(call),
      member_(member),
      kernels_(kernels()),
      skipping_(skipping()),
      together_{together, together ? together + kTileRows * call.row_stride : nullptr} {
  const long tile = kTileRows * call.row_stride, inputs = std::max(call.sizes.O, call.sizes.A + 1);
  for (int i = 0; i < call.group_tiles; i++) {
    Passenger& p = passengers_[i];
    p.input = own.take(inputs * kRowStride);
    p.a = own.take(call.max_width * kRowStride);
    p.operand = call.bf16 ? own.take((call.max_width + 1) * kRowStride) : nullptr;
    p.z = own.take(call.max_hidden * tile);
    p.dy = own.take(tile);
    p.mean = own.take(static_cast<long>(call.max_hidden) * kRowStride);
    p.rstd = own.take(static_cast<long>(call.max_hidden) * kRowStride);
    p.active = own.take_ints(call.max_hidden * call.max_width + kPanel);  // written a vector at a time
    p.active_count = own.take_ints(call.max_hidden);
    p.columns = reinterpret_cast<ColumnPlan*>(own.take(sizeof(ColumnPlan) / sizeof(float)));
  }
  work_ = own.take(tile);
  const long most_units = std::max<long>(call.max_width, inputs);
  all_ = own.take_ints(most_units);
  if (touch) std::iota(all_, all_ + most_units, 0);
}

// The units of hidden layer l that are on in this tile.
Active Group::active_units(const Passenger& p, const MlpSpec& spec, int l) const {
  return skips(spec) ? Active{p.active_count[l], p.active + l * call_.max_width} : all(spec.widths[l + 1]);
}

// The same for a bfloat16 product. Where it takes them in pairs and states share tiles, a list of what some state switches
// on would let one state change another's round-off.
Active Group::gathered_units(const Passenger& p, const MlpSpec& spec, int l) const {
  const Follows follows = kernels_.bf16.follows;
  const bool listed = follows == Follows::list || (follows == Follows::pairs && call_.states_per_tile <= 1);
  return listed ? active_units(p, spec, l) : all(spec.widths[l + 1]);
}

// Runs product(passenger) -> Gemm for all tiles, a slice of the weights at a time, and fetches the next slice meanwhile:
// of these weights, in the end of those that `after`, the product to come, takes.
template <class F>
void Group::products(int count, void (*run)(const Gemm&), F product, const Panels& after) {
  const Gemm whole = product(passengers_[0]);
  const int step = count == 1 ? whole.end : static_cast<int>(std::max(kSliceFloats / whole.panel_stride / 4 * 4, 4L));
  const auto at = [&](int panel) { return whole.w + std::min(panel, whole.end) * whole.panel_stride; };
  for (int begin = 0; begin < whole.end; begin += step) {
    Ahead ahead{at(begin + step), at(begin + 2 * step)};
    if (begin + step >= whole.end) ahead = {after.first, after.first + std::min(kSliceFloats, after.floats())};
    for (int i = 0; i < count; i++) {
      Gemm g = slice(product(passengers_[i]), begin, std::min(begin + step, whole.end));
      if (count > 1 && ahead.next) g.ahead = &ahead;
      run(g);
    }
  }
}

// Every member computes its share of the panels, and all get all of them. Two shared buffers take turns, so one
// meeting a product is enough.
void Group::share(Gemm g, void (*run)(const Gemm&), int panel_width) {
  float *z = g.c, *shared = together_[meetings_++ % 2];
  g.c = shared;
  const int begin = g.end * member_.rank / member_.size, end = g.end * (member_.rank + 1) / member_.size;
  if (end > begin) run(slice(g, begin, end));
  member_.sync();
  for (int r = 0; r < g.rows; r++)
    std::memcpy(z + r * g.c_stride, shared + r * g.c_stride, g.end * panel_width * sizeof(float));
}

void Group::forward(const Net& net, int e, int count, int states, int inputs, bool together) {
  const MlpSpec& spec = net.mlp->spec();
  for (int l = 0; l < spec.hidden(); l++) {
    const PackedLayer& layer = net.mlp->layer(e, l);
    const long z_at = static_cast<long>(l) * kTileRows * call_.row_stride;
    for (int i = 0; i < count; i++) {
      Passenger& p = passengers_[i];
      if (layer.bf16) kernels_.bf16.operand(p.a, gathered_units(p, spec, l - 1), p.operand);
      for (int r = 0; l == 0 && r < p.tile.rows(); r++) {
        const int state = (p.tile.begin + r) / static_cast<int>(call_.sizes.N);
        const float* observed = net.observed + (static_cast<long>(e) * states + state) * call_.row_stride;
        std::memcpy(p.z + r * call_.row_stride, observed, padded(layer.out) * sizeof(float));
      }
    }
    const auto product = [&](Passenger& p) {
      Gemm g{};
      g.a = l == 0 ? p.input : layer.bf16 ? p.operand : p.a;
      g.rows = p.tile.rows();
      g.k = l == 0                                     ? all(inputs)
            : layer.forward.layout == PanelLayout::pairs ? all(layer.forward.rows())
            : layer.bf16                               ? gathered_units(p, spec, l - 1)
                                                       : active_units(p, spec, l - 1);
      g.w = layer.forward.first;
      g.panel_stride = layer.forward.stride();
      g.end = layer.forward.count();
      g.init = layer.b;
      g.c = p.z + z_at;
      g.c_stride = call_.row_stride;
      if (l == 0) {
        g.w += static_cast<long>(call_.sizes.O) * kPanel;
        g.init = g.c;
        g.init_stride = call_.row_stride;
      }
      return g;
    };
    const auto run = layer.bf16 ? kernels_.bf16.forward : kernels_.gemm;
    if (together)
      share(product(passengers_[0]), run, layer.forward.width());
    else
      products(count, run, product, l + 1 < spec.hidden() ? net.mlp->layer(e, l + 1).forward : layer.backward);
    for (int i = 0; i < count; i++) {
      Passenger& p = passengers_[i];
      Active active{0, p.active + l * call_.max_width};
      kernels_.hidden_forward({p.tile.rows(), layer.out, spec.activation, spec.norm, spec.norm_eps, p.z + z_at, work_,
                               call_.row_stride, layer.scale, layer.bias, p.mean + l * kRowStride,
                               p.rstd + l * kRowStride, p.a, skips(spec) ? &active : nullptr});
      p.active_count[l] = active.count;
    }
  }
}

void Group::output(const Net& net, int e, int count) {
  const MlpSpec& spec = net.mlp->spec();
  const PackedLayer& last = net.mlp->layer(e, spec.hidden());
  for (int i = 0; i < count; i++) {
    const Passenger& p = passengers_[i];
    Gemm g{};
    g.a = p.a;
    g.rows = p.tile.rows();
    g.k = active_units(p, spec, spec.hidden() - 1);
    g.w = last.forward.first;
    g.panel_stride = last.forward.stride();
    g.end = last.forward.count();
    g.init = last.b;
    g.c = p.dy;
    g.c_stride = call_.row_stride;
    kernels_.gemm(g);
  }
}

void Group::head(const Net& net, int e, int i, float* q) {
  const PackedLayer& last = net.mlp->layer(e, net.mlp->spec().hidden());
  kernels_.head(passengers_[i].a, last.in, last.head, last.b[0], q);
}

void Group::backward(const Net& net, int e, int count) {
  const MlpSpec& spec = net.mlp->spec();
  const int obs = call_.sizes.O;
  for (int l = spec.hidden() - 1; l >= 0; l--) {
    const PackedLayer& layer = net.mlp->layer(e, l);
    const bool top = l + 1 == spec.hidden();
    // The first layer pulls back to the actions only.
    const int first = l > 0 ? 0 : obs / kPanel, end = l > 0 ? layer.in : obs + call_.sizes.A;
    const int panels = static_cast<int>(padded(end) / kPanel) - first;
    // Where the layer below is off, no gradient is wanted.
    const bool plans = l > 0 && skips(spec) && !(layer.bf16 && kernels_.bf16.follows == Follows::none);
    for (int i = 0; i < count; i++) {
      Passenger& p = passengers_[i];
      if (plans) kernels_.plan_columns(active_units(p, spec, l - 1), panels, *p.columns);
      kernels_.hidden_backward({p.tile.rows(), layer.out, spec.activation, spec.norm,
                                top ? net.mlp->layer(e, l + 1).head : p.dy, top ? 0 : call_.row_stride,
                                p.z + static_cast<long>(l) * kTileRows * call_.row_stride, work_, call_.row_stride,
                                layer.scale, layer.bias, p.mean + l * kRowStride, p.rstd + l * kRowStride, p.a});
      if (layer.bf16) kernels_.bf16.operand(p.a, all(layer.out), p.operand);
    }
    products(count, layer.bf16 ? kernels_.bf16.backward : kernels_.gemm, [&](const Passenger& p) {
      Gemm g{};
      g.a = layer.bf16 ? p.operand : p.a;
      g.rows = p.tile.rows();
      // Without a norm the gradient of a unit that is off is zero.
      g.k = !layer.bf16 && spec.norm == Norm::none ? active_units(p, spec, l) : all(layer.backward.rows());
      g.panel_stride = layer.backward.stride();
      g.w = layer.backward.first + first * g.panel_stride;
      g.end = panels;
      g.c = p.dy;
      g.c_stride = call_.row_stride;
      g.plan = plans ? p.columns : nullptr;
      return g;
    }, l > 0 ? net.mlp->layer(e, l - 1).backward : Panels{});
    for (int i = 0; plans && i < count; i++) {
      const Passenger& p = passengers_[i];
      if (p.columns->pays) kernels_.unpack_columns(*p.columns, p.tile.rows(), p.dy, call_.row_stride);
    }
  }
}

}  // namespace vgf::cpu
