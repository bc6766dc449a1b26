#include "group.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace vgf::cpu {
namespace {

constexpr long kSliceFloats = 64 * 1024;  // 256 KB of weights: a quarter of the L2 of most servers today
// Where L2 has room for few tiles, weights come from L3 so often that more tiles than fit take less time: 8, if they are not
// large (4 MB of them).
constexpr long kFewTiles = 4, kMoreTiles = 8, kMoreFloats = 1024 * 1024;

// The product `g` for some of its panels.
Gemm slice(Gemm g, int begin, int end) {
  g.begin = begin;
  g.end = end;
  return g;
}

// Panels of weights that every part of `count` tiles takes before any takes others. Those of one tile take a panel in turns,
// from L3 once, where they take gathered units (an action took 0.97 of its time on Zen 3); else all panels.
int panels_at_once(const Gemm& g, int count, bool gathered) {
  if (count == 1) return gathered ? 1 : g.end;
  return static_cast<int>(std::max(kSliceFloats / g.panel_stride / 4 * 4, 4L));
}

// The product `g` of a whole tile for some of its rows.
Gemm rows_of(Gemm g, const Group::Part& part) {
  g.a = part.a;
  g.rows = part.end - part.begin;
  g.k = part.k;
  g.init += g.init ? part.begin * g.init_stride : 0;
  g.c += part.begin * g.c_stride;
  return g;
}

}  // namespace

int Group::tiles_in_cache(const Call& call, int rows) {
  const long a = call.max_width * rows, row_major = (call.max_hidden + 1L) * rows * call.row_stride;
  const long room = cache_bytes() / static_cast<long>(sizeof(float)) - kSliceFloats;
  const long tile = std::max(a + row_major, 1L), fit = std::clamp(room / tile, 1L, long{kGroupTiles});
  return static_cast<int>(fit >= kFewTiles ? fit : std::max(fit, std::min(kMoreFloats / tile, kMoreTiles)));
}

Group::Group(const Call& call, const Member& member, Carver& own, float* together, bool touch)
    : call_(call),
      member_(member),
      kernels_(kernels()),
      skipping_(skipping()),
      together_{together, together ? together + kTileRows * call.row_stride : nullptr} {
  const long tile = kTileRows * call.row_stride, inputs = std::max(call.sizes.O, call.sizes.A + 1);
  const auto list = [&](long width) -> Active {
    int* units = own.take_ints(width + kPanel);  // written a vector at a time
    return {0, units, reinterpret_cast<std::uint16_t*>(own.take(width / kPanel))};
  };
  for (int i = 0; i < call.group_tiles; i++) {
    Passenger& p = passengers_[i];
    p.input = own.take(blocked(padded(inputs)));
    p.a = own.take(blocked(call.max_width) + kPanel);
    p.z = own.take(call.max_hidden * tile);
    p.dy = own.take(tile);
    p.mean = own.take(static_cast<long>(call.max_hidden) * kTileRows);
    p.rstd = own.take(static_cast<long>(call.max_hidden) * kTileRows);
    p.active = reinterpret_cast<ActiveUnits*>(own.take(call.max_hidden * sizeof(ActiveUnits) / sizeof(float)));
    for (int l = 0; l < call.max_hidden; l++) {
      ActiveUnits active{list(call.max_width), {}};
      for (Active& part : active.part) part = list(call.max_width);
      if (touch) p.active[l] = active;
    }
    p.columns = reinterpret_cast<ColumnPlan*>(own.take(sizeof(ColumnPlan) / sizeof(float)));
  }
  work_ = own.take(tile);
  const long most_units = std::max<long>(call.max_width, inputs);
  all_ = own.take_ints(most_units);
  const long actions_end = padded(first_action() + call.sizes.A);
  actions_ = list(actions_end);
  if (!touch) return;
  std::iota(all_, all_ + most_units, 0);
  std::fill(actions_.on, actions_.on + actions_end / kPanel, std::uint16_t{0});
  for (int& i = actions_.count; i < call.sizes.A; i++) {
    const int column = actions_.unit[i] = first_action() + i;
    actions_.on[column / kPanel] |= static_cast<std::uint16_t>(1u << column % kPanel);
  }
}

