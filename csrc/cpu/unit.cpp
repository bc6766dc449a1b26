#include "unit.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "ranges.hpp"

namespace vgf::cpu {
namespace {

constexpr int kUnitTiles = 16;   // most tiles of a unit of small states
constexpr int kUnitStates = 32;  // most states of a unit
constexpr int kChunk = 64;  // particles a member takes at a time in the pairwise part; a multiple of kPanel

// Hands out pieces of one block of memory. With a null base it only counts.
class Carver {
 public:
  explicit Carver(float* base) : base_(base) {}
  float* take(long count) {
    float* piece = base_ ? base_ + used_ : nullptr;
    used_ += padded(count);
    return piece;
  }
  long used() const { return used_; }

 private:
  float* base_;
  long used_ = 0;
};

}  // namespace

Call::Call(Sizes s, const FlowOptions& o, std::initializer_list<const PackedMlp*> nets, int threads)
    : sizes(s), options(o) {
  states_per_tile = static_cast<int>(kTileRows / s.N);
  states_per_unit = 1;
  if (states_per_tile > 0) {
    // Several units a thread, so that threads end together.
    const std::int64_t share = s.B / states_per_tile / (4 * std::max(threads, 1));
    const std::int64_t tiles = std::clamp<std::int64_t>(share, 1, std::min(kUnitTiles, kUnitStates / states_per_tile));
    states_per_unit = static_cast<int>(std::min<std::int64_t>(tiles * states_per_tile, s.B));
  }
  units = (s.B + states_per_unit - 1) / states_per_unit;
  stride = padded(s.N);
  max_width = 0, max_hidden = 0, max_ensemble = 1;
  for (const PackedMlp* net : nets) {
    max_width = std::max(max_width, net->max_width());
    max_hidden = std::max(max_hidden, net->spec().hidden());
    max_ensemble = std::max(max_ensemble, net->spec().ensemble);
  }
  // One panel more than the widest keeps rows from falling on the same cache sets; action gradients may straddle one.
  row_stride = std::max(max_width, padded(s.A) + kPanel) + kPanel;
  const Member alone;
  const Unit counted(*this, alone, nullptr, nullptr);  // touches no memory
  shared_floats = counted.shared_floats_;
  own_floats = counted.own_floats_;
}

Unit::Unit(const Call& call, const Member& member, float* shared, float* own)
    : call_(call),
      member_(member),
      kernels_(kernels()),
      skipping_(skipping()),
      n_(static_cast<int>(call.sizes.N)),
      dims_(call.sizes.A),
      chunks_per_state_((n_ + kChunk - 1) / kChunk) {
  const long particles = static_cast<long>(call.states_per_unit) * dims_ * call.stride;
  Carver team(shared);
  for (float*& observed : observed_)
    observed = team.take(static_cast<long>(call.max_ensemble) * call.states_per_unit * call.row_stride);
  for (float** piece : {&x_, &dq_, &phi_, &first_moment_, &second_moment_}) *piece = team.take(particles);
  q_ = team.take(static_cast<long>(call.max_ensemble) * call.states_per_unit * n_);
  dq_members_ = team.take(call.max_ensemble * particles);
  for (float*& z : z_together_) z = team.take(kTileRows * call.row_stride);
  d2k_ = team.take(static_cast<long>(call.states_per_unit) * chunks_per_state_);
  bandwidth_ = reinterpret_cast<Bandwidth*>(team.take(call.states_per_unit * sizeof(Bandwidth) / sizeof(float)));

  Carver alone(own);
  input_ = alone.take(static_cast<long>(std::max(call.sizes.O, dims_ + 1)) * kRowStride);
  a_[0] = alone.take(call.max_width * kRowStride);
  a_[1] = alone.take(call.max_width * kRowStride);
  pairs_ = alone.take((call.max_width + 1) / 2 * kRowStride);
  z_ = alone.take(call.max_hidden * kTileRows * call.row_stride);
  work_ = alone.take(kTileRows * call.row_stride);
  dy_ = alone.take(kTileRows * call.row_stride);
  mean_ = alone.take(static_cast<long>(call.max_hidden) * kRowStride);
  rstd_ = alone.take(static_cast<long>(call.max_hidden) * kRowStride);
  scratch_ = alone.take(static_cast<long>(std::max<std::size_t>(bandwidth_scratch(n_), call.stride)));
  const long most_units = std::max<long>({call.max_width, call.sizes.O, dims_ + 1});
  static_assert(sizeof(int) == sizeof(float), "the carver counts in floats");
  all_ = reinterpret_cast<int*>(alone.take(most_units));
  active_ = reinterpret_cast<int*>(alone.take(call.max_hidden * call.max_width + kPanel));  // written a vector at a time
  active_count_ = reinterpret_cast<int*>(alone.take(call.max_hidden));
  if (own) std::iota(all_, all_ + most_units, 0);
  shared_floats_ = team.used();
  own_floats_ = alone.used();
}

void Unit::begin(std::int64_t unit) {
  first_ = unit * call_.states_per_unit;
  states_ = static_cast<int>(std::min<std::int64_t>(call_.states_per_unit, call_.sizes.B - first_));
}

int Unit::tiles() const {
  if (call_.states_per_tile == 0) return (n_ + kTileRows - 1) / kTileRows;
  return (states_ + call_.states_per_tile - 1) / call_.states_per_tile;
}

Unit::Tile Unit::tile(int t) const {
  if (call_.states_per_tile > 0) {
    const int rows = call_.states_per_tile * n_;
    return {t * rows, std::min((t + 1) * rows, states_ * n_)};
  }
  const std::int64_t rows = n_, tiles = this->tiles();
  return {static_cast<int>(rows * t / tiles), static_cast<int>(rows * (t + 1) / tiles)};
}

template <class F>
void Unit::chunks(F f) const {
  member_.share(static_cast<std::int64_t>(states_) * chunks_per_state_, [&](std::int64_t task) {
    const int s = static_cast<int>(task / chunks_per_state_), chunk = static_cast<int>(task % chunks_per_state_);
    f(s, chunk * kChunk, std::min(n_, (chunk + 1) * kChunk), chunk);
  });
}

void Unit::load(const float* from, float* to) {
  from += first_ * n_ * dims_;
  member_.share(states_, [&](std::int64_t s) {
    for (int a = 0; a < dims_; a++) {
      float* row = to + at(static_cast<int>(s), a);
      for (int i = 0; i < n_; i++) row[i] = from[(s * n_ + i) * dims_ + a];
      std::fill(row + n_, row + call_.stride, 0.0f);
    }
  });
  member_.sync();
}

void Unit::store(const float* from, float* out) const {
  out += first_ * n_ * dims_;
  member_.share(states_, [&](std::int64_t s) {
    for (int a = 0; a < dims_; a++) {
      const float* row = from + at(static_cast<int>(s), a);
      for (int i = 0; i < n_; i++) out[(s * n_ + i) * dims_ + a] = row[i];
    }
  });
  member_.sync();
}

void Unit::store_values(int ensemble, float* out) const {
  member_.share(ensemble, [&](std::int64_t e) {
    const long count = static_cast<long>(states_) * n_;
    std::copy(q_ + e * count, q_ + (e + 1) * count, out + (e * call_.sizes.B + first_) * n_);
  });
  member_.sync();
}

void Unit::load(const float* particles) { load(particles, x_); }
void Unit::load_gradient(const float* dq) { load(dq, dq_); }

void Unit::load_moments(const float* first, const float* second) {
  load(first, first_moment_);
  load(second, second_moment_);
}

void Unit::store_moments(float* first, float* second) const {
  store(first_moment_, first);
  store(second_moment_, second);
}

void Unit::start_moments() {
  const long count = static_cast<long>(states_) * dims_ * call_.stride;
  if (member_.rank == 0) {
    std::fill(first_moment_, first_moment_ + count, 0.0f);
    std::fill(second_moment_, second_moment_ + count, 0.0f);
  }
  member_.sync();
}

// The first layer's observation part, b + obs W, of every state.
void Unit::observe(Net& net, const float* obs, int slot) {
  const Range range("observe", states_);
  const int width = call_.sizes.O;
  net.observed = observed_[slot];
  const int blocks = (states_ + kTileRows - 1) / kTileRows;
  member_.share(static_cast<std::int64_t>(net.mlp->spec().ensemble) * blocks, [&](std::int64_t task) {
    const int e = static_cast<int>(task / blocks), begin = static_cast<int>(task % blocks) * kTileRows;
    const int count = std::min(kTileRows, states_ - begin);
    for (int k = 0; k < width; k++)
      for (int s = 0; s < count; s++) input_[k * kRowStride + s] = obs[(first_ + begin + s) * width + k];
    const PackedLayer& layer = net.mlp->layer(e, 0);
    kernels_.gemm({input_, kRowStride, count, all(width), layer.forward, static_cast<long>(layer.in) * kPanel,
                   static_cast<int>(padded(layer.out) / kPanel), layer.b, 0,
                   net.observed + (static_cast<long>(e) * states_ + begin) * call_.row_stride, call_.row_stride,
                   nullptr});
  });
  member_.sync();
}

// Copies a tile's particles to the k-major input of the first layer.
void Unit::gather(const Tile& tile) {
  for (int a = 0; a < dims_; a++)
    for (int r = tile.begin; r < tile.end; r++)
      input_[a * kRowStride + r - tile.begin] = x_[at(r / n_, a) + r % n_];
}

// The units of hidden layer l that are on in the tile that went forward last.
Active Unit::active_units(const MlpSpec& spec, int l) const {
  return skips(spec) ? Active{active_count_[l], active_ + l * call_.max_width} : all(spec.widths[l + 1]);
}

// The same for a bfloat16 product, whose pairing of k follows the list: where states share tiles, a list of what some
// state switches on would let one state change another's rounding.
Active Unit::gathered_units(const MlpSpec& spec, int l) const {
  return 2 * n_ > kTileRows ? active_units(spec, l) : all(spec.widths[l + 1]);
}

// The product g -> z. Together: every member computes its share of the panels, and all get all of them. Two shared
// buffers take turns, so one meeting a product is enough.
void Unit::product(Gemm g, bool rows16, bool together, float* z) {
  const auto run = rows16 ? kernels_.gemm_rows16 : kernels_.gemm;
  g.c = z;
  if (!together) return run(g);
  const int width = rows16 ? 2 * kPanel : kPanel, panels = g.panels;
  const int first = panels * member_.rank / member_.size, end = panels * (member_.rank + 1) / member_.size;
  float* shared = z_together_[meetings_++ % 2];
  g.panels = end - first;
  g.w += first * g.panel_stride;
  g.init += first * width;
  g.c = shared + first * width;
  if (g.panels > 0) run(g);
  member_.sync();
  for (int r = 0; r < g.rows; r++)
    std::memcpy(z + r * call_.row_stride, shared + r * call_.row_stride, panels * width * sizeof(float));
}

// Runs the hidden layers of member e on input_ [inputs][rows]; returns the last activations. Together: all members of
// the team run the same tile and share its products.
Unit::Activations Unit::forward(const Net& net, int e, const Tile& tile, int inputs, bool together) {
  const MlpSpec& spec = net.mlp->spec();
  const int rows = tile.rows();
  const float* a = input_;
  for (int l = 0; l < spec.hidden(); l++) {
    const PackedLayer& layer = net.mlp->layer(e, l);
    float* z = z_ + static_cast<long>(l) * kTileRows * call_.row_stride;
    Gemm g{a, kRowStride, rows, l > 0 ? active_units(spec, l - 1) : all(inputs), layer.forward, static_cast<long>(layer.in) * kPanel,
           static_cast<int>(padded(layer.out) / kPanel), layer.b, 0, z, call_.row_stride, nullptr};
    if (l == 0) {
      for (int r = 0; r < rows; r++)
        std::memcpy(z + r * call_.row_stride,
                    net.observed + (static_cast<long>(e) * states_ + (tile.begin + r) / n_) * call_.row_stride,
                    padded(layer.out) * sizeof(float));
      g.w += static_cast<long>(call_.sizes.O) * kPanel;
      g.init = z;
      g.init_stride = call_.row_stride;
    }
    if (layer.bf16) {
      g.k = gathered_units(spec, l - 1);
      kernels_.to_pairs(a, g.k, pairs_);
      g.a = pairs_;
      g.panels = (layer.out + 2 * kPanel - 1) / (2 * kPanel);
    }
    product(g, layer.bf16, together, z);
    float* out = a_[l % 2];
    Active active{0, active_ + l * call_.max_width};
    kernels_.hidden_forward({rows, layer.out, spec.activation, spec.norm, spec.norm_eps, z, work_, call_.row_stride,
                             layer.scale, layer.bias, mean_ + l * kRowStride, rstd_ + l * kRowStride, out,
                             skips(spec) ? &active : nullptr});
    active_count_[l] = active.count;
    a = out;
  }
  return {a, active_units(spec, spec.hidden() - 1)};
}

// Pulls the head's weights back through member e to the actions; follows forward on the same tile.
void Unit::backward(const Net& net, int e, const Tile& tile) {
  const MlpSpec& spec = net.mlp->spec();
  const int rows = tile.rows(), obs = call_.sizes.O;
  const float* dy = net.mlp->layer(e, spec.hidden()).head;
  long dy_stride = 0;
  for (int l = spec.hidden() - 1; l >= 0; l--) {
    const PackedLayer& layer = net.mlp->layer(e, l);
    const float* z = z_ + static_cast<long>(l) * kTileRows * call_.row_stride;
    kernels_.hidden_backward({rows, layer.out, spec.activation, spec.norm, dy, dy_stride, z, work_, call_.row_stride,
                              layer.scale, layer.bias, mean_ + l * kRowStride, rstd_ + l * kRowStride, a_[0]});
    const int first = l > 0 ? 0 : obs / kPanel, end = l > 0 ? layer.in : obs + dims_;
    // Without a norm the gradient of a unit that is off is zero; where the layer below is off, none is wanted.
    const Active columns = l > 0 ? active_units(spec, l - 1) : Active{};
    Gemm g{a_[0], kRowStride, rows, spec.norm == Norm::none ? active_units(spec, l) : all(layer.out), layer.backward,
           static_cast<long>(layer.out) * kPanel, static_cast<int>(padded(end) / kPanel) - first, nullptr, 0, dy_,
           call_.row_stride, l > 0 && skips(spec) ? &columns : nullptr};
    if (layer.bf16) {
      kernels_.to_pairs(a_[0], all(layer.out), pairs_);
      g.a = pairs_;
      g.k = all((layer.out + 1) / 2);
      g.panel_stride = static_cast<long>(g.k.count) * kPanel;
      kernels_.gemm_pairs(g);
    } else {
      g.w += first * g.panel_stride;
      kernels_.gemm(g);
    }
    dy = dy_;
    dy_stride = call_.row_stride;
  }
  float* dq = dq_members_ + static_cast<long>(e) * states_ * dims_ * call_.stride;
  for (int r = 0; r < rows; r++)
    for (int a = 0; a < dims_; a++)
      dq[at((tile.begin + r) / n_, a) + (tile.begin + r) % n_] = dy_[r * call_.row_stride + obs % kPanel + a];
}

void Unit::sample(const Net& policy, const float* noise, int euler_steps, const Clip& clip) {
  load(noise);
  const Range range("sample", static_cast<std::int64_t>(states_) * n_);
  const PackedLayer& last = policy.mlp->layer(0, policy.mlp->spec().hidden());
  const bool together = member_.size > tiles();
  const auto run = [&](std::int64_t t) {
    const Tile tile = this->tile(static_cast<int>(t));
    gather(tile);
    if (together) member_.sync();  // all have read the noise before anyone writes particles
    for (int step = 0; step < euler_steps; step++) {
      std::fill(input_ + dims_ * kRowStride, input_ + (dims_ + 1) * kRowStride,
                static_cast<float>(step) / static_cast<float>(euler_steps));
      const Activations hidden = forward(policy, 0, tile, dims_ + 1, together);
      kernels_.gemm({hidden.a, kRowStride, tile.rows(), hidden.active, last.forward, static_cast<long>(last.in) * kPanel,
                     static_cast<int>(padded(last.out) / kPanel), last.b, 0, dy_, call_.row_stride, nullptr});
      for (int i = 0; i < dims_; i++)
        for (int r = 0; r < tile.rows(); r++)
          input_[i * kRowStride + r] += dy_[r * call_.row_stride + i] / static_cast<float>(euler_steps);
    }
    if (together && member_.rank > 0) return;
    for (int i = 0; i < dims_; i++)
      for (int r = tile.begin; r < tile.end; r++) {
        float x = input_[i * kRowStride + r - tile.begin];
        if (clip.on) x = x < clip.low ? clip.low : x > clip.high ? clip.high : x;  // NaN stays
        x_[at(r / n_, i) + r % n_] = x;
      }
  };
  if (together)
    for (int t = 0; t < tiles(); t++) run(t);
  else
    member_.share(tiles(), run);
  member_.sync();
}

void Unit::evaluate(const Net& critic) {
  const Range range("evaluate", static_cast<std::int64_t>(states_) * n_);
  const int ensemble = critic.mlp->spec().ensemble;
  const int tiles = this->tiles();
  member_.share(static_cast<std::int64_t>(tiles) * ensemble, [&](std::int64_t task) {
    const Tile tile = this->tile(static_cast<int>(task % tiles));
    const int e = static_cast<int>(task / tiles);
    gather(tile);
    const float* a = forward(critic, e, tile, dims_).a;
    const PackedLayer& last = critic.mlp->layer(e, critic.mlp->spec().hidden());
    float q[kRowStride];
    kernels_.head(a, last.in, last.head, last.b[0], q);
    std::copy(q, q + tile.rows(), q_ + static_cast<long>(e) * states_ * n_ + tile.begin);
  });
  member_.sync();
}

void Unit::gradient(const Net& critic, Aggregate aggregate) {
  const Range range("gradient", static_cast<std::int64_t>(states_) * n_);
  const int ensemble = critic.mlp->spec().ensemble;
  const int tiles = this->tiles();
  member_.share(static_cast<std::int64_t>(tiles) * ensemble, [&](std::int64_t task) {
    const Tile tile = this->tile(static_cast<int>(task % tiles));
    const int e = static_cast<int>(task / tiles);
    gather(tile);
    const float* a = forward(critic, e, tile, dims_).a;
    const PackedLayer& last = critic.mlp->layer(e, critic.mlp->spec().hidden());
    float q[kRowStride];
    kernels_.head(a, last.in, last.head, last.b[0], q);
    std::copy(q, q + tile.rows(), q_ + static_cast<long>(e) * states_ * n_ + tile.begin);
    backward(critic, e, tile);
  });
  member_.sync();
  member_.share(states_, [&](std::int64_t s) { combine(ensemble, aggregate, static_cast<int>(s)); });
  member_.sync();
}

float Unit::aggregated(int ensemble, Aggregate aggregate, int s, int i) const {
  float result = q(0, s, i);
  for (int e = 1; e < ensemble; e++) {
    const float other = q(e, s, i);
    if (aggregate == Aggregate::mean)
      result += other;
    else if (!(result <= other) && !std::isnan(result))
      result = other;  // smaller, or NaN
  }
  return aggregate == Aggregate::mean ? result / ensemble : result;
}

// dq of the aggregate from the members' own: their mean, or the smallest critic's, shared evenly at a tie.
void Unit::combine(int ensemble, Aggregate aggregate, int s) {
  const long member_stride = static_cast<long>(states_) * dims_ * call_.stride;
  for (int i = 0; i < n_; i++) {
    const float smallest = aggregate == Aggregate::min ? aggregated(ensemble, aggregate, s, i) : 0;
    int sharing = 0;
    for (int e = 0; e < ensemble; e++) sharing += aggregate == Aggregate::mean || q(e, s, i) == smallest;
    for (int a = 0; a < dims_; a++) {
      float sum = 0;
      for (int e = 0; e < ensemble; e++)
        if (aggregate == Aggregate::mean || q(e, s, i) == smallest)
          sum += dq_members_[e * member_stride + at(s, a) + i];
      // nobody is smallest where q is NaN
      dq_[at(s, a) + i] = sharing ? sum / sharing : std::numeric_limits<float>::quiet_NaN();
    }
  }
  for (int a = 0; a < dims_; a++) std::fill(dq_ + at(s, a) + n_, dq_ + at(s, a) + call_.stride, 0.0f);
}

void Unit::direction() {
  const Range range("pairwise", static_cast<std::int64_t>(states_) * n_);
  const FlowOptions& o = call_.options;
  const float inverse_alpha = static_cast<float>(1 / o.alpha);
  if (!o.kernel) {
    const float factor = static_cast<float>(1 / (o.alpha * n_));
    chunks([&](int s, int begin, int end, int) {
      const long last = end == n_ ? call_.stride : end;
      for (int a = 0; a < dims_; a++)
        for (long i = at(s, a) + begin; i < at(s, a) + last; i++) phi_[i] = factor * dq_[i];
    });
    member_.sync();
    return;
  }
  member_.share(states_, [&](std::int64_t s) {
    bandwidth_[s] = o.median ? median_bandwidth(x_ + at(s, 0), call_.stride, dims_, n_, o.bandwidth_grad, scratch_)
                             : Bandwidth{fixed_bandwidth(o.sigma), true, {}};
  });
  member_.sync();
  chunks([&](int s, int begin, int end, int chunk) {
    float* d2k = o.bandwidth_grad ? d2k_ + s * chunks_per_state_ + chunk : nullptr;
    kernels_.pairwise({x_ + at(s, 0), dq_ + at(s, 0), call_.stride, n_, dims_, begin, end, bandwidth_[s].gamma,
                       inverse_alpha, scratch_, phi_ + at(s, 0), d2k});
    if (end == n_)
      for (int a = 0; a < dims_; a++) std::fill(phi_ + at(s, a) + n_, phi_ + at(s, a) + call_.stride, 0.0f);
  });
  member_.sync();
  if (!o.bandwidth_grad) return;
  // What differentiating sum_ij k_ij through the median adds, to the row particles of the middle entries.
  member_.share(states_, [&](std::int64_t state) {
    const int s = static_cast<int>(state);
    const Bandwidth& b = bandwidth_[s];
    if (b.floored) return;
    double d2k = 0;
    for (int chunk = 0; chunk < chunks_per_state_; chunk++) d2k += d2k_[s * chunks_per_state_ + chunk];
    const double dsum = 2 * double{b.gamma} * b.gamma * d2k / (2 * std::log(n_ + 1.0));
    for (int m = 0; m < b.middle.entries; m++)
      for (int a = 0; a < dims_; a++) {
        const float* x = x_ + at(s, a);
        const double apart = double{x[b.middle.row[m]]} - x[b.middle.column[m]];
        phi_[at(s, a) + b.middle.row[m]] -= static_cast<float>(dsum * 2 * apart / (b.middle.entries * double(n_)));
      }
  });
  member_.sync();
}

void Unit::update(int step) {
  const Range range("update", static_cast<std::int64_t>(states_) * n_);
  const FlowOptions& o = call_.options;
  const float first = static_cast<float>(1 / (1 - std::pow(0.9, step)));
  const float second = static_cast<float>(1 / (1 - std::pow(0.999, step)));
  chunks([&](int s, int begin, int end, int) {
    const int count = static_cast<int>(end == n_ ? call_.stride - begin : end - begin);
    for (int a = 0; a < dims_; a++) {
      const long from = at(s, a) + begin;
      kernels_.adam({phi_ + from, x_ + from, first_moment_ + from, second_moment_ + from, count,
                     static_cast<float>(o.learning_rate), first, second, o.adam, o.clip});
    }
  });
  member_.sync();
}

}  // namespace vgf::cpu
