// Networks on a tile by wgmma, bfloat16: a warpgroup takes 64 rows through all layers on its own; weights come from the
// ring. See sm90_design.md for what was weighed, and what this costs.
//
// a      activations (of the gradient: dz), k-blocks of [Rows][64 bytes] in shared memory, updated in place
// tape   z of every hidden layer as bfloat16, in scratch. A thread reads back only what it has written, so it lies there as
//        the thread holds it: [groups of 32 columns][2 halves][128 threads a warpgroup] of 16 bytes. Likewise `work`: dy
//        of all columns but the last chunk's.
// stats  [hidden][Rows][2] floats: mean and 1 / std
//
// A product is 256 columns at a time, 128 sums a thread. Of a chunk that is not the last, z goes to the tape and comes
// back when the whole row's norm is known; z of the last chunk waits in `a`, at the place where its activation will be:
// all products that read `a` are done by then. So between two products a thread walks over its own 2 rows of every group
// in a loop of few registers, whatever the activation.
#pragma once

#include "ring.cuh"
#include "warpgroup_hidden.cuh"

namespace vgf::cuda {

using Sums = float[kChunk / 2];

// A thread's numbers of a group and row: 8 columns side by side, as weights are packed.
__device__ inline void take_unit(const Sums& sum, int group, int half, float (&x)[kUnit]) {
#pragma unroll
  for (int i = 0; i < kUnit; i++) x[i] = sum[(4 * group + i / 2) * 4 + 2 * half + i % 2];
}

// Rows: of a tile, 64 or 128. With 64 the second warpgroup has none, and helps between passes only.
template <int Rows>
class WarpgroupNetwork {
  using Layer = cuda::Layer<Rows>;

 public:
  __device__ WarpgroupNetwork(const Place& place, Ring& weights) : here(place), p(place.p), ring(weights) {
    a = ring.slots + kRing * kSlotBytes;
  }

  // Shared memory of the pairwise part: that of the activations, between networks.
  __device__ Bandwidth* bandwidths() const { return reinterpret_cast<Bandwidth*>(a); }
  __device__ float* pair_memory() const { return reinterpret_cast<float*>(a + bandwidth_bytes(Rows)); }

  // Everything but the products and what their sums are needed for is in functions: products are not, because the compiler
  // would wait for each (its warning C7510), and are written once, because they are large.
  __device__ void run(const Pass& pass) const {
    const Net& net = net_of(p, pass);
    enter(pass, net);
    for (int product = 0; has_rows() && product < products_of(p, pass); product++) {
      const Layer y = layer(pass, net, product);
      Moments moments[2];
      for (int chunk = 0; chunk < chunks_of(y.columns); chunk++) {
        Sums sum;
        multiply(y, chunk, sum);
        if (y.what == Layer::out) {
          put_out(y, chunk, sum);
          continue;
        }
        const bool last = chunk + 1 == chunks_of(y.columns);
        if (last) ptx::sync_warpgroup();  // A is free
        if (y.what == Layer::up)
          put_up(y, chunk, last, sum, moments);
        else
          put_down(y, chunk, last, sum);
      }
      if (y.what == Layer::up) y.go_up(moments[0], moments[1]);
      if (y.what == Layer::down || y.from_head) go_down(y);
    }
    ptx::sync_block();
  }

 private:
  // Whether this warpgroup has rows of the tile.
  static __device__ bool has_rows() { return ptx::thread() < Rows / kGroupRows * kGroupThreads; }

  // The way into the first product: observations, or particles (and the time, where the net takes one more input).
  __device__ __noinline__ void enter(const Pass& pass, const Net& net) const {
    if (pass.observes) {
      const float* obs = p.obs + here.first_state * p.O;
      fill_operand<Precision::bf16>(a, Rows, here.states, p.O,
                                    [&](int s, int o) { return obs[std::int64_t{s} * p.O + o]; });
    } else {
      const float* particles = here.x();
      const int dims = p.A;
      const float time = pass.role == Role::policy ? static_cast<float>(pass.round) / counted(p.euler_steps) : 0;
      fill_operand<Precision::bf16>(a, Rows, here.rows, net.inputs,
                                    [&](int row, int k) { return k < dims ? particles[row * dims + k] : time; });
    }
    ptx::show_to_products();
    ptx::sync_block();
  }

