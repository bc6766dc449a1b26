// Norm and activation of a tile between two products, forward and backward, and the way into the first product.
//
// A warp takes two rows at a time, 16 lanes a row, 8 columns a lane; rows are read again from L1 for every sum, so any
// width will do, and those of the next two are sent for meanwhile. Cost model at width 512: a few dozen instructions a
// number against 512 multiply-adds for it in the product; forward reads z and writes the operand, backward reads z and dy.
#pragma once

#include <ptx/access.cuh>

#include "../../math/activations.hpp"
#include "../numbers.cuh"

namespace vgf::cuda {

// f(act) with the activation as a type. The branch is the same for all threads.
template <class F>
__device__ inline void with_activation(Activation activation, F f) {
  switch (activation) {
    case Activation::relu: return f(math::Relu{});
    case Activation::gelu: return f(math::Gelu{});
    case Activation::gelu_erf: return f(math::GeluErf{});
    case Activation::silu: return f(math::Silu{});
    case Activation::mish: return f(math::Mish{});
    case Activation::tanh: return f(math::Tanh{});
    case Activation::elu: return f(math::Elu{});
  }
}
// Zeros what of a unit, whose first column is given, lies past the width.
__device__ inline void cut_unit(int column, int width, float (&x)[kUnit]) {
  if (column + kUnit <= width) return;
#pragma unroll
  for (int i = 0; i < kUnit; i++)
    if (column + i >= width) x[i] = 0;
}
// act(z), as exactly as a precision asks for, and its derivative.
template <Precision P, class Act>
__device__ inline float activated(float z) {
  return static_cast<float>(Act::apply(typename Numbers<P>::Real(z)));
}
template <Precision P, class Act>
__device__ inline float slope(float z) {
  return static_cast<float>(Act::slope(typename Numbers<P>::Real(z)));
}
template <Precision P>
__device__ inline void activate(Activation activation, float (&x)[kUnit]) {
  with_activation(activation, [&](auto act) {
#pragma unroll
    for (int i = 0; i < kUnit; i++) x[i] = activated<P, decltype(act)>(x[i]);
  });
}
// dy becomes dy act'(z).
template <Precision P>
__device__ inline void pull_back(Activation activation, const float (&z)[kUnit], float (&dy)[kUnit]) {
  with_activation(activation, [&](auto act) {
#pragma unroll
    for (int i = 0; i < kUnit; i++) dy[i] *= slope<P, decltype(act)>(z[i]);
  });
}

// The sum over the 16 lanes of a row.
__device__ inline float sum_row(float x) {
  x += ptx::shuffle_xor(x, 1);
  x += ptx::shuffle_xor(x, 2);
  x += ptx::shuffle_xor(x, 8);
  return x + ptx::shuffle_xor(x, 16);
}

template <Precision P>
struct Hidden {
  using Stored = typename Numbers<P>::Stored;

  int rows, width;
  Activation activation;
  Norm norm;
  float eps;
  const Stored* z;        // [rows][padded(width)], from the product
  const float* vectors;   // bias, norm scale, norm bias, padded(width) each
  float* stats;           // [rows][2]: mean, 1 / std
  unsigned char* a;       // out: the next product's operand, k-blocks of [tile_rows][64 bytes]
  int tile_rows;
  const float* head;      // the last layer's weights where there is one output, else null
  float head_bias;
  float* q;               // out, with a head: [rows]
  const Stored* dy;       // backward: the gradient of what the layer gave, [rows][padded(width)]; null: it is `head`

  __device__ int units() const { return padded(width) / kUnit; }