// Whether the forward product follows a list of units. Where a bfloat16 product takes them in pairs and states share
// tiles, a list of what some state switches on would let one state change another's round-off.
bool Group::follows(const PackedLayer& layer) const {
  const Follows how = kernels_.bf16.follows;
  return !layer.bf16 || how == Follows::list || (how == Follows::pairs && call_.states_per_tile <= 1);
}

// Whether the forward product takes the rows of units that are on side by side.
bool Group::gathers(const PackedMlp& mlp, int e, const PackedLayer& layer) const {
  return !layer.bf16 && kernels_.gathered && skips(mlp, e);
}

// All units' numbers, in the form that a layer's products take.
Operand Group::dense(const PackedLayer& layer) const {
  if (layer.bf16) return kernels_.bf16.operand;
  return layer.rounded ? Operand::rounded : Operand::single;
}

// What the forward product of a hidden layer takes.
Operand Group::operand(const PackedMlp& mlp, int e, const PackedLayer& layer) const {
  if (gathers(mlp, e, layer)) return layer.rounded ? Operand::rounded_gathered : Operand::gathered;
  const Operand all = dense(layer);
  return all == Operand::pairs && skips(mlp, e) && follows(layer) ? Operand::active_pairs : all;
}

// The next product takes all rows at once.
void Group::whole(Passenger& p, const Active& k, const float* a) const {
  p.parts = 1;
  p.part[0] = {0, p.tile.rows(), k, a};
}

// The next product takes the units that are on, of some rows at a time; a row's numbers start `row_stride` after those of
// the row before.
void Group::take_active(Passenger& p, const ActiveUnits& active, long row_stride) const {
  const int rows = p.tile.rows();
  p.parts = parts(rows);
  for (int i = 0; i < p.parts; i++) {
    const int begin = part_begin(rows, i);
    p.part[i] = {begin, part_begin(rows, i + 1), active.part[i], p.a + begin * row_stride};
  }
}

// Runs product(passenger) -> Gemm for all parts of all tiles, a slice of the weights at a time, and fetches the next
// slice meanwhile: of these weights, in the end of those that `after`, the product to come, takes.
template <class F>
void Group::products(int count, void (*run)(const Gemm&), F product, const Panels& after) {
  const Gemm whole = product(passengers_[0]);
  const int step = panels_at_once(whole, count, run == kernels_.gathered);
  const auto at = [&](int panel) { return whole.w + std::min(panel, whole.end) * whole.panel_stride; };
  for (int begin = 0; begin < whole.end; begin += step) {
    Ahead ahead{at(begin + step), at(begin + 2 * step)};
    if (begin + step >= whole.end)
      ahead = after.first ? Ahead{after.first, after.first + std::min(kSliceFloats, after.floats())} : Ahead{};
    for (int i = 0; i < count; i++) {
      Gemm g = slice(product(passengers_[i]), begin, std::min(begin + step, whole.end));
      if (count > 1 && ahead.next) g.ahead = &ahead;
      for (int j = 0; j < passengers_[i].parts; j++) run(rows_of(g, passengers_[i].part[j]));
    }
  }
}

// Every member computes its share of the panels, and all get all of them. Two shared buffers take turns, so one
// meeting a product is enough.
void Group::share(const Passenger& p, Gemm g, void (*run)(const Gemm&), int panel_width) {
  float *z = g.c, *shared = together_[meetings_++ % 2];
  g.c = shared;
  const int begin = static_cast<int>(member_.begin_of(g.end, member_.rank));
  const int end = static_cast<int>(member_.begin_of(g.end, member_.rank + 1));
  const int step = panels_at_once(g, 1, run == kernels_.gathered);
  for (int at = begin; at < end; at += step)
    for (int i = 0; i < p.parts; i++) run(rows_of(slice(g, at, std::min(at + step, end)), p.part[i]));
  member_.sync();
  for (int r = 0; r < p.tile.rows(); r++)
    std::memcpy(z + r * g.c_stride, shared + r * g.c_stride, g.end * panel_width * sizeof(float));
}

