// Networks on a tile by wgmma, bfloat16: a warpgroup takes 64 rows through all layers on its own; weights come from the
// ring. See sm90_design.md for what was weighed, and what this costs.
//
// a      activations (of the gradient: dz), k-blocks of [128][64 bytes] in shared memory, updated in place
// tape   z of every hidden layer as bfloat16, in scratch. A thread reads back only what it has written, so it lies there as
//        the thread holds it: [groups of 32 columns][2 halves][256 threads] of 16 bytes. Likewise `work`: dy of all columns
//        but the last chunk's.
// stats  [hidden][128][2] floats: mean and 1 / std
//
// A product is 256 columns at a time, 128 sums a thread. Of a chunk that is not the last, z goes to the tape and comes
// back when the whole row's norm is known; z of the last chunk waits in `a`, at the place where its activation will be:
// all products that read `a` are done by then. So between two products a thread walks over its own 2 rows of every group
// in a loop of few registers, whatever the activation.
#pragma once

#include <ptx/warpgroup.cuh>

#include "hidden.cuh"
#include "ring.cuh"

namespace vgf::cuda {

using Sums = float[kChunk / 2];
constexpr int kChunkGroups = kChunk / kGroup;

// The rows that a thread has of its tile's products, and the sum over the four threads that share one.
__device__ inline int own_row(int half) {
  return ptx::thread() / kLanes * 16 + c_row(ptx::thread() % kLanes, half);
}
__device__ inline int own_unit() { return c_unit(ptx::thread() % kLanes); }  // of a group
__device__ inline float sum_own_row(float x) {
  x += ptx::shuffle_xor(x, 1);
  return x + ptx::shuffle_xor(x, 2);
}
// A thread's numbers of a group and row: 8 columns side by side, as weights are packed.
__device__ inline void take_unit(const Sums& sum, int group, int half, float (&x)[kUnit]) {
#pragma unroll
  for (int i = 0; i < kUnit; i++) x[i] = sum[(4 * group + i / 2) * 4 + 2 * half + i % 2];
}
__device__ inline Part rounded(const float (&x)[kUnit]) { return Numbers<Precision::bf16>::part(x); }
__device__ inline void widen(const Part& part, float (&x)[kUnit]) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    x[2 * i] = ptx::as_float(part.word[i] << 16);
    x[2 * i + 1] = ptx::as_float(part.word[i] & 0xffff0000u);
  }
}

// Mean and squared deviations of the numbers of a row seen so far.
struct Moments {
  float mean = 0, squares = 0;
  // n more behind the first `seen`.
  __device__ void include(int seen, int n, float its_mean, float its_squares) {
    const float away = its_mean - mean, share = static_cast<float>(n) / (seen + n);
    mean = math::fma(away, share, mean);
    squares += math::fma(away * away, seen * share, its_squares);
  }
};

// What becomes of a product: it leaves as it is, or it is z of a hidden layer on the way up, or its dy on the way down.
struct Layer {
  enum What { out, up, down } what;
  int blocks, columns;  // of the operand
  int rows;
  float* to;  // out: [rows][columns]
  // what the product begins with: init[column], or a state's row of what the observations give
  const float* init;
  std::int64_t init_pitch;

  int width, groups;
  Activation activation;
  bool normed;
  float eps;
  const float* vectors;  // bias, norm scale, norm bias, padded(width) each
  bool keep;  // z, for the gradient
  Part *tape, *work;
  float* stats;       // of this layer
  const float* head;  // the last layer's weights where this is the critic's last hidden one, else null
  float head_bias;
  float* q;
  bool from_head;  // the way down begins here

  __device__ const float* scale() const { return vectors + groups * kGroup; }
  __device__ const float* shift() const { return vectors + 2 * groups * kGroup; }
  __device__ int last_chunk() const { return (groups - 1) / kChunkGroups; }
  // A thread's place in tape or work.
  static __device__ Part* own(Part* from, int group, int half) {
    return from + static_cast<unsigned>((group * 2 + half) * kThreads + ptx::thread());
  }
  __device__ static int column(int group) { return group * kGroup + own_unit() * kUnit; }
  __device__ void load(const float* vector, int group, float (&x)[kUnit]) const { load_unit(vector + column(group), x); }
  // Zeros what lies past the width.
  __device__ void cut(int group, float (&x)[kUnit]) const {
    if ((group + 1) * kGroup <= width) return;
#pragma unroll
    for (int i = 0; i < kUnit; i++)
      if (column(group) + i >= width) x[i] = 0;
  }
};

class WarpgroupNetwork {
 public:
  __device__ WarpgroupNetwork(const Place& place, Ring& weights) : here(place), p(place.p), ring(weights) {
    a = ring.slots + kRing * kSlotBytes;
  }

  // Shared memory of the pairwise part: that of the activations, between networks.
  __device__ Bandwidth* bandwidths() const { return reinterpret_cast<Bandwidth*>(a); }
  __device__ float* pair_memory() const { return reinterpret_cast<float*>(a + bandwidth_bytes(kHopperRows)); }

