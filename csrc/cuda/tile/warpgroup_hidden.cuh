// What lies between two products of a warpgroup: norm and activation, up and down, on its sums, which stay in registers.
//
// A thread has two rows (halves) of the tile and, of every group of 32 columns, a unit of 8 side by side, which is how
// products and packed weights have it. The warpgroups have different columns of the same rows, so they tell each other
// their sums over a row, through shared memory; the barrier of that exchange is also the one behind which A is free. What a
// layer leaves goes to A, the next product's operand, and a second barrier says that it is there.
//
// On the way down A holds z of the layer until dz takes its place: a thread's unit of the one lies where its unit of the other
// will, so nobody waits for anybody, and g, which has to wait for the means of its row, has the registers for itself.
//
// Cost model, relu, instructions a number: 7 up, 10 down; so 1,000 a warp and layer of 512, and four warps a scheduler, of
// which each hides what others wait for. Two barriers of the warpgroups a layer and direction; up, three but in bfloat16.
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

using Sums = float[kMostGroups * kGroup / 2];  // of a thread

// Number i of a thread's unit of a group and row.
__device__ constexpr int sum_at(int group, int half, int i) { return (4 * group + i / 2) * 4 + 2 * half + i % 2; }

// act of four numbers, as a part has them from number `at` on.
template <Precision P, class Act>
__device__ inline void activate(const float (&x)[4], Part& part, int at) {
  if constexpr (!Numbers<P>::kHalf) {
    const float y[4] = {activated<P, Act>(x[0]), activated<P, Act>(x[1]), activated<P, Act>(x[2]), activated<P, Act>(x[3])};
    part = Numbers<P>::part(y);
  } else {
#pragma unroll
    for (int i = 0; i < 4; i += 2)
      if constexpr (std::is_same<Act, math::Relu>::value)
        part.word[(at + i) / 2] = ptx::to_positive_bf16_pair(x[i], x[i + 1]);
      else
        part.word[(at + i) / 2] = ptx::to_bf16_pair(activated<P, Act>(x[i]), activated<P, Act>(x[i + 1]));
  }
}
// z as it is kept.
template <Precision P>
using Kept = Numbers<Numbers<P>::kHalf ? Precision::bf16 : Precision::fp32>;

// From g and z to dz through a norm: rstd (g - mean_g - y mean_gy), as factors of g and z and the rest; in float32 by way of y.
template <Precision P>
struct Through {
  static constexpr bool kCentred = Normaliser<P>::kCentred;
  Normaliser<P> norm;
  float z_factor, rest;  // or mean_gy and mean_g

  Through() = default;
  __device__ Through(const Normaliser<P>& its_norm, float mean_g, float mean_gy) : norm(its_norm) {
    const float rstd = norm.rstd;
    z_factor = kCentred ? mean_gy : -rstd * rstd * mean_gy;
    rest = kCentred ? mean_g : -rstd * math::fma(mean_gy, norm.shift, mean_g);
  }
  __device__ float operator()(float g, float z) const {
    return kCentred ? norm.rstd * math::fma(-z_factor, norm(z), g - rest) : math::fma(norm.rstd, g, math::fma(z_factor, z, rest));
  }
};

// One product's layer, a thread's part of it.
template <Precision P>
class Layer {
 public:
  using Norm = Normaliser<P>;
  enum Vector { bias, scale, shift, head };
  int first, groups;  // this warpgroup's, of the layer; a warp whose rows are past the tile's last has none
  bool multiplies;    // whether this warpgroup has any
  int unit;           // of a group, this thread's

  __device__ Layer(const Product& product, unsigned char* a, const unsigned char* its_vectors) : of(product) {
    const int thread = ptx::thread_anew(), lane = thread % kLanes;
    warpgroup = thread / kGroupThreads;
    const int rows_before = thread % kGroupThreads / kLanes * kWarpRows;
    row = rows_before + c_row(lane, 0);
    unit = c_unit(lane);
    first = min_int(warpgroup * product.each, product.groups);
    groups = min_int(product.each, product.groups - first);
    multiplies = groups > 0;
    if (rows_before >= product.rows) groups = 0;
    const int part = unit * kUnitParts;
    const int own = first * kGroupBytes + part / kParts * kRowsBlockBytes + part_offset(row, part % kParts);
    second = (own ^ kPartBytes) - own;
    place = ptx::shared_address(a) + own;
    tape = product.tape + own;
    vectors = ptx::shared_address(its_vectors) + (first * kGroup + unit * kUnit) * 4;
  }

