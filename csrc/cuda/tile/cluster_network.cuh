// Networks on a tile by a cluster: each member by a team of blocks, each layer by all blocks of a team.
//
// A block has 64 columns of every hidden layer, and a thread 8 of them (a unit) of one row, in registers. The first layer
// and the last are dot products of what a thread has with packed weights from L1, in float32; hidden products are
// SliceProducts. What is exchanged, in order, and where it lands (slice.cuh has the area's layouts):
//   up      RowSums of z            row_sums of every block of the team
//           activations, bfloat16   the area of every block of the team
//   down    RowSums of g and g y    row_sums of every block of the team
//           parts of dy, bfloat16   the area of the block whose columns they are
//   at last what a block's columns add to q, dq or velocity: its own scratch, where all blocks of the cluster read it
// Sums are sent also where no norm needs them: who has received the sums of all blocks knows that these have read the area,
// and who has received their activations or parts, that they have read the sums. So nothing is kept twice, and only the end
// of a pass, and the turn from up to down, take a barrier of the cluster.
//
// scratch  tape  [hidden][kThreads] Kept: what a thread needs on its way back, its own
//          work  [2][Rows][A + 1] floats: what this block's columns add, to q at A. Passes take turns, since another team may
//                still be reading what the last one left.
#pragma once

#include <ptx/cluster.cuh>

#include "../../math/activations.hpp"
#include "hidden.cuh"
#include "place.cuh"
#include "slice.cuh"

namespace vgf::cuda {

struct alignas(16) Kept {
  Part z;
  float mean, rstd;
};
static_assert(sizeof(Kept) == kKeptBytes);

// Where 8 numbers of k of one column of a packed operand are.
__device__ inline const unsigned char* weights_at(const unsigned char* operand, int blocks, int columns, int column, int part) {
  const int chunk = column / kChunk, within = column % kChunk, row = within / kGroup * kGroup + place_of(within % kGroup);
  return ptx::in_global(operand) + tile_offset(blocks, columns, chunk, part / kParts) + part_offset(row, part % kParts);
}
// 8 numbers of k of each of a unit's columns, of which `column` is the first. In a packed operand these lie at places that are
// as far apart for all units, and are swizzled alike.
__device__ inline void load_weights_of_unit(const unsigned char* operand, int blocks, int columns, int column, int part,
                                            Part (&w)[kUnit]) {
  const unsigned char* first = weights_at(operand, blocks, columns, column, part);
#pragma unroll
  for (int i = 0; i < kUnit; i++) w[i] = *reinterpret_cast<const Part*>(first + place_of(i) * kBlockBytes);
}
constexpr bool units_lie_alike() {
  for (int column = 0; column < kGroup; column++) {
    const int first = place_of(column / kUnit * kUnit), apart = place_of(column % kUnit);
    for (int part = 0; part < kParts; part++)
      if (part_offset(place_of(column), part) != part_offset(first, part) + apart * kBlockBytes) return false;
  }
  return true;
}
static_assert(units_lie_alike());

// The sum over the threads of a row.
__device__ inline float sum_units(float x) {
  x += ptx::shuffle_xor(x, 1);
  x += ptx::shuffle_xor(x, 2);
  return x + ptx::shuffle_xor(x, 4);
}
// The same of eight numbers: each thread gets the sum of one, that of its unit.
__device__ inline float sum_units_of_each(float (&x)[kUnit], int unit) {
#pragma unroll
  for (int half = kUnit / 2; half > 0; half /= 2) {
    const bool upper = unit & half;
#pragma unroll
    for (int i = 0; i < half; i++) {
      const float kept = upper ? x[i + half] : x[i], given = upper ? x[i] : x[i + half];
      x[i] = kept + ptx::shuffle_xor(given, half);
    }
  }
  return x[0];
}

// b + obs W of the first layer, this block's columns of the tile's states.
__device__ __noinline__ inline void observe(const Place& here, const Net& net, int e, int rank) {
  const Program& p = here.p;
  const Observed to = here.observed(net);
  const float* obs = ptx::in_global(p.obs + here.first_state * p.O);
  const int parts = k_blocks(p.O, Precision::bf16) * kParts;
  for (int i = ptx::thread(); i < here.states * kSlice; i += kThreads) {
    const int s = i / kSlice, c = rank * kSlice + i % kSlice;
    if (c >= net.first_width) continue;
    float z = vectors(net, e, net.layer(0).vectors)[c];
    for (int part = 0; part < parts; part++) {
      float w[kUnit];
      const unsigned char* at = weights_at(net.member(e) + net.observe, parts / kParts, net.first_width, c, part);
      widen(*reinterpret_cast<const Part*>(at), w);
#pragma unroll
      for (int j = 0; j < kUnit; j++) {
        const int k = part * kUnit + j;
        z = math::fma(k < p.O ? obs[std::int64_t{s} * p.O + k] : 0.0f, w[j], z);
      }
    }
    to.at[e * to.stride + std::int64_t{s} * net.first_width + c] = z;
  }
  ptx::sync_block();
}

template <int Rows>
class ClusterNetwork {
  using Products = SliceProducts<Rows>;