  __device__ __noinline__ Layer layer(const Pass& pass, const Net& net, int product) const {
    const Operand o = operand_of(p, pass, product);
    Layer y{};
    y.a = a;
    y.blocks = o.blocks;
    y.columns = o.columns;
    if (pass.observes) {
      y.init = vectors(net, product, net.layer(0).vectors);
      const Observed to = here.observed(net);
      y.to = to.at + product * to.stride;
      y.rows = here.states;
      return y;
    }
    const bool gradient = pass.role == Role::critic, down = product >= net.hidden;
    y.rows = here.rows;
    const int l = down ? 2 * net.hidden - 2 - product : product;  // whose z or dz it is
    if (down && (!net.critic || l < 0)) {
      y.init = net.critic ? nullptr : vectors(net, 0, net.last_bias);
      y.to = here.member(pass.member);
      return y;
    }
    const PackedLayer packed_layer = net.layer(l);
    y.what = down ? Layer::down : Layer::up;
    y.width = packed_layer.width;
    y.groups = padded(y.width) / kGroup;
    y.activation = net.activation;
    y.normed = net.norm != Norm::none;
    y.eps = net.norm_eps;
    y.vectors = vectors(net, pass.member, packed_layer.vectors);
    y.init = y.vectors;
    if (l == 0) {
      const Observed seen = here.observed(net);
      y.init = seen.at + pass.member * seen.stride;
      y.init_pitch = padded(y.width);
    }
    y.keep = gradient;
    const int kept_before = gradient ? l * (net.widest / kGroup * Layer::kTapeStep) : 0;
    y.tape = reinterpret_cast<Part*>(here.scratch + p.at.tape) + kept_before;
    y.work = reinterpret_cast<Part*>(here.scratch + p.at.work);
    y.stats = here.floats(p.at.stats) + l * 2 * Rows;
    if (net.critic && !down && l + 1 == net.hidden) {
      y.head = vectors(net, pass.member, net.last);
      y.head_bias = *vectors(net, pass.member, net.last_bias);
      y.q = here.q(pass.member);
      y.from_head = gradient;
    }
    return y;
  }

  // ---- products

  // A chunk of at most N columns. Ends with this warp's products done.
  template <int N>
  __device__ void accumulate(int blocks, Sums& sum) const {
    Ring weights = ring;
    const unsigned char* rows = a + ptx::thread() / kGroupThreads * kGroupRows * kBlockBytes;
    int before = 0;
#pragma unroll 1
    for (int block = 0; block < blocks; block++) {
      const std::uint64_t w = ptx::operand(weights.wait()), x = ptx::operand(rows + block * Layer::kABytes);
      ptx::begin_products();
      ptx::multiply_group<N>(sum, x, w);
      ptx::multiply_group<N>(sum, x + kSliceStep, w + kSliceStep);
      ptx::commit_products();
      ptx::wait_products<1>();
      if (block > 0) weights.release(before);
      before = weights.slot;
      weights.advance();
    }
    ptx::wait_products<0>();
    weights.release(before);
    ring.slot = weights.slot;
    ring.parity = weights.parity;
  }
  __device__ void multiply(const Layer& y, int chunk, Sums& sum) const {
    const int columns = chunk_columns(y.columns, chunk);
#pragma unroll
    for (int i = 0; i < kChunk / 2; i++) sum[i] = 0;
    if (y.blocks == 0) return;
    if (columns > 128) {
      accumulate<256>(y.blocks, sum);
    } else if (columns > 64) {
      accumulate<128>(y.blocks, sum);
    } else if (columns > 32) {
      accumulate<64>(y.blocks, sum);
    } else {
      accumulate<32>(y.blocks, sum);
    }
  }

