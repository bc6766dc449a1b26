// Networks on a tile by wgmma, bfloat16: a warpgroup takes 64 rows through all layers on its own; weights come from the
// ring. See sm90_design.md for what was weighed, and what this costs.
//
// a      activations (of the gradient: dz), k-blocks of [Rows][64 bytes] in shared memory, updated in place
// tape   z of every hidden layer as bfloat16, in scratch. A thread reads back only what it has written, so it lies there as
//        the thread holds it: [groups of 32 columns][2 halves][128 threads a warpgroup] of 16 bytes
// stats  [hidden][Rows] Normaliser
//
// A product is 256 columns at a time, 128 sums a thread, and has at most two such chunks. The first one's sums wait in 64
// registers, as bfloat16, until the second one's products have read `a`; then both are written to it, at the places where
// activations will be, and a loop of few registers takes them through norm and activation (warpgroup_hidden.cuh).
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

using Waiting = Part[kChunkGroups][2];  // a chunk's numbers, as bfloat16

// What the working threads know of their tile, in shared memory: registers have other uses.
struct Known {
  Spot spot;
  Pass pass;
  std::uint16_t state_of[kLargestHopperTile];  // of each row, within the tile
};
static_assert(sizeof(Known) <= kProductsAt - kTileAt);
__device__ inline Known& known(unsigned char* shared) { return *reinterpret_cast<Known*>(shared + kTileAt); }

