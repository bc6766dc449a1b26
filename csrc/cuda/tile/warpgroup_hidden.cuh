// What lies between two products of a warpgroup: norm and activation, up and down.
//
// A thread has 2 rows (halves) of its warpgroup's 64 and 8 columns side by side of every group of 32, which is how sums and
// packed weights have it; a part is those 8 as bfloat16. Nothing here is another thread's but the sums over the four that
// share a row. Loops are over groups and keep few registers, whatever the activation. See sm90_design.md for the cost.
#pragma once

#include <ptx/warpgroup.cuh>

#include "hidden.cuh"
#include "moments.cuh"

namespace vgf::cuda {

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

// A thread's parts of a row, asked for before their turn comes: L2 answers after some 600 clocks, a part takes 100 or 200.
class Ahead {
 public:
  // where(group)
  template <class Where>
  __device__ Ahead(int groups, Where where) {
#pragma unroll
    for (int i = 0; i < kAhead; i++) parts[i] = *where(min_int(i, groups - 1));
  }
  // That of this group, when those of all groups before it have been taken.
  template <class Where>
  __device__ Part take(int group, int groups, Where where) {
    const Part now = parts[0];
#pragma unroll
    for (int i = 0; i + 1 < kAhead; i++) parts[i] = parts[i + 1];
    parts[kAhead - 1] = *where(min_int(group + kAhead, groups - 1));
    return now;
  }

 private:
  static constexpr int kAhead = 4;
  Part parts[kAhead];
};

// What becomes of a product: it leaves as it is, or it is z of a hidden layer on the way up, or its dy on the way down; and
// what follows then, over this thread's 2 rows of every group. Rows: of a tile.
template <int Rows>
struct Layer {
  static constexpr int kABytes = Rows * kBlockBytes;  // of a k-block
  // from a thread's part of a group to that of the next, in parts
  static constexpr int kTapeStep = 2 * Rows / kGroupRows * kGroupThreads, kAStep = kABytes / kPartBytes;

  enum What { out, up, down } what;
  int blocks, columns;  // of the operand
  int rows;             // of the tile that are real
  float* to;            // out: [rows][columns]
  // what the product begins with: init[column], or a state's row of what the observations give
  const float* init;
  std::int64_t init_pitch;

  unsigned char* a;
  int width, groups;
  Activation activation;
  bool normed;
  float eps;
  const float* vectors;  // bias, norm scale, norm bias, padded(width) each
  bool keep;             // z, for the gradient
  Part *tape, *work;
  float* stats;       // of this layer
  const float* head;  // the last layer's weights where this is the critic's last hidden one, else null
  float head_bias;
  float* q;
  bool from_head;  // the way down begins here

  __device__ const float* scale() const { return vectors + groups * kGroup; }
  __device__ const float* shift() const { return vectors + 2 * groups * kGroup; }
  __device__ int last_chunk() const { return (groups - 1) / kChunkGroups; }
  // A thread's place in tape or work; and in A, where the activations of a group and row are, or z and dy before them.
  static __device__ Part* own(Part* from, int group, int half) {
    return from + static_cast<unsigned>(group * kTapeStep + half * (kTapeStep / 2) + ptx::thread());
  }
  static __device__ Part* place(unsigned char* a, int group, int half) {
    return reinterpret_cast<Part*>(a + static_cast<unsigned>(group * kABytes + part_offset(own_row(half), own_unit())));
  }
  static __device__ int column(int group) { return group * kGroup + own_unit() * kUnit; }
  __device__ void load(const float* vector, int group, float (&x)[kUnit]) const { load_unit(vector + column(group), x); }
  // Zeros what lies past the width.
  __device__ void cut(int group, float (&x)[kUnit]) const {
    if ((group + 1) * kGroup <= width) return;
#pragma unroll
    for (int i = 0; i < kUnit; i++)
      if (column(group) + i >= width) x[i] = 0;
  }
  static __device__ void let_multiply() {
    ptx::show_to_products();
    ptx::sync_warpgroup();
  }