  // f(group of the chunk) for the chunk's groups, unrolled, since sums are registers.
  template <class F>
  static __device__ void for_groups(const Layer& y, int chunk, F f) {
    const int groups = chunk_columns(y.columns, chunk) / kGroup;
#pragma unroll
    for (int group = 0; group < kChunkGroups; group++)
      if (group < groups) f(group);
  }

  // to[rows][columns] = init[column] + A W, as float.
  __device__ void put_out(const Layer& y, int chunk, const Sums& sum) const {
    const float* init = y.init;
    const int column = Layer::column(chunk * kChunkGroups);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      if (own_row(half) >= y.rows) continue;
      float* to = y.to + std::int64_t{own_row(half)} * y.columns + column;
      for_groups(y, chunk, [&](int group) {
        float x[kUnit], b[kUnit] = {};
        take_unit(sum, group, half, x);
        if (init) load_unit(init + column + group * kGroup, b);
#pragma unroll
        for (int i = 0; i < kUnit; i++) x[i] += b[i];
        store_unit(to + group * kGroup, x);
      });
    }
  }

  // ---- hidden layers

  // z = init + A W of a chunk: to the tape, to A where it is the last, and into the moments of the rows.
  __device__ void put_up(const Layer& y, int chunk, bool last, Sums& sum, Moments (&moments)[2]) const {
    const bool keep = y.keep || !last, normed = y.normed;
    const int first = chunk * kChunkGroups;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = own_row(half) < here.rows ? own_row(half) : 0;
      const float* init = y.init + (row + here.offset) / p.N * y.init_pitch + Layer::column(first);
      Part *tape = Layer::own(y.tape, first, half), *in_a = Layer::place(a, first, half);
      float total = 0;
      for_groups(y, chunk, [&](int group) {
        float x[kUnit], b[kUnit];
        take_unit(sum, group, half, x);
        load_unit(init + group * kGroup, b);
#pragma unroll
        for (int i = 0; i < kUnit; i++) x[i] += b[i];
        const Part z = rounded(x);
        if (keep) tape[group * Layer::kTapeStep] = z;
        if (last) in_a[group * Layer::kAStep] = z;
        widen(z, x);
        y.cut(first + group, x);
#pragma unroll
        for (int i = 0; i < kUnit; i++) {
          total += x[i];
          sum[(4 * group + i / 2) * 4 + 2 * half + i % 2] = x[i];
        }
      });
      if (!normed) continue;
      const int count = min_int(kChunk, y.width - chunk * kChunk);
      const float mean = sum_own_row(total) / count;
      float squares = 0;
      for_groups(y, chunk, [&](int group) {
        float x[kUnit];
        take_unit(sum, group, half, x);
#pragma unroll
        for (int i = 0; i < kUnit; i++) x[i] -= mean;
        y.cut(first + group, x);
#pragma unroll
        for (int i = 0; i < kUnit; i++) squares = math::fma(x[i], x[i], squares);
      });
      moments[half].include(chunk * kChunk, count, mean, sum_own_row(squares));
    }
  }

  // dy = A W of a chunk: to A where it is the last, else aside.
  __device__ void put_down(const Layer& y, int chunk, bool last, const Sums& sum) const {
    const int first = chunk * kChunkGroups;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      Part *work = Layer::own(y.work, first, half), *in_a = Layer::place(a, first, half);
      for_groups(y, chunk, [&](int group) {
        float x[kUnit];
        take_unit(sum, group, half, x);
        if (last)
          in_a[group * Layer::kAStep] = rounded(x);
        else
          work[group * Layer::kTapeStep] = rounded(x);
      });
    }
  }

  const Place& here;
  const Program& p;
  Ring& ring;
  unsigned char* a;
};

}  // namespace vgf::cuda