  // Calls f(row, is it one to write) for the rows of this warp, two at a time; all lanes come along.
  template <class F>
  __device__ void for_rows(F f) const {
    const int warp = ptx::thread() / kLanes, lane = ptx::thread() % kLanes;
    const auto row_of = [&](int pair) { return min_int(pair + pass_row(lane), rows - 1); };
    if (2 * warp < rows) send_for(row_of(2 * warp));
    for (int pair = 2 * warp; pair < rows; pair += 2 * kWarps) {
      if (pair + 2 * kWarps < rows) send_for(row_of(pair + 2 * kWarps));
      f(row_of(pair), pair + pass_row(lane) < rows);
    }
  }
  // Brings this lane's part of a row into L1, a lane a line.
  __device__ void send_for(int row) const {
    constexpr int units_of_line = 128 / (kUnit * sizeof(Stored));
    for_units([&](int unit) {
      if (unit % units_of_line > 0) return;
      const std::int64_t at = std::int64_t{row} * padded(width) + unit * kUnit;
      ptx::prefetch(z + at);
      if (dy) ptx::prefetch(dy + at);
    });
  }
  // Calls f(unit) for this lane's units of a row.
  template <class F>
  __device__ void for_units(F f) const {
    for (int unit = pass_unit(ptx::thread() % kLanes); unit < units(); unit += kRowLanes) f(unit);
  }
  __device__ void cut(int unit, float (&x)[kUnit]) const { cut_unit(unit * kUnit, width, x); }
  __device__ void load(const Stored* from, int row, int unit, float (&x)[kUnit]) const {
    load_unit(ptx::in_global(from) + std::int64_t{row} * padded(width) + unit * kUnit, x);
  }
  __device__ void load(const float* vector, int unit, float (&x)[kUnit]) const {
    load_unit(ptx::in_global(vector) + unit * kUnit, x);
  }
  __device__ const float* scale() const { return vectors + padded(width); }
  __device__ const float* shift() const { return vectors + 2 * padded(width); }

  __device__ void store(int row, int unit, const float (&x)[kUnit]) const {
    constexpr int per_part = Numbers<P>::kPerPart;
#pragma unroll
    for (int j = 0; j < kUnit / per_part; j++) {
      const int part = unit * (kUnit / per_part) + j;
      unsigned char* block = a + std::int64_t{part / kParts} * tile_rows * kBlockBytes;
      *reinterpret_cast<Part*>(block + part_offset(row, part % kParts)) = Numbers<P>::part(x + j * per_part);
    }
  }

  __device__ void forward() const {
    for_rows([&](int row, bool valid) {
      float mean = 0, rstd = 1;
      const auto input = [&](int unit, float(&x)[kUnit]) {  // of the norm, where there is one
        load(z, row, unit, x);
        if (norm == Norm::post) activate<P>(activation, x);
      };
      if (norm != Norm::none) moments(input, mean, rstd);
      float dot = 0;
      for_units([&](int unit) {
        float x[kUnit];
        input(unit, x);
        if (norm != Norm::none) normalise(unit, mean, rstd, x);
        if (norm != Norm::post) activate<P>(activation, x);
        cut(unit, x);
        if (head) {
          float w[kUnit];
          load(head, unit, w);
#pragma unroll
          for (int i = 0; i < kUnit; i++) dot = math::fma(x[i], w[i], dot);
        } else if (valid) {
          store(row, unit, x);
        }
      });
      if (head) dot = sum_row(dot) + head_bias;
      if (!valid || pass_unit(ptx::thread() % kLanes) > 0) return;
      if (head) q[row] = dot;
      if (norm != Norm::none) stats[2 * row] = mean, stats[2 * row + 1] = rstd;
    });
  }

  template <class Input>
  __device__ void moments(Input input, float& mean, float& rstd) const {
    float sum = 0, squares = 0;
    for_units([&](int unit) {
      float x[kUnit];
      input(unit, x);
      cut(unit, x);
#pragma unroll
      for (int i = 0; i < kUnit; i++) sum += x[i];
    });
    mean = sum_row(sum) / width;
    for_units([&](int unit) {
      float x[kUnit];
      input(unit, x);
#pragma unroll
      for (int i = 0; i < kUnit; i++) x[i] -= mean;
      cut(unit, x);
#pragma unroll
      for (int i = 0; i < kUnit; i++) squares = math::fma(x[i], x[i], squares);
    });
    rstd = 1.0f / math::sqrt(sum_row(squares) / width + eps);
  }