 public:
  __device__ explicit ClusterNetwork(const Place& place)
      : here(place), p(place.p), area(ptx::shared_memory()),
        row_sums(reinterpret_cast<RowSums*>(area + area_bytes(Rows, p.team))),
        sums(reinterpret_cast<ptx::Barrier*>(area + area_bytes(Rows, p.team) + row_sums_bytes(Rows)),
             sums_received(Rows, p.team)),
        numbers(reinterpret_cast<ptx::Barrier*>(area + area_bytes(Rows, p.team) + row_sums_bytes(Rows)) + 1,
                numbers_received(Rows, p.team)),
        weights(area + area_bytes(Rows, p.team) + row_sums_bytes(Rows) + kInboxBytes),
        first_of_team(ptx::cluster_rank() / p.team * p.team), rank(ptx::cluster_rank() % p.team),
        row(ptx::thread() / kSliceUnits), unit(ptx::thread() % kSliceUnits), column(rank * kSlice + unit * kUnit) {}

  // By all threads of the cluster: behind it they can be sent to.
  __device__ void begin() const {
    // of blocks that the team does not have
    for (int i = ptx::thread(); i < Rows * kMostTeam; i += kThreads) row_sums[i] = {};
    if (ptx::thread() == 0) {
      sums.begin();
      numbers.begin();
      ptx::publish_barriers();
    }
    ptx::sync_cluster();
  }

  // Shared memory of the pairwise part, between passes.
  __device__ Bandwidth* bandwidths() const { return reinterpret_cast<Bandwidth*>(area); }
  __device__ float* pair_memory() const { return reinterpret_cast<float*>(area + bandwidth_bytes(Rows)); }

  // All members at once, where the first one's turn is. Teams beyond a net's members do what the last one does.
  __device__ void run(const Pass& pass) {
    if (pass.member > 0) return;
    const Net& net = net_of(p, pass);
    const int team = first_of_team / p.team, member = min_int(team, net.ensemble - 1);
    weights.hold(net, member, rank);
    if (pass.observes) {
      const Place place = here;  // a copy, since this one's numbers are better off in registers
      return observe(place, net, member, rank);
    }
    const bool gradient = pass.role == Role::critic;
    const float time = pass.role == Role::policy ? static_cast<float>(pass.round) / counted(p.euler_steps) : 0;
    go_up(net, member, time, gradient);
    if (gradient) go_down(net, member);
    ptx::sync_cluster();
    gather(net, gradient);
    turn ^= 1;
  }

 private:
  // Threads of the last warps have no row in a tile of 16.
  __device__ bool has_row() const { return row < Rows; }
  __device__ bool has_column(const PackedLayer& layer) const { return column < padded(layer.width); }
  __device__ Kept* tape(int l) const {
    return ptx::in_global(reinterpret_cast<Kept*>(here.scratch + p.at.tape) + l * kThreads + ptx::thread());
  }
  __device__ float* added(int block) const {  // what a block of the cluster has found
    unsigned char* its_scratch = here.scratch + (block - static_cast<int>(ptx::cluster_rank())) * p.at.bytes;
    return ptx::in_global(reinterpret_cast<float*>(its_scratch + p.at.work) + turn * Rows * (p.A + 1));
  }
  __device__ void cut(int width, float (&x)[kUnit]) const { cut_unit(column, width, x); }