// What the product after the forward one of layer l reads, panel after panel.
Panels Group::after(const Net& net, int e, int l) const {
  if (l + 1 < net.mlp->spec().hidden()) return net.mlp->layer(e, l + 1).forward;
  return net.mlp->layer(e, l).backward;
}

void Group::forward(const Net& net, int e, int count, int states, int inputs, bool together) {
  const MlpSpec& spec = net.mlp->spec();
  const bool several_states = call_.states_per_tile > 1;
  // What the first layer makes of the observations of a row's state.
  const auto observed = [&](int row) {
    const int state = row / static_cast<int>(call_.sizes.N);
    return net.observed + (static_cast<long>(e) * states + state) * call_.row_stride;
  };
  for (int l = 0; l < spec.hidden(); l++) {
    const PackedLayer& layer = net.mlp->layer(e, l);
    const long z_at = static_cast<long>(l) * kTileRows * call_.row_stride;
    const bool gathered = l > 0 && gathers(*net.mlp, e, layer);
    for (int i = 0; i < count; i++) {
      Passenger& p = passengers_[i];
      if (l == 0)
        whole(p, all(inputs), p.input);
      else if (skips(*net.mlp, e) && follows(layer))
        take_active(p, p.active[l - 1], gathered ? padded(layer.in) : kPanel);
      else
        whole(p, all(layer.forward.rows()), p.a);
      for (int r = 0; l == 0 && several_states && r < p.tile.rows(); r++)
        std::memcpy(p.z + r * call_.row_stride, observed(p.tile.begin + r), padded(layer.out) * sizeof(float));
    }
    const auto product = [&](const Passenger& p) {
      Gemm g = layer.forward.product();
      g.init = layer.b;
      g.c = p.z + z_at;
      g.c_stride = call_.row_stride;
      if (l == 0) {
        g.w += static_cast<long>(call_.sizes.O) * g.k_stride;
        g.init = several_states ? g.c : observed(p.tile.begin);
        g.init_stride = several_states ? g.c_stride : 0;
      }
      return g;
    };
    const auto run = layer.bf16 ? kernels_.bf16.forward : gathered ? kernels_.gathered : kernels_.gemm;
    if (together)
      share(passengers_[0], product(passengers_[0]), run, layer.forward.width());
    else
      products(count, run, product, after(net, e, l));
    const Operand form = l + 1 < spec.hidden() ? operand(*net.mlp, e, net.mlp->layer(e, l + 1)) : Operand::single;
    for (int i = 0; i < count; i++) {
      Passenger& p = passengers_[i];
      kernels_.hidden_forward({p.tile.rows(), layer.out, spec.activation, spec.norm, spec.norm_eps, p.z + z_at, work_,
                               call_.row_stride, layer.scale, layer.bias, p.mean + l * kTileRows,
                               p.rstd + l * kTileRows, form, p.a, skips(*net.mlp, e) ? p.active + l : nullptr});
    }
  }
}

void Group::output(const Net& net, int e, int count) {
  const MlpSpec& spec = net.mlp->spec();
  const PackedLayer& last = net.mlp->layer(e, spec.hidden());
  for (int i = 0; i < count; i++) {
    const Passenger& p = passengers_[i];
    Gemm g = last.forward.product();
    g.a = p.a;
    g.rows = p.tile.rows();
    g.k = skips(*net.mlp, e) ? p.active[spec.hidden() - 1].whole : all(last.in);
    g.init = last.b;
    g.c = p.dy;
    g.c_stride = call_.row_stride;
    kernels_.gemm(g);
  }
}

