#include "unit.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ranges.hpp"

namespace vgf::cpu {
namespace {

constexpr int kChunk = 64;  // particles a member takes at a time in the pairwise part; a multiple of kPanel

}  // namespace

Unit::Unit(const Call& call, const Member& member, float* shared, float* own)
    : Unit(call, member, Carver(shared), Carver(own), own != nullptr) {}

Unit::Unit(const Call& call, const Member& member, Carver team, Carver alone, bool touch)
    : call_(call),
      member_(member),
      kernels_(kernels()),
      n_(static_cast<int>(call.sizes.N)),
      dims_(call.sizes.A),
      chunks_per_state_((n_ + kChunk - 1) / kChunk),
      together_(team.take(Group::together_floats(call))),
      group_(call, member, alone, together_, touch) {
  const long particles = static_cast<long>(call.states_per_unit) * dims_ * call.stride;
  for (float*& observed : observed_)
    observed = team.take(static_cast<long>(call.max_ensemble) * call.states_per_unit * call.row_stride);
  for (float** piece : {&x_, &dq_, &phi_, &first_moment_, &second_moment_}) *piece = team.take(particles);
  q_ = team.take(static_cast<long>(call.max_ensemble) * call.states_per_unit * n_);
  dq_members_ = team.take(call.max_ensemble * particles);
  d2k_ = team.take(static_cast<long>(call.states_per_unit) * chunks_per_state_);
  bandwidth_ = reinterpret_cast<Bandwidth*>(team.take(call.states_per_unit * sizeof(Bandwidth) / sizeof(float)));
  team_median_ = team.take(static_cast<long>(bandwidth_shared(n_)));
  own_median_ = alone.take(static_cast<long>(bandwidth_shared(n_)));
  scratch_ = alone.take(static_cast<long>(std::max<std::size_t>(bandwidth_scratch(n_), call.stride)));
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

Tile Unit::tile(int t) const {
  if (call_.states_per_tile > 0) {
    const int rows = call_.states_per_tile * n_;
    return {t * rows, std::min((t + 1) * rows, states_ * n_)};
  }
  const std::int64_t rows = n_, tiles = this->tiles();
  return {static_cast<int>(rows * t / tiles), static_cast<int>(rows * (t + 1) / tiles)};
}

template <class F>
void Unit::groups(int ensemble, F f) const {
  const std::int64_t tiles = this->tiles(), all = tiles * ensemble;
  std::int64_t task = member_.begin_of(all, member_.rank);
  const std::int64_t end = member_.begin_of(all, member_.rank + 1);
  while (task < end) {
    const std::int64_t e = task / tiles, left = std::min(end, (e + 1) * tiles) - task;
    const std::int64_t groups = (left + call_.group_tiles - 1) / call_.group_tiles, count = (left + groups - 1) / groups;
    f(static_cast<int>(e), static_cast<int>(task % tiles), static_cast<int>(count));
    task += count;
  }
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
  float* input = group_[0].input;
  member_.share(static_cast<std::int64_t>(net.mlp->spec().ensemble) * blocks, [&](std::int64_t task) {
    const int e = static_cast<int>(task / blocks), begin = static_cast<int>(task % blocks) * kTileRows;
    const int count = std::min(kTileRows, states_ - begin);
    for (int k = 0; k < width; k++)
      for (int s = 0; s < count; s++) input[blocked(k) + s * kPanel] = obs[(first_ + begin + s) * width + k];
    const PackedLayer& layer = net.mlp->layer(e, 0);
    Gemm g = layer.forward.product();
    g.a = input;
    g.rows = count;
    g.k = group_.all(width);
    g.init = layer.b;
    g.c = net.observed + (static_cast<long>(e) * states_ + begin) * call_.row_stride;
    g.c_stride = call_.row_stride;
    kernels_.gemm(g);
  });
  member_.sync();
}

// Sends `count` tiles to the group, their particles as the input of the first layer.
void Unit::gather(int first, int count) {
  for (int i = 0; i < count; i++) {
    Group::Passenger& p = group_[i];
    p.tile = tile(first + i);
    for (int a = 0; a < dims_; a++)
      for (int r = p.tile.begin; r < p.tile.end; r++)
        p.input[blocked(a) + (r - p.tile.begin) * kPanel] = x_[at(r / n_, a) + r % n_];
  }
}

void Unit::sample(const Net& policy, const float* noise, int euler_steps, const Clip& clip) {
  load(noise);
  const Range range("sample", static_cast<std::int64_t>(states_) * n_);
  const bool together = member_.size > tiles();
  const auto run = [&](int, int first, int count) {
    gather(first, count);
    if (together) member_.sync();  // all have read the noise before anyone writes particles
    for (int step = 0; step < euler_steps; step++) {
      const float time = static_cast<float>(step) / static_cast<float>(euler_steps);
      for (int i = 0; i < count; i++)
        for (int r = 0; r < kTileRows; r++) group_[i].input[blocked(dims_) + r * kPanel] = time;
      group_.forward(policy, 0, count, states_, dims_ + 1, together);
      group_.output(policy, 0, count);
      for (int i = 0; i < count; i++) {
        const Group::Passenger& p = group_[i];
        for (int a = 0; a < dims_; a++)
          for (int r = 0; r < p.tile.rows(); r++)
            p.input[blocked(a) + r * kPanel] += p.dy[r * call_.row_stride + a] / static_cast<float>(euler_steps);
      }
    }
    if (together && member_.rank > 0) return;
    for (int i = 0; i < count; i++) {
      const Group::Passenger& p = group_[i];
      for (int a = 0; a < dims_; a++)
        for (int r = p.tile.begin; r < p.tile.end; r++) {
          float x = p.input[blocked(a) + (r - p.tile.begin) * kPanel];
          if (clip.on) x = x < clip.low ? clip.low : x > clip.high ? clip.high : x;  // NaN stays
          x_[at(r / n_, a) + r % n_] = x;
        }
    }
  };
  if (together)
    for (int t = 0; t < tiles(); t++) run(0, t, 1);
  else
    groups(1, run);
  member_.sync();
}

// q of member e for `count` tiles from `first` on.
void Unit::values(const Net& critic, int e, int first, int count) {
  gather(first, count);
  group_.forward(critic, e, count, states_, dims_);
  for (int i = 0; i < count; i++) {
    const Tile& tile = group_[i].tile;
    float q[kTileRows];
    group_.head(critic, e, i, q);
    std::copy(q, q + tile.rows(), q_ + static_cast<long>(e) * states_ * n_ + tile.begin);
  }
}

void Unit::evaluate(const Net& critic) {
  const Range range("evaluate", static_cast<std::int64_t>(states_) * n_);
  groups(critic.mlp->spec().ensemble, [&](int e, int first, int count) { values(critic, e, first, count); });
  member_.sync();
}

void Unit::gradient(const Net& critic, Aggregate aggregate) {
  const Range range("gradient", static_cast<std::int64_t>(states_) * n_);
  const int ensemble = critic.mlp->spec().ensemble;
  groups(ensemble, [&](int e, int first, int count) {
    values(critic, e, first, count);
    group_.backward(critic, e, count);
    float* dq = dq_members_ + static_cast<long>(e) * states_ * dims_ * call_.stride;
    for (int i = 0; i < count; i++) {
      const Group::Passenger& p = group_[i];
      for (int r = 0; r < p.tile.rows(); r++)
        for (int a = 0; a < dims_; a++)
          dq[at((p.tile.begin + r) / n_, a) + (p.tile.begin + r) % n_] =
              p.dy[r * call_.row_stride + group_.first_action() + a];
    }
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
  const auto bandwidth = [&](const Member& team, int s, float* shared) {
    if (!o.median) return fixed_bandwidth(o.sigma);
    return median_bandwidth(team, x_ + at(s, 0), call_.stride, dims_, n_, o.bandwidth_grad, shared, scratch_);
  };
  if (states_ == 1) {
    const Bandwidth found = bandwidth(member_, 0, team_median_);
    if (member_.rank == 0) bandwidth_[0] = found;
  } else {
    const Member alone;
    member_.share(states_, [&](std::int64_t s) { bandwidth_[s] = bandwidth(alone, static_cast<int>(s), own_median_); });
  }
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