  // ---- exchanges

  // Sums of this block's columns to all blocks of the team: the threads of a row take a block each.
  __device__ void send_sums(float a, float b) const {
    ptx::sync_warp();  // what all threads of a row have read of the area is read
    if (unit < p.team)
      sums.send(row_sums + row * kMostTeam + rank, {{ptx::as_bits(a), ptx::as_bits(b)}}, first_of_team + unit);
  }
  // Over all blocks, times `each`.
  __device__ void receive_sums(float each, float& a, float& b) {
    sums.receive();
    if (!has_row()) return;
    const Four* const of_row = ptx::in_shared(reinterpret_cast<const Four*>(row_sums + row * kMostTeam));
    Four sum[kMostTeam / 2];
#pragma unroll
    for (int i = 0; i < kMostTeam / 2; i++) sum[i] = of_row[i];
#pragma unroll
    for (int apart = kMostTeam / 4; apart > 0; apart /= 2)
#pragma unroll
      for (int i = 0; i < apart; i++)
#pragma unroll
        for (int k = 0; k < 4; k++) sum[i].x[k] += sum[i + apart].x[k];
    a = (sum[0].x[0] + sum[0].x[2]) * each;
    b = (sum[0].x[1] + sum[0].x[3]) * each;
  }
  __device__ void send_activations(const Part& part) const {
    unsigned char* place = area + (2 * rank + unit / kParts) * Rows * kBlockBytes + part_offset(row, unit % kParts);
#pragma unroll
    for (int i = 0; i < kMostTeam; i++) {  // each block begins with another one
      if (i == p.team) break;
      const int to = rank + i;
      numbers.send(reinterpret_cast<Part*>(place), part, first_of_team + (to < p.team ? to : to - p.team));
    }
  }

  // ---- up

  // z of the first layer: what the observations give, and the particles (and the time).
  __device__ void enter(const Net& net, int e, float time, float (&z)[kUnit]) const {
    const int r = row < here.rows ? row : 0, blocks_of_k = k_blocks(net.inputs, Precision::bf16);
    const Observed seen = here.observed(net);
    load_unit(seen.at + e * seen.stride + std::int64_t{(r + here.offset) / p.N} * net.first_width + column, z);
    for (int part = 0; part * kUnit < net.inputs; part++) {
      float x[kUnit];
#pragma unroll
      for (int j = 0; j < kUnit; j++) {
        const int k = part * kUnit + j;
        x[j] = k < p.A ? here.x()[r * p.A + k] : k < net.inputs ? time : 0;
      }
      Part w[kUnit];
      load_weights_of_unit(net.member(e) + net.layer(0).forward, blocks_of_k, net.first_width, column, part, w);
#pragma unroll
      for (int j = 0; j < kUnit; j++) {
        if (part * kUnit + j >= net.inputs) break;
#pragma unroll
        for (int i = 0; i < kUnit; i++) z[i] = math::fma(x[j], number(w[i], j), z[i]);
      }
    }
  }

  __device__ void go_up(const Net& net, int e, float time, bool keep) {
    for (int l = 0; l < net.hidden; l++) {
      const PackedLayer layer = net.layer(l);
      const bool mine = has_row() && has_column(layer), normed = net.norm != Norm::none;
      const float* v = vectors(net, e, layer.vectors) + column;
      float z[kUnit] = {};
      if (mine && l > 0) load_unit(v, z);
      if (mine && l == 0) enter(net, e, time, z);
      if (l == 1) weights.arrive();
      if (l > 0) {
        Products::up(area, weights.layer(net, l), k_blocks(padded(net.layer(l - 1).width), Precision::bf16));
        if (mine) Products::add_quarters(area, row, unit, z);
      }
      Kept kept{rounded(z), 0, 1};  // without a norm these are its mean and 1 / std
      widen(kept.z, z);
      if (has_row()) send_squares(layer.width, z);
      float by[kUnit] = {}, plus[kUnit] = {};
      if (mine && normed) {
        load_unit(v + padded(layer.width), by);
        load_unit(v + 2 * padded(layer.width), plus);
      }
      float mean = 0, square = 0;
      receive_sums(layer.inverse_width, mean, square);
      if (normed && has_row()) {  // as flax computes the variance, from the mean of squares
        kept.mean = mean;
        kept.rstd = ptx::reciprocal_root(math::max(0.0f, math::fma(-mean, mean, square)) + net.norm_eps);
#pragma unroll
        for (int i = 0; i < kUnit; i++) z[i] = math::fma((z[i] - kept.mean) * kept.rstd, by[i], plus[i]);
      }
      if (keep) *tape(l) = kept;
      activate<Precision::bf16>(net.activation, z);
      cut(layer.width, z);
      if (l + 1 == net.hidden) {
        if (has_row()) leave(net, e, mine, z);
        return;
      }
      if (has_row()) send_activations(rounded(z));
      numbers.receive();
    }
  }

