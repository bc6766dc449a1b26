// What lies between two products of a warpgroup: norm and activation, up and down.
//
// A thread has 2 rows (halves) of its warpgroup's 64 and 8 columns side by side of every group of 32, which is how sums and
// packed weights have it; a part is those 8 as bfloat16. Nothing here is another thread's but the sums over the four that
// share a row: a part is read from A, where the product left it, and goes back to the same place. Loops are over groups, two
// at a time, so that the four parts of a thread hide each other's latency.
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

constexpr int kChunkGroups = kChunk / kGroup;

// The rows that a thread has of its tile's products and the unit of every group, and the sum over the four threads that share
// a row.
struct Own {
  int thread = ptx::thread_anew();
  __device__ int row(int half) const { return thread / kLanes * 16 + c_row(thread % kLanes, half); }
  __device__ int unit() const { return c_unit(thread % kLanes); }
};
__device__ inline float sum_own_row(float x) {
  x += ptx::shuffle_xor(x, 1);
  return x + ptx::shuffle_xor(x, 2);
}

// A unit of floats in shared memory.
__device__ inline void load_shared_unit(std::uint32_t from, float (&x)[kUnit]) {
  float low[4], high[4];
  ptx::load_shared(low, from);
  ptx::load_shared(high, from + 16);
#pragma unroll
  for (int i = 0; i < 4; i++) x[i] = low[i], x[4 + i] = high[i];
}

// act(x) of a unit, as bfloat16.
template <class Act>
__device__ inline Part rounded_activations(const float (&x)[kUnit]) {
  Part part;
#pragma unroll
  for (int i = 0; i < 4; i++)
    if constexpr (std::is_same<Act, math::Relu>::value)
      part.word[i] = ptx::to_positive_bf16_pair(x[2 * i], x[2 * i + 1]);
    else
      part.word[i] = ptx::to_bf16_pair(Act::apply(x[2 * i]), Act::apply(x[2 * i + 1]));
  return part;
}

// Of a thread's numbers of its two rows.
struct RowSums {
  float total[2] = {}, squares[2] = {};
};

// One product's layer on this thread's rows. Rows: of a tile.
template <int Rows>
class Layer {
 public:
  static constexpr int kABytes = Rows * kBlockBytes;  // of a k-block
  static constexpr int kHalfBytes = 8 * kBlockBytes;  // from a row of A to its thread's other one, swizzled alike
  // from a thread's part of a group on the tape to that of the next, and to its other row, in parts
  static constexpr int kTapeStep = 2 * Rows / kGroupRows * kGroupThreads, kTapeHalf = kTapeStep / 2;
  enum Vector { bias, scale, shift, head };

  // its_vectors: shared address
  __device__ Layer(const Product& product, unsigned char* a, std::uint32_t its_vectors)
      : of(product), groups(product.columns / kGroup),
        own_place(ptx::shared_address(a + part_offset(own.row(0), own.unit()))),
        vectors(its_vectors + own.unit() * (kUnit * 4)), tape(product.tape + own.thread) {}

  // A thread's place in A, where the activations of a group and row are, or z and dy before them.
  __device__ std::uint32_t place(int group, int half) const { return own_place + group * kABytes + half * kHalfBytes; }
  __device__ Part* taped(int group, int half) const { return tape + group * kTapeStep + half * kTapeHalf; }
  __device__ void load(Vector which, int group, float (&x)[kUnit]) const {
    load_shared_unit(vectors + (which * groups + group) * (kGroup * 4), x);
  }

  // From z in A through norm and activation to A; or to q.
  __device__ void go_up(const RowSums& sums) const {
    Normaliser norm[2];
    if (of.normed) find_norms(sums, norm);
    with_activation(of.activation, [&](auto act) {
      if (of.to_head)
        finish<decltype(act), true>(norm);
      else
        finish<decltype(act), false>(norm);
    });
  }

  // dy, of the head or in A, to dz in A. Layer norm backward: with y the normalised values and g = dy act' scale,
  // dz = rstd (g - mean(g) - y mean(g y)), which is rstd g + z_factor z + rest.
  __device__ void go_down() const {
    ptx::sync_warp();  // stats are another lane's
    Normaliser norm[2];
    float sums[2] = {}, products[2] = {};
#pragma unroll
    for (int half = 0; half < 2; half++)
      if (of.normed) norm[half] = ptx::in_global(of.stats)[own.row(half)];
    with_activation(of.activation, [&](auto act) {
      if (of.from_head)
        pull_back<decltype(act), true>(norm, sums, products);
      else
        pull_back<decltype(act), false>(norm, sums, products);
    });
    if (of.normed) subtract_means(norm, sums, products);
    let_multiply();
  }

 private:
  static constexpr int kBatch = 2;  // groups at a time
  using Parts = Part[kBatch][2];

