// What lies between two products of a warpgroup: norm and activation, up and down, on its sums, which stay in registers.
//
// A thread has two rows (halves) of the tile and, of every group of 32 columns, a unit of 8 side by side, which is how
// products and packed weights have it. The two warpgroups have different columns of the same rows, so they tell each other
// their sums over a row, through shared memory; the barrier of that exchange is also the one behind which A is free. What a
// layer leaves goes to A, the next product's operand, and a second barrier says that it is there.
//
// Cost model, relu, instructions a number: 7 up, 12 down; so 2,400 a warp and layer of 512, and two warps a scheduler. Two
// barriers of the block a layer and direction.
//
// Without a norm, mean is 0 and 1 / std is 1, and the packed scale and shift are 1 and 0. Past a layer's width z, scale,
// shift and weights are 0, so activations are; dz may be anything there, since the next weights are 0.
#pragma once

#include <type_traits>

#include <ptx/access.cuh>
#include <ptx/warpgroup.cuh>

#include "../../math/activations.hpp"
#include "hidden.cuh"
#include "ring.cuh"

namespace vgf::cuda {

using Sums = float[kChunk / 2];        // of a thread
using Taped = Part[kChunkGroups][2];  // its z, as bfloat16

// Number i of a thread's unit of a group and row.
__device__ constexpr int sum_at(int group, int half, int i) { return (4 * group + i / 2) * 4 + 2 * half + i % 2; }

// act of two numbers, as bfloat16.
template <class Act>
__device__ inline std::uint32_t rounded_activations(float low, float high) {
  if constexpr (std::is_same<Act, math::Relu>::value)
    return ptx::to_positive_bf16_pair(low, high);
  else
    return ptx::to_bf16_pair(activated<Precision::bf16, Act>(low), activated<Precision::bf16, Act>(high));
}

// One product's layer, a thread's part of it.
class Layer {
 public:
  enum Vector { bias, scale, shift, head };
  int first, groups;  // this warpgroup's, of the layer
  int unit;           // of a group, this thread's

  __device__ Layer(const Product& product, unsigned char* a, const unsigned char* its_vectors) : of(product) {
    const int thread = ptx::thread_anew(), lane = thread % kLanes, all = product.columns / kGroup;
    warpgroup = thread / kGroupThreads;
    row = thread % kGroupThreads / kLanes * 16 + c_row(lane, 0);
    unit = c_unit(lane);
    first = warpgroup == 0 ? 0 : groups_of_the_first(all);
    groups = warpgroup == 0 ? groups_of_the_first(all) : all - first;
    place = ptx::shared_address(a + first * kABytes + part_offset(row, unit));
    vectors = ptx::shared_address(its_vectors) + (first * kGroup + unit * kUnit) * 4;
    tape = product.tape + first * kTapeStep + thread % kGroupThreads;
  }

  // f(group) for this warpgroup's, with numbers that the compiler knows: all, or From and on, or up to To.
  template <int From = 0, int To = kChunkGroups, class F>
  __device__ void for_groups(F f) const {
#pragma unroll
    for (int group = From; group < To; group++) {
      if (group >= groups) break;
      f(group);
    }
  }
  __device__ int row_of(int half) const { return row + 8 * half; }
  // Numbers of a unit: four from the given one on, which leaves others registers.
  __device__ void load(Vector which, int group, int from, float (&x)[4]) const {
    ptx::load_shared(x, vectors + (which * kWidestHopper + group * kGroup + from) * 4);
  }
  // f(group, number of a unit, that of the vector), by fours.
  template <class F>
  __device__ void for_vector(Vector which, F f) const {
    for_groups([&](int group) {
#pragma unroll
      for (int from = 0; from < kUnit; from += 4) {
        float x[4];
        load(which, group, from, x);
#pragma unroll
        for (int i = 0; i < 4; i++) f(group, from + i, x[i]);
      }
    });
  }
  __device__ void add_bias(Sums& sum) const {
    for_vector(bias, [&](int group, int i, float b) { sum[sum_at(group, 0, i)] += b, sum[sum_at(group, 1, i)] += b; });
  }
  __device__ void begin_with_head(Sums& dy) const {
    for_vector(head, [&](int group, int i, float w) { dy[sum_at(group, 0, i)] = dy[sum_at(group, 1, i)] = w; });
  }