  // The sums of this block's numbers of a row, and of their squares.
  __device__ void send_squares(int width, const float (&z)[kUnit]) const {
    float x[kUnit], sum = 0, squares = 0;
#pragma unroll
    for (int i = 0; i < kUnit; i++) x[i] = z[i];
    cut(width, x);
#pragma unroll
    for (int i = 0; i < kUnit; i++) {
      sum += x[i];
      squares = math::fma(x[i], x[i], squares);
    }
    send_sums(sum_units(sum), sum_units(squares));
  }

  // What these columns of the last hidden layer add to q, or to the velocity.
  __device__ void leave(const Net& net, int e, bool mine, const float (&x)[kUnit]) const {
    float* to = added(ptx::cluster_rank()) + row * (p.A + 1);
    if (net.critic) {
      float w[kUnit] = {}, q = 0;
      if (mine) load_unit(vectors(net, e, net.last) + column, w);
#pragma unroll
      for (int i = 0; i < kUnit; i++) q = math::fma(x[i], w[i], q);
      q = sum_units(q);
      if (unit == 0) to[p.A] = q;
      return;
    }
    const int blocks_of_k = k_blocks(padded(net.layer(net.hidden - 1).width), Precision::bf16);
    for (int first = 0; first < p.A; first += kUnit) {  // of outputs, which are padded
      Part w[kUnit] = {};
      if (mine) load_weights_of_unit(net.member(e) + net.last, blocks_of_k, padded(net.outputs), first, column / kUnit, w);
      float v[kUnit] = {};
#pragma unroll
      for (int i = 0; i < kUnit; i++)
#pragma unroll
        for (int j = 0; j < kUnit; j++) v[i] = math::fma(x[j], number(w[i], j), v[i]);
      const float sum = sum_units_of_each(v, unit);
      if (first + unit < p.A) to[first + unit] = sum;
    }
  }

  // ---- down