  __device__ void normalise(int unit, float mean, float rstd, float (&x)[kUnit]) const {
    float by[kUnit], plus[kUnit];
    load(scale(), unit, by);
    load(shift(), unit, plus);
#pragma unroll
    for (int i = 0; i < kUnit; i++) x[i] = math::fma((x[i] - mean) * rstd, by[i], plus[i]);
  }

  // Layer norm backward: d = rstd (g - mean(g) - y mean(g y)), y the normalised values, g = dy * scale.
  __device__ void backward() const {
    for_rows([&](int row, bool valid) {
      const float mean = norm == Norm::none ? 0 : stats[2 * row], rstd = norm == Norm::none ? 1 : stats[2 * row + 1];
      // g and y of a unit; without a norm g is the result
      const auto terms = [&](int unit, float(&g)[kUnit], float(&y)[kUnit]) {
        if (dy)
          load(dy, row, unit, g);
        else
          load(head, unit, g);
        load(z, row, unit, y);
        if (norm == Norm::none) {
          pull_back<P>(activation, y, g);
        } else {
          if (norm == Norm::post) activate<P>(activation, y);
          float by[kUnit];
          load(scale(), unit, by);
#pragma unroll
          for (int i = 0; i < kUnit; i++) y[i] = (y[i] - mean) * rstd;
          if (norm == Norm::pre) {
            float plus[kUnit];
            load(shift(), unit, plus);
#pragma unroll
            for (int i = 0; i < kUnit; i++) plus[i] = math::fma(y[i], by[i], plus[i]);
            pull_back<P>(activation, plus, g);
          }
#pragma unroll
          for (int i = 0; i < kUnit; i++) g[i] *= by[i];
        }
        cut(unit, g);
      };
      float mean_g = 0, mean_gy = 0;
      if (norm != Norm::none) {
        for_units([&](int unit) {
          float g[kUnit], y[kUnit];
          terms(unit, g, y);
          cut(unit, y);
#pragma unroll
          for (int i = 0; i < kUnit; i++) {
            mean_g += g[i];
            mean_gy = math::fma(g[i], y[i], mean_gy);
          }
        });
        mean_g = sum_row(mean_g) / width;
        mean_gy = sum_row(mean_gy) / width;
      }
      for_units([&](int unit) {
        float g[kUnit], y[kUnit];
        terms(unit, g, y);
        if (norm != Norm::none) {
#pragma unroll
          for (int i = 0; i < kUnit; i++) g[i] = rstd * (g[i] - mean_g - y[i] * mean_gy);
        }
        if (norm == Norm::post) {
          load(z, row, unit, y);
          pull_back<P>(activation, y, g);
        }
        cut(unit, g);
        if (valid) store(row, unit, g);
      });
    });
  }
};

// Fills an operand of `tile_rows` x k from f(row, k), zero past `rows` and past `k`.
template <Precision P, class F>
__device__ inline void fill_operand(unsigned char* a, int tile_rows, int rows, int k, F f) {
  constexpr int per_part = Numbers<P>::kPerPart;
  const int parts = k_blocks(k, P) * kParts;
  for (int i = ptx::thread(); i < tile_rows * parts; i += kThreads) {
    const int row = i / parts, part = i % parts;
    float x[per_part];
#pragma unroll
    for (int j = 0; j < per_part; j++) {
      const int at = part * per_part + j;
      x[j] = row < rows && at < k ? f(row, at) : 0.0f;
    }
    unsigned char* block = a + std::int64_t{part / kParts} * tile_rows * kBlockBytes;
    *reinterpret_cast<Part*>(block + part_offset(row, part % kParts)) = Numbers<P>::part(x);
  }
}

}  // namespace vgf::cuda