// The way into the first product: observations, or particles (and the time, where the net takes one more input).
template <int Rows>
__device__ __noinline__ void enter(const Program& p, unsigned char* shared, unsigned char* a) {
  const Known& tile = *ptx::in_shared(&known(shared));
  const Pass pass = tile.pass;
  const Net& net = net_of(p, pass);
  const Place here(p, tile.spot, Rows);
  if (pass.observes) {
    const float* obs = ptx::in_global(p.obs + here.first_state * p.O);
    const int O = p.O;
    fill_operand<Precision::bf16>(a, Rows, here.states, O,
                                  [&](int s, int o) { return obs[std::int64_t{s} * O + o]; });
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

// Rows: of a tile, 64 or 128. With 64 the second warpgroup has none, and helps between passes only.
template <int Rows>
class WarpgroupNetwork {
  using Layer = cuda::Layer<Rows>;

 public:
  __device__ WarpgroupNetwork(const Program& program, unsigned char* shared)
      : p(program), ring(shared), a(ring.behind()) {}

  // The pass that is known. Products are in no function of their own, because the compiler would wait for each (its warning
  // C7510), and are written once, because they are large. They leave few registers, so what is known of them is read again
  // rather than kept.
  __device__ void run() {
    enter<Rows>(p, ring.shared, a);
    for (bool more = has_rows(); more;) {
      const Product& product = ring.wait_product();
      Waiting waiting;
      RowSums sums;
#pragma unroll 1
      for (int chunk = 0; chunk < chunks_of(product.columns); chunk++) {
        Sums sum;
        if (product.what == Product::up && product.init) fetch_seen(product, chunk);
        multiply(product.blocks, chunk_columns(product.columns, chunk), sum);
        if (product.what == Product::out)
          put_out(product, chunk, sum);
        else if (chunk_columns(product.columns, chunk) == kChunk)
          put<true>(product, chunk, sum, sums, waiting);
        else
          put<false>(product, chunk, sum, sums, waiting);
      }
      if (product.what != Product::out) {
        const Layer y = layer(product);
        if (product.columns > kChunk) put_waiting(y, waiting);
        if (product.what == Product::up) y.go_up(sums);
        if (product.what == Product::down || product.from_head) y.go_down();
      }
      more = product.more;
      ring.release_product();
    }
    ptx::sync_block();
  }

 private:
  // Whether this warpgroup has rows of the tile.
  static __device__ bool has_rows() { return ptx::thread() < Rows / kGroupRows * kGroupThreads; }

  __device__ Layer layer(const Product& product) const {
    return Layer(product, a, ptx::shared_address(ring.vectors()));
  }

  // ---- products

  // A chunk of at most N columns. Ends with this warp's products done.
  template <int N>
  __device__ void accumulate(int blocks, Sums& sum) {
    const unsigned char* rows = a + ptx::thread_anew() / kGroupThreads * kGroupRows * kBlockBytes;
    int before = 0;
#pragma unroll 1
    for (int block = 0; block < blocks; block++) {
      const std::uint64_t w = ptx::operand(ring.wait()), x = ptx::operand(rows + block * Layer::kABytes);
      ptx::begin_products();
      ptx::multiply_group<N>(sum, x, w);
      ptx::multiply_group<N>(sum, x + kSliceStep, w + kSliceStep);
      ptx::commit_products();
      ptx::wait_products<1>();
      if (block > 0) ring.release(before);
      before = ring.slot;
      ring.advance();
    }
    ptx::wait_products<0>();
    ring.release(before);
  }
  __device__ void multiply(int blocks, int columns, Sums& sum) {
#pragma unroll
    for (int i = 0; i < kChunk / 2; i++) sum[i] = 0;
    if (blocks == 0) return;
    if (columns > 128) {
      accumulate<256>(blocks, sum);
    } else if (columns > 64) {
      accumulate<128>(blocks, sum);
    } else if (columns > 32) {
      accumulate<64>(blocks, sum);
    } else {
      accumulate<32>(blocks, sum);
    }
  }

  // to[rows][columns] = init[column] + A W, as float.
  __device__ void put_out(const Product& product, int chunk, const Sums& sum) const {
    const Own own;
    const int columns = product.columns, rows = product.rows, column = chunk * kChunk + own.unit() * kUnit;
    const int groups = chunk_columns(columns, chunk) / kGroup;
    const float* init = product.init ? ptx::in_global(product.init) + column : nullptr;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      if (own.row(half) >= rows) continue;
      float* to = ptx::in_global(product.to) + std::int64_t{own.row(half)} * columns + column;
#pragma unroll
      for (int group = 0; group < kChunkGroups; group++) {
        if (group >= groups) break;
        float x[kUnit], b[kUnit] = {};
        take_unit(sum, group, half, x);
        if (init) load_unit(init + group * kGroup, b);
#pragma unroll
        for (int i = 0; i < kUnit; i++) x[i] += b[i];
        store_unit(to + group * kGroup, x);
      }
    }
  }
  // Where the parts of a chunk go: to A if it is the last, else to those waiting.
  struct Target {
    const Layer& y;
    int first;  // group
    bool last;
    Waiting& waiting;
    __device__ void operator()(int group, int half, const Part& part) const {
      if (last)
        ptx::store_shared(y.place(first + group, half), part.word);
      else
        waiting[group][half] = part;
    }
  };
  // z or dy of a chunk. Whole: it has kChunk columns.
  template <bool Whole>
  __device__ void put(const Product& product, int chunk, const Sums& sum, RowSums& sums, Waiting& waiting) const {
    const bool last = (chunk + 1) * kChunk >= product.columns;
    if (last) ptx::sync_warpgroup();  // A is free
    const Layer y = layer(product);
    const Target target{y, chunk * kChunkGroups, last, waiting};
    if (product.what == Product::up)
      put_up<Whole>(product, y, chunk, target, sum, sums);
    else
      put_down<Whole>(product, chunk, target, sum);
  }
  template <bool Whole>
  __device__ void put_down(const Product& product, int chunk, const Target& put, const Sums& sum) const {
    const int groups = chunk_columns(product.columns, chunk) / kGroup;
#pragma unroll
    for (int group = 0; group < kChunkGroups; group++) {
      if (!Whole && group >= groups) break;
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float x[kUnit];
        take_unit(sum, group, half, x);
        put(group, half, rounded(x));
      }
    }
  }
  // Of the first layer: what the observations give, by the state of this thread's row, from `column` on.
  __device__ const float* seen(const Product& product, int column, int half) const {
    const Own own;
    const int state = ptx::in_shared(known(ring.shared).state_of)[own.row(half)];
    return ptx::in_global(product.init) + state * product.columns + column + own.unit() * kUnit;
  }
  __device__ void fetch_seen(const Product& product, int chunk) const {
    const int groups = chunk_columns(product.columns, chunk) / kGroup;
#pragma unroll 1
    for (int half = 0; half < 2; half++) {
      const float* from = seen(product, chunk * kChunk, half);
#pragma unroll 1
      for (int group = 0; group < groups; group++) ptx::prefetch(from + group * kGroup);
    }
  }
  // z goes to the tape, too, and into what is known of its row.
  template <bool Whole>
  __device__ void put_up(const Product& product, const Layer& y, int chunk, const Target& put, const Sums& sum,
                         RowSums& sums) const {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      if (product.init) {
        const float* from = seen(product, chunk * kChunk, half);
        put_row<Whole>(product, y, chunk, half, put, sum, sums,
                       [&](int group, float(&b)[kUnit]) { load_unit(from + group * kGroup, b); });
      } else {
        put_row<Whole>(product, y, chunk, half, put, sum, sums,
                       [&](int group, float(&b)[kUnit]) { y.load(Layer::bias, chunk * kChunkGroups + group, b); });
      }
    }
  }
  // beginning(group, what the sums began with)
  template <bool Whole, class Beginning>
  __device__ void put_row(const Product& product, const Layer& y, int chunk, int half, const Target& put, const Sums& sum,
                          RowSums& sums, Beginning beginning) const {
    const int groups = chunk_columns(product.columns, chunk) / kGroup;
    const bool taped = product.keep;
    Part* tape = y.taped(chunk * kChunkGroups, half);
    float total[2] = {}, squares[2] = {};
#pragma unroll
    for (int group = 0; group < kChunkGroups; group++) {
      if (!Whole && group >= groups) break;
      float x[kUnit], b[kUnit];
      beginning(group, b);
      take_unit(sum, group, half, x);
#pragma unroll
      for (int i = 0; i < kUnit; i++) x[i] += b[i];
      const Part part = rounded(x);
      put(group, half, part);
      if (taped) ptx::store_global(tape + group * Layer::kTapeStep, part.word);
#pragma unroll
      for (int i = 0; i < kUnit; i++) {
        total[i % 2] += x[i];
        squares[i % 2] = math::fma(x[i], x[i], squares[i % 2]);
      }
    }
    sums.total[half] += total[0] + total[1];
    sums.squares[half] += squares[0] + squares[1];
  }
  // The first of two chunks, when the products of the second are done with A.
  __device__ void put_waiting(const Layer& y, const Waiting& waiting) const {
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
      for (int group = 0; group < kChunkGroups; group++)
        ptx::store_shared(y.place(group, half), waiting[group][half].word);
  }

  const Program& p;
  Ring ring;
  unsigned char* const a;
};

}  // namespace vgf::cuda