  // f(group) for this warpgroup's, with numbers that the compiler knows.
  template <class F>
  __device__ void for_groups(F f) const {
#pragma unroll
    for (int group = 0; group < kMostGroups; group++) {
      if (group >= groups) break;
      f(group);
    }
  }
  __device__ int row_of(int half) const { return row + 8 * half; }
  // Numbers of a unit from the given one on: some, which leaves others registers.
  template <int Count>
  __device__ void load(Vector which, int group, int from, float (&x)[Count]) const {
    ptx::load_shared(x, vectors + (which * kWidestHopper + group * kGroup + from) * 4);
  }
  __device__ void add_bias(Sums& sum) const {
    for_groups([&](int group) {
#pragma unroll
      for (int from = 0; from < kUnit; from += 4) {
        float b[4];
        load(bias, group, from, b);
#pragma unroll
        for (int i = 0; i < 4; i++) sum[sum_at(group, 0, from + i)] += b[i], sum[sum_at(group, 1, from + i)] += b[i];
      }
    });
  }
  __device__ void recall(Norm (&norm)[2]) const {
    if (!of.normed) return;
#pragma unroll
    for (int half = 0; half < 2; half++) norm[half] = stats()[row_of(half)];
  }

  // From z through norm, which becomes known, and activation to A; or to q.
  __device__ void go_up(const Sums& z, Norm (&norm)[2]) const {
    float sums[kSums][2] = {};  // of z and, but where the variance is to be exact, of its square, by half
    const bool keep = of.keep;
    for_groups([&](int group) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
#pragma unroll
        for (int i = 0; i < kUnit; i++) {
          const float x = z[sum_at(group, half, i)];
          sums[0][half] += x;
          if constexpr (!kExact) sums[1][half] = math::fma(x, x, sums[1][half]);
        }
        if (keep) for_kept(z, group, half, [&](int at, const Part& part) { ptx::store_global(tape + at, part.word); });
      }
    });
    if (keep) ptx::show_to_copies();
    exchange<0>(sums);
    if (of.normed) find_norms(z, sums, norm);
    with_activation(of.activation, [&](auto act) {
      if (of.to_head)
        leave<decltype(act)>(z, norm);
      else
        activate<decltype(act)>(z, norm);
    });
  }

  // z to A, whose product is done, and in its place dy of the last hidden layer: the head's weights.
  __device__ void turn_back(Sums& z) const {
    for_groups([&](int group) {
#pragma unroll
      for (int half = 0; half < 2; half++)
        for_kept(z, group, half, [&](int at, const Part& part) { ptx::store_shared(place + at, part.word); });
#pragma unroll
      for (int from = 0; from < kUnit; from += 4) {
        float w[4];
        load(head, group, from, w);
#pragma unroll
        for (int i = 0; i < 4; i++) z[sum_at(group, 0, from + i)] = z[sum_at(group, 1, from + i)] = w[i];
      }
    });
  }
  // Layer norm backward: with y the normalised values and g = dy act' scale, dz = rstd (g - mean(g) - y mean(g y)). First
  // g from dy, and the sums of g and g y by half; z lies in A.
  __device__ void pull_back(Sums& dy, const Norm (&norm)[2], float (&sums)[2][2]) const {
    with_activation(of.activation, [&](auto act) { pull_back<decltype(act)>(dy, norm, sums); });
  }
  // Then dz, to A.
  __device__ void go_down(const Sums& g, const Norm (&norm)[2], float (&sums)[2][2]) const {
    exchange<2>(sums);
    Through<P> through[2];
#pragma unroll
    for (int half = 0; half < 2; half++)
      through[half] = Through<P>(norm[half], sums[0][half] * of.inverse_width, sums[1][half] * of.inverse_width);
    const bool normed = of.normed;
    for_groups([&](int group) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float d[kUnit];
#pragma unroll
        for (int i = 0; i < kUnit; i++) d[i] = g[sum_at(group, half, i)];
        if (normed) {
#pragma unroll
          for (int from = 0; from < kUnit; from += 4) {
            float z[4];
            load_z(group, half, from, z);
#pragma unroll
            for (int i = 0; i < 4; i++) d[from + i] = through[half](d[from + i], z[i]);
          }
        }
#pragma unroll
        for (int j = 0; j < kUnitParts; j++)
          ptx::store_shared(place + offset(group, half, j), Numbers<P>::part(d + j * kPerPart).word);
      }
    });
    let_multiply();
  }

 private:
  static constexpr bool kExact = !Numbers<P>::kHalf;  // about the variance
  static constexpr int kSums = kExact ? 1 : 2;
  static constexpr int kPerPart = Numbers<P>::kPerPart, kUnitParts = kUnit / kPerPart;
  static constexpr int kGroupBytes = kGroup / Numbers<P>::kPerBlock * kRowsBlockBytes;  // of A and of the tape

  // From a thread's first part in A, or on the tape, to part j of its unit of a group and half.
  __device__ int offset(int group, int half, int j) const {
    return group * kGroupBytes + half * 8 * kBlockBytes + j * second;  // eight rows further on are swizzled alike
  }
  // f(offset, 16 bytes of a unit as z is kept)
  template <class F>
  __device__ void for_kept(const Sums& z, int group, int half, F f) const {
    float x[kUnit];
#pragma unroll
    for (int i = 0; i < kUnit; i++) x[i] = z[sum_at(group, half, i)];
#pragma unroll
    for (int j = 0; j < kUnitParts; j++) f(offset(group, half, j), Kept<P>::part(x + j * kPerPart));
  }
  // Some of a unit of z, which lies in A.
  template <int Count>
  __device__ void load_z(int group, int half, int from, float (&z)[Count]) const {
    const std::uint32_t at = place + offset(group, half, from / kPerPart) + from % kPerPart * element_bytes(P);
    if constexpr (Numbers<P>::kHalf) {
      std::uint32_t word[Count / 2];
      ptx::load_shared(word, at);
#pragma unroll
      for (int i = 0; i < Count; i++) z[i] = i % 2 ? high_of(word[i / 2]) : low_of(word[i / 2]);
    } else {
      ptx::load_shared(z, at);
    }
  }

  __device__ Norm* stats() const { return ptx::in_global(static_cast<Norm*>(of.stats)); }

  // Adds up what the four threads that share a row have, and what the warpgroups have; At: the first of its places.
  template <int At, int Count>
  __device__ void exchange(float (&x)[Count][2]) const {
    static_assert(kWarpgroups == 4, "a row's sums are one load");
    const std::uint32_t of_row = ptx::shared_address(ptx::shared_memory() + kRowSumsAt) + (At * kRowSumFloats + 4 * row) * 4;
    const auto place = [&](int k, int half) { return of_row + (k * kRowSumFloats + 4 * 8 * half) * 4; };
#pragma unroll
    for (int k = 0; k < Count; k++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        x[k][half] += ptx::shuffle_xor(x[k][half], 1);
        x[k][half] += ptx::shuffle_xor(x[k][half], 2);
        if (unit == 0) ptx::store_shared(place(k, half) + 4 * warpgroup, x[k][half]);
      }
    ptx::sync_warpgroups();
#pragma unroll
    for (int k = 0; k < Count; k++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float of[kWarpgroups];
        ptx::load_shared(of, place(k, half));
        x[k][half] = (of[0] + of[1]) + (of[2] + of[3]);
      }
  }

  // In bfloat16 as flax computes the variance, from the mean of squares; else from what the mean leaves: an exchange more.
  __device__ void find_norms(const Sums& z, const float (&sums)[kSums][2], Norm (&norm)[2]) const {
    const float each = of.inverse_width;
    float squares[1][2] = {};
    if constexpr (kExact) {
      for_groups([&](int group) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
          float x[kUnit];
#pragma unroll
          for (int i = 0; i < kUnit; i++) x[i] = z[sum_at(group, half, i)] - sums[0][half] * each;
          cut_unit((first + group) * kGroup + unit * kUnit, of.width, x);
#pragma unroll
          for (int i = 0; i < kUnit; i++) squares[0][half] = math::fma(x[i], x[i], squares[0][half]);
        }
      });
      exchange<1>(squares);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float mean = sums[0][half] * each;
      if constexpr (kExact) {
        norm[half] = Norm::of(mean, 1.0f / math::sqrt(squares[0][half] * each + of.eps));
      } else {
        const float variance = math::fma(-mean, mean, sums[1][half] * each);
        norm[half] = Norm::of(mean, ptx::reciprocal_root(math::max(0.0f, variance) + of.eps));
      }
      if (of.keep && warpgroup == 0 && unit == 0) stats()[row_of(half)] = norm[half];
    }
  }

  // f(group, numbers of a unit, the four of what goes into the activation) of a row, by fours.
  template <class F>
  __device__ void for_normed(const Sums& z, const Norm (&norm)[2], F f) const {
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
  __device__ void activate(const Sums& z, const Norm (&norm)[2]) const {
    Part part[2];
    for_normed(z, norm, [&](int group, int from, auto x) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const float four[4] = {x(half, 0), x(half, 1), x(half, 2), x(half, 3)};
        cuda::activate<P, Act>(four, part[half], from % kPerPart);
        if ((from + 4) % kPerPart == 0) ptx::store_shared(place + offset(group, half, from / kPerPart), part[half].word);
      }
    });
    let_multiply();
  }
  template <class Act>
  __device__ void leave(const Sums& z, const Norm (&norm)[2]) const {
    float dot[1][2] = {};
    for_normed(z, norm, [&](int group, int from, auto x) {
      float w[4];
      load(head, group, from, w);
#pragma unroll
      for (int half = 0; half < 2; half++)
#pragma unroll
        for (int i = 0; i < 4; i++) dot[0][half] = math::fma(activated<P, Act>(x(half, i)), w[i], dot[0][half]);
    });
    exchange<4>(dot);
#pragma unroll
    for (int half = 0; half < 2; half++)
      if (warpgroup == 0 && unit == 0 && row_of(half) < of.rows)
        ptx::in_global(of.q)[row_of(half)] = dot[0][half] + of.head_bias;
    ptx::show_to_products();  // the vectors have been read before others are copied there
  }

  // Numbers whose vectors are loaded together on the way down: slopes of other activations than relu need registers.
  template <class Act>
  static __device__ constexpr int at_once() {
    return std::is_same<Act, math::Relu>::value ? 4 : 2;
  }
  template <class Act>
  __device__ void pull_back(Sums& dy, const Norm (&norm)[2], float (&sums)[2][2]) const {
    constexpr int kAtOnce = at_once<Act>();
    for_groups([&](int group) {
#pragma unroll
      for (int from = 0; from < kUnit; from += kAtOnce) {
        float by[kAtOnce], plus[kAtOnce];
        load(scale, group, from, by);
        load(shift, group, from, plus);
#pragma unroll
        for (int half = 0; half < 2; half++) {
          float z[kAtOnce];
          load_z(group, half, from, z);
#pragma unroll
          for (int i = 0; i < kAtOnce; i++) {
            float& g = dy[sum_at(group, half, from + i)];
            const float y = norm[half](z[i]);
            g *= by[i] * slope<P, Act>(math::fma(y, by[i], plus[i]));
            sums[0][half] += g;
            sums[1][half] = math::fma(g, y, sums[1][half]);
          }
        }
      }
    });
  }

  static __device__ void let_multiply() {
    ptx::show_to_products();
    ptx::sync_warpgroups();
  }

  const Product& of;
  int warpgroup, row;
  std::uint32_t place, vectors;  // shared addresses of this thread's first part in A, and of its first columns
  unsigned char* tape;           // the same part there
  int second;                    // from the first part of a unit to the second
};

}  // namespace vgf::cuda