  // Layer norm backward: with y the normalised values and g = dy act' scale, dz = rstd (g - mean(g) - y mean(g y)).
  __device__ void go_down(const Net& net, int e) {
    const bool normed = net.norm != Norm::none;
    float dy[kUnit] = {};
    if (has_row() && has_column(net.layer(net.hidden - 1))) load_unit(vectors(net, e, net.last) + column, dy);
    // of the layer whose turn is next, asked for before its dy is here
    Kept kept;
    float by[kUnit], plus[kUnit];
    const auto recall = [&](int l) {
      const PackedLayer layer = net.layer(l);
      kept = *tape(l);
      if (!normed || !has_row() || !has_column(layer)) return;
      const float* v = vectors(net, e, layer.vectors) + column;
      load_unit(v + padded(layer.width), by);
      load_unit(v + 2 * padded(layer.width), plus);
    };
#pragma unroll
    for (int i = 0; i < kUnit; i++) by[i] = 1, plus[i] = 0;
    recall(net.hidden - 1);
    ptx::sync_cluster();  // the last sums of the way up are read
    for (int l = net.hidden - 1;; l--) {
      const PackedLayer layer = net.layer(l);
      float y[kUnit], input[kUnit];
      widen(kept.z, y);
#pragma unroll
      for (int i = 0; i < kUnit; i++) {
        y[i] = (y[i] - kept.mean) * kept.rstd;  // without a norm mean is 0 and rstd is 1
        input[i] = math::fma(y[i], by[i], plus[i]);
      }
      pull_back<Precision::bf16>(net.activation, input, dy);
#pragma unroll
      for (int i = 0; i < kUnit; i++) dy[i] *= by[i];
      cut(layer.width, dy);
      cut(layer.width, y);
      if (has_row()) {
        float g = 0, gy = 0;
#pragma unroll
        for (int i = 0; i < kUnit; i++) {
          g += dy[i];
          gy = math::fma(dy[i], y[i], gy);
        }
        g = sum_units(g);
        send_sums(g, sum_units(gy));
      }
      float g = 0, gy = 0;
      receive_sums(layer.inverse_width, g, gy);
      if (normed && has_row()) {
#pragma unroll
        for (int i = 0; i < kUnit; i++) dy[i] = kept.rstd * (dy[i] - g - y[i] * gy);
        cut(layer.width, dy);
      }
      if (l == 0) break;
      const int below = padded(net.layer(l - 1).width);
      if (has_row()) Products::put(Products::part_of(area, rank), row, unit, rounded(dy));
      ptx::sync_block();
      Products::down(area, weights.layer(net, l), k_blocks(below, Precision::bf16), p.team, rank, first_of_team, numbers);
      recall(l - 1);
      numbers.receive();
#pragma unroll
      for (int i = 0; i < kUnit; i++) dy[i] = 0;
      if (has_row() && column < below) Products::add_parts(area, p.team, row, unit, dy);
    }
    if (has_row()) leave_below(net, e, has_column(net.layer(0)), dy);
  }

  // What these columns of the first layer add to dq.
  __device__ void leave_below(const Net& net, int e, bool mine, const float (&dz)[kUnit]) const {
    float* to = added(ptx::cluster_rank()) + row * (p.A + 1);
    const int blocks_of_k = k_blocks(net.inputs, Precision::bf16);
    for (int part = 0; part * kUnit < p.A; part++) {
      Part w[kUnit] = {};
      if (mine) load_weights_of_unit(net.member(e) + net.layer(0).forward, blocks_of_k, net.first_width, column, part, w);
      float sum[kUnit] = {};
#pragma unroll
      for (int i = 0; i < kUnit; i++)
#pragma unroll
        for (int j = 0; j < kUnit; j++) sum[j] = math::fma(dz[i], number(w[i], j), sum[j]);
      const float d = sum_units_of_each(sum, unit);
      const int a = part * kUnit + unit;
      if (a < p.A) to[a] = d;
    }
  }

  // Of all members, in every block: what their teams' blocks have found, in order.
  __device__ void gather(const Net& net, bool gradient) const {
    const int pitch = p.A + 1, of_member = here.rows * pitch;
    const std::int64_t floats_apart = p.at.bytes / static_cast<std::int64_t>(sizeof(float));  // from block to block
    for (int i = ptx::thread(); i < net.ensemble * of_member; i += kThreads) {
      const int e = i / of_member, at = i % of_member, r = at / pitch, a = at % pitch;
      const bool value = a == p.A;
      if (value ? !net.critic : net.critic && !gradient) continue;
      const float* first = added(e * p.team) + at;
      float part[kMostTeam], sum = 0;
#pragma unroll
      for (int block = 0; block < kMostTeam; block++) part[block] = block < p.team ? first[block * floats_apart] : 0;
#pragma unroll
      for (int block = 0; block < kMostTeam; block++) sum += part[block];
      if (value)
        here.q(e)[r] = sum + *vectors(net, e, net.last_bias);
      else
        here.member(e)[r * padded(p.A) + a] = net.critic ? sum : sum + vectors(net, e, net.last_bias)[a];
    }
    ptx::sync_block();
  }

  const Place& here;
  const Program& p;
  unsigned char* area;
  RowSums* row_sums;
  Inbox sums, numbers;
  Slice weights;
  int first_of_team, rank;  // this block's place in the cluster and in its team
  int row, unit, column;    // of this thread
  int turn = 0;             // of `work`
};

}  // namespace vgf::cuda