  // z of this layer, for the way down: of some groups.
  template <int From, int To>
  __device__ void recall(Taped& z) const {
    for_groups<From, To>([&](int group) {
#pragma unroll
      for (int half = 0; half < 2; half++) ptx::load_global(z[group][half].word, taped(group, half));
    });
  }

  __device__ void recall(Normaliser (&norm)[2]) const {
    if (!of.normed) return;
#pragma unroll
    for (int half = 0; half < 2; half++) norm[half] = ptx::in_global(of.stats)[row_of(half)];
  }

  // From z through norm, which becomes known, and activation to A; or to q.
  __device__ void go_up(const Sums& z, Normaliser (&norm)[2]) const {
    float sums[2][2] = {};  // of z and its square, by half
    for_groups([&](int group) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float x[kUnit];
#pragma unroll
        for (int i = 0; i < kUnit; i++) {
          x[i] = z[sum_at(group, half, i)];
          sums[0][half] += x[i];
          sums[1][half] = math::fma(x[i], x[i], sums[1][half]);
        }
        if (of.keep) ptx::store_global(taped(group, half), rounded(x).word);
      }
    });
    exchange<0>(sums);
    if (of.normed) find_norms(sums, norm);
    with_activation(of.activation, [&](auto act) {
      if (of.to_head)
        leave<decltype(act)>(z, norm);
      else
        activate<decltype(act)>(z, norm);
    });
  }

  // dy, of the head or of the product, to dz in A. Layer norm backward: with y the normalised values and g = dy act' scale,
  // dz = rstd (g - mean(g) - y mean(g y)), which is rstd g + z_factor z + rest.
  __device__ void go_down(Sums& dy, const Taped& z, const Normaliser (&norm)[2]) const {
    float sums[2][2] = {};  // of g and g y, by half
    with_activation(of.activation, [&](auto act) { pull_back<decltype(act)>(z, norm, dy, sums); });
    exchange<2>(sums);
    float factor[2], z_factor[2], rest[2];
    const float each = 1.0f / of.width;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float mean_g = sums[0][half] * each, mean_gy = sums[1][half] * each;
      factor[half] = norm[half].rstd;
      z_factor[half] = -norm[half].rstd * norm[half].rstd * mean_gy;
      rest[half] = -norm[half].rstd * math::fma(mean_gy, norm[half].shift, mean_g);
    }
    for_groups([&](int group) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float d[kUnit];
#pragma unroll
        for (int i = 0; i < kUnit; i++) {
          d[i] = dy[sum_at(group, half, i)];
          if (of.normed)
            d[i] = math::fma(factor[half], d[i], math::fma(z_factor[half], number(z[group][half], i), rest[half]));
        }
        ptx::store_shared(place_of(group, half), rounded(d).word);
      }
    });
    let_multiply();
  }

 private:
  static constexpr int kABytes = kHopperRows * kBlockBytes;  // of a k-block, which is a group's columns
  // from a thread's part of a group on the tape to that of the next, and to its other row
  static constexpr int kTapeStep = 2 * kGroupThreads, kTapeHalf = kGroupThreads;

  __device__ std::uint32_t place_of(int group, int half) const {
    return place + group * kABytes + half * 8 * kBlockBytes;  // eight rows further on are swizzled alike
  }
  __device__ Part* taped(int group, int half) const { return tape + group * kTapeStep + half * kTapeHalf; }

  // Adds up what the four threads that share a row have, and what the other warpgroup has; At: the first of its places.
  template <int At, int Count>
  __device__ void exchange(float (&x)[Count][2]) const {
    float* const own = reinterpret_cast<float*>(ptx::shared_memory() + kRowSumsAt) + At * kRowSumFloats + row;
#pragma unroll
    for (int k = 0; k < Count; k++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        x[k][half] += ptx::shuffle_xor(x[k][half], 1);
        x[k][half] += ptx::shuffle_xor(x[k][half], 2);
        if (unit == 0) own[k * kRowSumFloats + warpgroup * kHopperRows + 8 * half] = x[k][half];
      }
    ptx::sync_block();
#pragma unroll
    for (int k = 0; k < Count; k++)
#pragma unroll
      for (int half = 0; half < 2; half++)
        x[k][half] = own[k * kRowSumFloats + 8 * half] + own[k * kRowSumFloats + kHopperRows + 8 * half];
  }

  // As flax computes the variance, from the mean of squares.
  __device__ void find_norms(const float (&sums)[2][2], Normaliser (&norm)[2]) const {
    const float each = 1.0f / of.width;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float mean = sums[0][half] * each, variance = math::fma(-mean, mean, sums[1][half] * each);
      norm[half].rstd = 1.0f / math::sqrt(math::max(0.0f, variance) + of.eps);
      norm[half].shift = -mean * norm[half].rstd;
      if (of.keep && warpgroup == 0 && unit == 0) ptx::in_global(of.stats)[row_of(half)] = norm[half];
    }
  }

  // f(group, numbers of a unit, the four of what goes into the activation) of a row, by fours.
  template <class F>
  __device__ void for_normed(const Sums& z, const Normaliser (&norm)[2], F f) const {
    for_groups([&](int group) {
#pragma unroll
      for (int from = 0; from < kUnit; from += 4) {
        float by[4], plus[4];
        load(scale, group, from, by);
        load(shift, group, from, plus);
        f(group, from, [&](int half, int i) {
          return math::fma(norm[half](z[sum_at(group, half, from + i)]), by[i], plus[i]);
        });
      }
    });
  }
  template <class Act>
  __device__ void activate(const Sums& z, const Normaliser (&norm)[2]) const {
    Part part[2];
    for_normed(z, norm, [&](int group, int from, auto x) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
#pragma unroll
        for (int i = 0; i < 4; i += 2)
          part[half].word[(from + i) / 2] = rounded_activations<Act>(x(half, i), x(half, i + 1));
        if (from + 4 == kUnit) ptx::store_shared(place_of(group, half), part[half].word);
      }
    });
    let_multiply();
  }
  template <class Act>
  __device__ void leave(const Sums& z, const Normaliser (&norm)[2]) const {
    float dot[1][2] = {};
    for_normed(z, norm, [&](int group, int from, auto x) {
      float w[4];
      load(head, group, from, w);
#pragma unroll
      for (int half = 0; half < 2; half++)
#pragma unroll
        for (int i = 0; i < 4; i++) dot[0][half] = math::fma(activated<Precision::bf16, Act>(x(half, i)), w[i], dot[0][half]);
    });
    exchange<4>(dot);
#pragma unroll
    for (int half = 0; half < 2; half++)
      if (warpgroup == 0 && unit == 0 && row_of(half) < of.rows)
        ptx::in_global(of.q)[row_of(half)] = dot[0][half] + of.head_bias;
  }

  // dy becomes g; its sums, and those of g y.
  template <class Act>
  __device__ void pull_back(const Taped& z, const Normaliser (&norm)[2], Sums& dy, float (&sums)[2][2]) const {
    for_groups([&](int group) {
#pragma unroll
      for (int from = 0; from < kUnit; from += 4) {
        float by[4], plus[4];
        load(scale, group, from, by);
        load(shift, group, from, plus);
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
          for (int i = 0; i < 4; i++) {
            float& g = dy[sum_at(group, half, from + i)];
            const float y = norm[half](number(z[group][half], from + i));
            g *= by[i] * slope<Precision::bf16, Act>(math::fma(y, by[i], plus[i]));
            sums[0][half] += g;
            sums[1][half] = math::fma(g, y, sums[1][half]);
          }
      }
    });
  }

  static __device__ void let_multiply() {
    ptx::show_to_products();
    ptx::sync_block();
  }

  const Product& of;
  int warpgroup, row;
  std::uint32_t place, vectors;  // shared addresses of this thread's first part in A, and of its first columns
  Part* tape;
};

}  // namespace vgf::cuda