  // From z, on the tape or in A, through norm and activation to A; or to q.
  __device__ __noinline__ void go_up(const Moments& first, const Moments& second) const {
#pragma unroll 1
    for (int half = 0; half < 2; half++) {
      const Moments& moments = half == 0 ? first : second;
      const float mean = moments.mean, rstd = normed ? 1.0f / math::sqrt(moments.squares / width + eps) : 1;
      if (normed && own_unit() == 0) {
        stats[2 * own_row(half)] = mean;
        stats[2 * own_row(half) + 1] = rstd;
      }
      const int waiting = last_chunk() * kChunkGroups;
      const auto there = [&](int group) { return group < waiting ? own(tape, group, half) : place(a, group, half); };
      float dot = 0;
      Ahead z(groups, there);
#pragma unroll 1
      for (int group = 0; group < groups; group++) {
        float x[kUnit];
        widen(z.take(group, groups, there), x);
        if (normed) {
          float by[kUnit], plus[kUnit];
          load(scale(), group, by);
          load(shift(), group, plus);
#pragma unroll
          for (int i = 0; i < kUnit; i++) x[i] = math::fma((x[i] - mean) * rstd, by[i], plus[i]);
        }
        activate(activation, x);
        cut(group, x);
        if (head) {
          float w[kUnit];
          load(head, group, w);
#pragma unroll
          for (int i = 0; i < kUnit; i++) dot = math::fma(x[i], w[i], dot);
        } else {
          *place(a, group, half) = rounded(x);
        }
      }
      if (!head) continue;
      const float value = sum_own_row(dot) + head_bias;
      if (own_unit() == 0 && own_row(half) < rows) q[own_row(half)] = value;
    }
    if (!head) let_multiply();
  }

  // dy, of the head or held in A (the last chunk) and work, to dz in A. Layer norm backward: with y the normalised values
  // and g = dy act' scale, dz = rstd (g - mean(g) - y mean(g y)).
  __device__ void go_down() const {
    ptx::sync_warp();  // stats are another lane's
#pragma unroll 1
    for (int half = 0; half < 2; half++) {
      const int first_held_in_a = from_head ? 0 : last_chunk() * kChunkGroups;
      const auto held = [&](int group) {
        return group < first_held_in_a ? own(work, group, half) : place(a, group, half);
      };
      const auto taped = [&](int group) { return own(tape, group, half); };
      const float mean = normed ? stats[2 * own_row(half)] : 0, rstd = normed ? stats[2 * own_row(half) + 1] : 1;
      float mean_g = 0, mean_gy = 0;
      Ahead dy(groups, held), kept(groups, taped);
#pragma unroll 1
      for (int group = 0; group < groups; group++) {
        float g[kUnit], y[kUnit];
        widen(dy.take(group, groups, held), g);
        widen(kept.take(group, groups, taped), y);
        if (from_head) load(head, group, g);
        if (!normed) {
          pull_back(activation, y, g);
          cut(group, g);
          *place(a, group, half) = rounded(g);
          continue;
        }
        float by[kUnit], input[kUnit];
        load(scale(), group, by);
        load(shift(), group, input);
#pragma unroll
        for (int i = 0; i < kUnit; i++) {
          y[i] = (y[i] - mean) * rstd;
          input[i] = math::fma(y[i], by[i], input[i]);
        }
        pull_back(activation, input, g);
#pragma unroll
        for (int i = 0; i < kUnit; i++) g[i] *= by[i];
        cut(group, g);
        cut(group, y);
#pragma unroll
        for (int i = 0; i < kUnit; i++) {
          mean_g += g[i];
          mean_gy = math::fma(g[i], y[i], mean_gy);
        }
        *held(group) = rounded(g);
      }
      if (!normed) continue;
      mean_g = sum_own_row(mean_g) / width;
      mean_gy = sum_own_row(mean_gy) / width;
      Ahead pulled(groups, held), kept_again(groups, taped);
#pragma unroll 1
      for (int group = 0; group < groups; group++) {
        float g[kUnit], z[kUnit];
        widen(pulled.take(group, groups, held), g);
        widen(kept_again.take(group, groups, taped), z);
#pragma unroll
        for (int i = 0; i < kUnit; i++) g[i] = rstd * (g[i] - mean_g - (z[i] - mean) * rstd * mean_gy);
        cut(group, g);
        *place(a, group, half) = rounded(g);
      }
    }
    let_multiply();
  }
};

// With a copy of the layer, which the compiler knows that no store changes.
template <int Rows>
__device__ __noinline__ void go_down(const Layer<Rows>& its) {
  const Layer<Rows> layer = its;
  layer.go_down();
}

}  // namespace vgf::cuda