  // Everything but the products and what their sums are needed for is in functions: products are not, because the compiler
  // would wait for each (its warning C7510), and are written once, because they are large.
  __device__ void run(const Pass& pass) const {
    const Net& net = net_of(p, pass);
    enter(pass, net);
    for (int product = 0; product < products_of(p, pass); product++) {
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
      if (y.what == Layer::up) activate_all(y, moments[0], moments[1]);
      if (y.what == Layer::down || y.from_head) pull_back_all(y);
    }
    ptx::sync_block();
  }

 private:
  // The way into the first product: observations, or particles (and the time, where the net takes one more input).
  __device__ __noinline__ void enter(const Pass& pass, const Net& net) const {
    if (pass.observes) {
      const float* obs = p.obs + here.first_state * p.O;
      fill_operand<Precision::bf16>(a, kHopperRows, here.states, p.O,
                                    [&](int s, int o) { return obs[std::int64_t{s} * p.O + o]; });
    } else {
      const float* particles = here.x();
      const int dims = p.A;
      const float time = pass.role == Role::policy ? static_cast<float>(pass.round) / p.euler_steps : 0;
      fill_operand<Precision::bf16>(a, kHopperRows, here.rows, net.inputs,
                                    [&](int row, int k) { return k < dims ? particles[row * dims + k] : time; });
    }
    ptx::show_to_products();
    ptx::sync_block();
  }

  __device__ __noinline__ Layer layer(const Pass& pass, const Net& net, int product) const {
    const Operand o = operand_of(p, pass, product);
    Layer y{};
    y.blocks = o.blocks;
    y.columns = o.columns;
    if (pass.observes) {
      y.init = vectors(net, product, net.layers[0].vectors);
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
    const PackedLayer& packed_layer = net.layers[l];
    int widest = 0;
    for (int i = 0; i < net.hidden; i++) widest = net.layers[i].width > widest ? net.layers[i].width : widest;
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
    const int kept_before = gradient ? l * (padded(widest) / kGroup * 2 * kThreads) : 0;
    y.tape = reinterpret_cast<Part*>(here.scratch + p.at.tape) + kept_before;
    y.work = reinterpret_cast<Part*>(here.scratch + p.at.work);
    y.stats = here.floats(p.at.stats) + l * 2 * kHopperRows;
    if (net.critic && !down && l + 1 == net.hidden) {
      y.head = vectors(net, pass.member, net.last);
      y.head_bias = *vectors(net, pass.member, net.last_bias);
      y.q = here.q(pass.member);
      y.from_head = gradient;
    }
    return y;
  }

  // This thread's part of the operand: where the activations of a group and row are, or z and dy before them.
  __device__ Part* place(int group, int half) const {
    return reinterpret_cast<Part*>(a + static_cast<unsigned>(group * kABytes + part_offset(own_row(half), own_unit())));
  }
  __device__ void let_multiply() const {
    ptx::show_to_products();
    ptx::sync_warpgroup();
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
      const std::uint64_t w = ptx::operand(weights.wait()), x = ptx::operand(rows + block * kABytes);
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
#pragma unroll
    for (int half = 0; half < 2; half++)
      for_groups(y, chunk, [&](int group) {
        if (own_row(half) >= y.rows) return;
        const int column = Layer::column(chunk * kChunkGroups + group);
        float x[kUnit], b[kUnit] = {};
        take_unit(sum, group, half, x);
        if (y.init) load_unit(y.init + column, b);
#pragma unroll
        for (int i = 0; i < kUnit; i++) x[i] += b[i];
        store_unit(y.to + std::int64_t{own_row(half)} * y.columns + column, x);
      });
  }

  // ---- hidden layers

  // z = init + A W of a chunk: to the tape, to A where it is the last, and into the moments of the rows.
  __device__ void put_up(const Layer& y, int chunk, bool last, Sums& sum, Moments (&moments)[2]) const {
    const bool keep = y.keep || !last, normed = y.normed;
    Part* const tape = y.tape;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = own_row(half) < here.rows ? own_row(half) : 0;
      const float* init = y.init + (row + here.offset) / p.N * y.init_pitch;
      float total = 0;
      for_groups(y, chunk, [&](int group) {
        const int whole = chunk * kChunkGroups + group;
        float x[kUnit], b[kUnit];
        take_unit(sum, group, half, x);
        load_unit(init + Layer::column(whole), b);
#pragma unroll
        for (int i = 0; i < kUnit; i++) x[i] += b[i];
        const Part z = rounded(x);
        if (keep) *Layer::own(tape, whole, half) = z;
        if (last) *place(whole, half) = z;
        widen(z, x);
        y.cut(whole, x);
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
        y.cut(chunk * kChunkGroups + group, x);
#pragma unroll
        for (int i = 0; i < kUnit; i++) squares = math::fma(x[i], x[i], squares);
      });
      moments[half].include(chunk * kChunk, count, mean, sum_own_row(squares));
    }
  }