void Group::head(const Net& net, int e, int i, float* q) {
  const PackedLayer& last = net.mlp->layer(e, net.mlp->spec().hidden());
  kernels_.head(passengers_[i].a, passengers_[i].tile.rows(), last.in, last.head, last.b[0], q);
}

// The gradient at a layer's inputs, a slice of the weights at a time; where a layer `below` says so, of its active units.
void Group::pull(const PackedLayer& layer, int count, int below) {
  const Gemm forward = layer.forward.product();
  const int panels = static_cast<int>(padded(layer.in) / kPanel), ks = layer.forward.count();
  const int step = static_cast<int>(std::max(kSliceFloats / (long{kPanel} * kPanel * ks), 1L));
  for (int begin = 0; begin < panels; begin += step)
    for (int i = 0; i < count; i++) {
      const Passenger& p = passengers_[i];
      kernels_.pull({p.a, p.tile.rows(), ks, forward.w, forward.panel_stride, forward.k_stride, begin,
                     std::min(begin + step, panels), below < 0 ? all(layer.in) : p.active[below].whole, p.dy,
                     call_.row_stride});
    }
}

void Group::backward(const Net& net, int e, int count) {
  const MlpSpec& spec = net.mlp->spec();
  const int obs = call_.sizes.O;
  bool plans = false;  // whether `columns` tells of dy
  for (int l = spec.hidden() - 1; l >= 0; l--) {
    const PackedLayer& layer = net.mlp->layer(e, l);
    const bool top = l + 1 == spec.hidden();
    // The first layer pulls back to the actions only.
    const int first = l > 0 ? 0 : obs / kPanel, end = l > 0 ? layer.in : obs + call_.sizes.A;
    const int panels = static_cast<int>(padded(end) / kPanel) - first;
    const bool packed = plans;
    // Nor is a gradient wanted where the layer below is off.
    plans = kernels_.plan_columns &&
            (l == 0 || (skips(*net.mlp, e) && !(layer.bf16 && kernels_.bf16.follows == Follows::none)));
    for (int i = 0; i < count; i++) {
      Passenger& p = passengers_[i];
      kernels_.hidden_backward({p.tile.rows(), layer.out, spec.activation, spec.norm,
                                top ? net.mlp->layer(e, l + 1).head : p.dy, top ? 0 : call_.row_stride,
                                packed && p.columns->pays ? p.columns : nullptr,
                                p.z + static_cast<long>(l) * kTileRows * call_.row_stride, work_, call_.row_stride,
                                layer.scale, layer.bias, p.mean + l * kTileRows, p.rstd + l * kTileRows,
                                dense(layer), p.a});
      if (plans) kernels_.plan_columns(l > 0 ? p.active[l - 1].whole : actions_, panels, *p.columns);
      // Without a norm the gradient of a unit that is off is zero.
      const bool sparse = skips(*net.mlp, e) && !layer.bf16 && spec.norm == Norm::none;
      whole(p, sparse ? p.active[l].whole : all(layer.backward.rows()), p.a);
    }
    if (layer.pulls) {
      pull(layer, count, skips(*net.mlp, e) ? l - 1 : -1);
      continue;
    }
    products(count, layer.bf16 ? kernels_.bf16.backward : kernels_.gemm, [&](const Passenger& p) {
      Gemm g = layer.backward.product();
      g.w += first * g.panel_stride;
      g.end = panels;
      g.c = p.dy;
      g.c_stride = call_.row_stride;
      g.plan = plans ? p.columns : nullptr;
      return g;
    }, l > 0 ? net.mlp->layer(e, l - 1).backward : Panels{});
  }
  for (int i = 0; i < count; i++) {
    const Passenger& p = passengers_[i];
    if (plans && p.columns->pays) kernels_.unpack_columns(*p.columns, p.tile.rows(), p.dy, call_.row_stride);
  }
}

}  // namespace vgf::cpu