  // f(j, half) for the parts of a batch.
  template <class F>
  static __device__ void for_parts(F f) {
#pragma unroll
    for (int j = 0; j < kBatch; j++)
#pragma unroll
      for (int half = 0; half < 2; half++) f(j, half);
  }
  // f(j, group) for the groups of a batch that there are.
  template <class F>
  __device__ void for_batch(int first, F f) const {
#pragma unroll
    for (int j = 0; j < kBatch; j++)
      if (first + j < groups) f(j, first + j);
  }
  // What a group's columns are normed with, and the head's weights.
  template <bool Head>
  struct Columns {
    float by[kUnit], plus[kUnit], w[kUnit];
    __device__ Columns(const Layer& y, int group) {
      y.load(scale, group, by);
      y.load(shift, group, plus);
      if (Head) y.load(head, group, w);
    }
  };
  // The groups from `first` on; the last one again where there are fewer.
  __device__ void load_a(int first, Parts& parts) const {
    for_parts([&](int j, int half) { ptx::load_shared(parts[j][half].word, place(min_int(first + j, groups - 1), half)); });
  }
  __device__ void load_tape(int first, Parts& parts) const {
    for_parts([&](int j, int half) { ptx::load_global(parts[j][half].word, taped(min_int(first + j, groups - 1), half)); });
  }
  // f(group, its z) for all groups. z is asked for two batches ahead: L2 answers after 600 clocks, memory after 1,000.
  template <class F>
  __device__ void for_taped(F f) const {
    Parts ahead[2];
    load_tape(0, ahead[0]);
    load_tape(kBatch, ahead[1]);
#pragma unroll 1
    for (int first = 0; first < groups; first += 2 * kBatch) {
#pragma unroll
      for (int turn = 0; turn < 2; turn++) {
        Parts z;
        for_parts([&](int j, int half) { z[j][half] = ahead[turn][j][half]; });
        const int begin = first + turn * kBatch;
        if (begin >= groups) break;
        if (begin + 2 * kBatch < groups) load_tape(begin + 2 * kBatch, ahead[turn]);
        f(begin, z);
      }
    }
  }

  // As flax computes the variance, from the mean of squares.
  __device__ void find_norms(const RowSums& sums, Normaliser (&norm)[2]) const {
    const float each = 1.0f / of.width;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float mean = sum_own_row(sums.total[half]) * each;
      const float variance = math::fma(-mean, mean, sum_own_row(sums.squares[half]) * each);
      norm[half].rstd = 1.0f / math::sqrt(math::max(0.0f, variance) + of.eps);
      norm[half].shift = -mean * norm[half].rstd;
      if (of.keep && own.unit() == 0) ptx::in_global(of.stats)[own.row(half)] = norm[half];
    }
  }

  template <class Act, bool Head>
  __device__ void finish(const Normaliser (&norm)[2]) const {
    float dot[2] = {};
#pragma unroll 1
    for (int first = 0; first < groups; first += kBatch) {
      Parts z;
      load_a(first, z);
      for_batch(first, [&](int j, int group) {
        const Columns<Head> c(*this, group);
#pragma unroll
        for (int half = 0; half < 2; half++) {
          float x[kUnit];
          widen(z[j][half], x);
#pragma unroll
          for (int i = 0; i < kUnit; i++) {
            x[i] = math::fma(norm[half](x[i]), c.by[i], c.plus[i]);
            if (Head) dot[half] = math::fma(Act::apply(x[i]), c.w[i], dot[half]);
          }
          if (!Head) ptx::store_shared(place(group, half), rounded_activations<Act>(x).word);
        }
      });
    }
    if (!Head) let_multiply();
#pragma unroll
    for (int half = 0; half < 2 && Head; half++) {
      const float value = sum_own_row(dot[half]) + of.head_bias;
      if (own.unit() == 0 && own.row(half) < of.rows) ptx::in_global(of.q)[own.row(half)] = value;
    }
  }

  // g to A, its sums, and those of g y.
  template <class Act, bool Head>
  __device__ void pull_back(const Normaliser (&norm)[2], float (&sums)[2], float (&products)[2]) const {
    for_taped([&](int first, const Parts& z) {
      Parts dy;
      if (!Head) load_a(first, dy);
      for_batch(first, [&](int j, int group) {
        const Columns<Head> c(*this, group);
#pragma unroll
        for (int half = 0; half < 2; half++) {
          float y[kUnit], g[kUnit];
          widen(z[j][half], y);
          if (!Head) widen(dy[j][half], g);
#pragma unroll
          for (int i = 0; i < kUnit; i++) {
            y[i] = norm[half](y[i]);
            g[i] = (Head ? c.w[i] : g[i]) * c.by[i] * Act::slope(math::fma(y[i], c.by[i], c.plus[i]));
            sums[half] += g[i];
            products[half] = math::fma(g[i], y[i], products[half]);
          }
          ptx::store_shared(place(group, half), rounded(g).word);
        }
      });
    });
  }
  __device__ void subtract_means(const Normaliser (&norm)[2], const float (&sums)[2], const float (&products)[2]) const {
    const float each = 1.0f / of.width;
    float z_factor[2], rest[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float mean_g = sum_own_row(sums[half]) * each, mean_gy = sum_own_row(products[half]) * each;
      z_factor[half] = -norm[half].rstd * norm[half].rstd * mean_gy;
      rest[half] = -norm[half].rstd * math::fma(mean_gy, norm[half].shift, mean_g);
    }
    for_taped([&](int first, const Parts& z) {
      Parts g;
      load_a(first, g);
      for_batch(first, [&](int j, int group) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
          float x[kUnit], d[kUnit];
          widen(z[j][half], x);
          widen(g[j][half], d);
#pragma unroll
          for (int i = 0; i < kUnit; i++)
            d[i] = math::fma(norm[half].rstd, d[i], math::fma(z_factor[half], x[i], rest[half]));
          ptx::store_shared(place(group, half), rounded(d).word);
        }
      });
    });
  }

  static __device__ void let_multiply() {
    ptx::show_to_products();
    ptx::sync_warpgroup();
  }

  const Own own;
  const Product& of;
  const int groups;
  const std::uint32_t own_place, vectors;  // shared addresses of this thread's first part in A, and of its first columns
  Part* const tape;
};

}  // namespace vgf::cuda