  // From z, on the tape or in A, through norm and activation to A; or to q.
  __device__ __noinline__ void activate_all(const Layer& y, Moments first, Moments second) const {
    const Moments* moments[2] = {&first, &second};
    float mean[2] = {}, rstd[2] = {1, 1}, dot[2] = {};
    if (y.normed) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        mean[half] = moments[half]->mean;
        rstd[half] = 1.0f / math::sqrt(moments[half]->squares / y.width + y.eps);
        if (own_unit() > 0) continue;
        y.stats[2 * own_row(half)] = mean[half];
        y.stats[2 * own_row(half) + 1] = rstd[half];
      }
    }
    for (int group = 0; group < y.groups; group++) {
      float by[kUnit], plus[kUnit], head[kUnit];
      if (y.normed) y.load(y.scale(), group, by), y.load(y.shift(), group, plus);
      if (y.head) y.load(y.head, group, head);
#pragma unroll
      for (int half = 0; half < 2; half++) {
        Part* to = place(group, half);
        float x[kUnit];
        widen(group / kChunkGroups < y.last_chunk() ? *Layer::own(y.tape, group, half) : *to, x);
        if (y.normed) {
#pragma unroll
          for (int i = 0; i < kUnit; i++) x[i] = math::fma((x[i] - mean[half]) * rstd[half], by[i], plus[i]);
        }
        activate(y.activation, x);
        y.cut(group, x);
        if (!y.head) *to = rounded(x);
        if (y.head) {
#pragma unroll
          for (int i = 0; i < kUnit; i++) dot[half] = math::fma(x[i], head[i], dot[half]);
        }
      }
    }
    if (y.head) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const float q = sum_own_row(dot[half]) + y.head_bias;
        if (own_unit() == 0 && own_row(half) < here.rows) y.q[own_row(half)] = q;
      }
    } else {
      let_multiply();
    }
  }

  // dy = A W of a chunk: to A where it is the last, else aside.
  __device__ void put_down(const Layer& y, int chunk, bool last, const Sums& sum) const {
    Part* const work = y.work;
#pragma unroll
    for (int half = 0; half < 2; half++)
      for_groups(y, chunk, [&](int group) {
        const int whole = chunk * kChunkGroups + group;
        float x[kUnit];
        take_unit(sum, group, half, x);
        *(last ? place(whole, half) : Layer::own(work, whole, half)) = rounded(x);
      });
  }

  // dy, of the head or held in A (the last chunk) and work, to dz in A. Layer norm backward: with y the normalised values
  // and g = dy act' scale, dz = rstd (g - mean(g) - y mean(g y)).
  __device__ __noinline__ void pull_back_all(const Layer& y) const {
    ptx::sync_warp();  // stats are another lane's
    float mean[2] = {}, rstd[2] = {1, 1}, mean_g[2] = {}, mean_gy[2] = {};
    if (y.normed) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        mean[half] = y.stats[2 * own_row(half)];
        rstd[half] = y.stats[2 * own_row(half) + 1];
      }
    }
    const int first_held_in_a = y.from_head ? 0 : y.last_chunk() * kChunkGroups;
    const auto held = [&](int group, int half) {
      return group >= first_held_in_a ? place(group, half) : Layer::own(y.work, group, half);
    };
    for (int group = 0; group < y.groups; group++) {
      float by[kUnit], plus[kUnit];
      if (y.normed) y.load(y.scale(), group, by), y.load(y.shift(), group, plus);
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float g[kUnit], z[kUnit];
        if (y.from_head)
          y.load(y.head, group, g);
        else
          widen(*held(group, half), g);
        widen(*Layer::own(y.tape, group, half), z);
        if (!y.normed) {
          pull_back(y.activation, z, g);
          y.cut(group, g);
          *place(group, half) = rounded(g);
          continue;
        }
        float input[kUnit];
#pragma unroll
        for (int i = 0; i < kUnit; i++) {
          z[i] = (z[i] - mean[half]) * rstd[half];
          input[i] = math::fma(z[i], by[i], plus[i]);
        }
        pull_back(y.activation, input, g);
#pragma unroll
        for (int i = 0; i < kUnit; i++) g[i] *= by[i];
        y.cut(group, g);
        y.cut(group, z);
#pragma unroll
        for (int i = 0; i < kUnit; i++) {
          mean_g[half] += g[i];
          mean_gy[half] = math::fma(g[i], z[i], mean_gy[half]);
        }
        *held(group, half) = rounded(g);
      }
    }
    if (y.normed) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        mean_g[half] = sum_own_row(mean_g[half]) / y.width;
        mean_gy[half] = sum_own_row(mean_gy[half]) / y.width;
      }
      for (int group = 0; group < y.groups; group++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          float g[kUnit], z[kUnit];
          widen(*held(group, half), g);
          widen(*Layer::own(y.tape, group, half), z);
#pragma unroll
          for (int i = 0; i < kUnit; i++)
            g[i] = rstd[half] * (g[i] - mean_g[half] - (z[i] - mean[half]) * rstd[half] * mean_gy[half]);
          y.cut(group, g);
          *place(group, half) = rounded(g);
        }
    }
    let_multiply();
  }

  const Place& here;
  const Program& p;
  Ring& ring;
  unsigned char* a;
};

}  // namespace vgf::cuda
