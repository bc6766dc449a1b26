// Networks on a tile of 64 rows by wgmma: four warpgroups take it through all layers, each with a quarter of a layer's columns;
// weights come from the ring. See sm90_design.md for what was weighed, and what this costs.
//
// a      activations (of the gradient: dz), k-blocks of [64][64 bytes] in shared memory, updated in place
// tape   z of every hidden layer but the last, in scratch: as it will lie in a, where it comes back to
// stats  [hidden][64] Normaliser
//
// A number takes 2 bytes in bfloat16, else 4; in float32 its parts of tf32 are found in registers, those of the weights packed.
//
// A product is at most 128 columns of a warpgroup, 64 sums a thread, which norm and activation find in registers
// (warpgroup_hidden.cuh). On the way down z of the layer comes back to a, k-block by k-block, as the product is done with it.
#pragma once

#include "ring.cuh"
#include "warpgroup_hidden.cuh"

namespace vgf::cuda {

// What the working threads know of their tile, in shared memory: registers have other uses.
struct Known {
  Spot spot;
  Pass pass;
  unsigned meetings;  // with the blocks that evaluate other members
  std::uint16_t state_of[kHopperRows];  // of each row, within the tile
};
static_assert(sizeof(Known) <= kProductsAt - kTileAt);
__device__ inline Known& known() { return *reinterpret_cast<Known*>(ptx::shared_memory() + kTileAt); }

// Where this block's tile is, for threads that work and for the one that fetches.
template <Precision P>
__device__ inline Place place_of(const Program& p, const Spot& spot, const Ring<P>& ring) {
  Place here(p, spot, kHopperRows);
  here.side = ring.side();
  here.speaks = here.side == 0;
  here.first = here.side * ring.mates();
  return here;
}

// The way into the first product: observations, or particles (and the time, where the net takes one more input).
template <Precision P>
__device__ __noinline__ void enter(const Program& p) {
  unsigned char* a = Ring<P>(p).behind();
  const Known& tile = *ptx::in_shared(&known());
  const Pass pass = tile.pass;
  const Net& net = net_of(p, pass);
  const Place here(p, tile.spot, kHopperRows);
  if (pass.observes) {
    const float* obs = ptx::in_global(p.obs + here.first_state * p.O);
    const int O = p.O;
    fill_operand<P>(a, kHopperRows, here.states, O, [&](int s, int o) { return obs[std::int64_t{s} * O + o]; });
  } else {
    const float* particles = here.x();
    const int dims = p.A;
    const float time = pass.role == Role::policy ? static_cast<float>(pass.round) / counted(p.euler_steps) : 0;
    fill_operand<P>(a, kHopperRows, here.rows, net.inputs,
                    [&](int row, int k) { return k < dims ? particles[row * dims + k] : time; });
  }
  ptx::show_to_products();
}

template <Precision P>
class WarpgroupNetwork {
 public:
  __device__ explicit WarpgroupNetwork(const Program& program) : p(program), ring(program) {}

  // The pass that is known. Products are in no function of their own, because the compiler would wait for each (its warning
  // C7510), and are written once, because they are large.
  __device__ __forceinline__ void run() {
    if (ptx::thread() < kThreads) enter<P>(p);
    ptx::sync_warpgroups();
    for (bool more = true; more;) {
      const Product& product = ring.wait_product(next);
      Sums sum;
      Normaliser<P> norm[2];
      {
        const Layer<P> y = layer(product);
        if (product.what == Product::down) y.recall(norm);
        fetch_init(product, y);
        multiply(product, y, sum);
      }
      add_init(product, layer(product), sum);
      if (product.what == Product::out) {
        put_out(product, layer(product), sum);
      } else {
        if (product.what == Product::up) layer(product).go_up(sum, norm);
        if (product.from_head) layer(product).turn_back(sum);
        if (product.what == Product::down) ptx::wait_for(ring.taped(), Weights::tape_parity(product.tape_number));
        if (product.what == Product::down || product.from_head) {
          float sums[2][2] = {};
          layer(product).pull_back(sum, norm, sums);
          layer(product).go_down(sum, norm, sums);
        }
      }
      more = product.more;
      ring.release_product(ptx::anew(next++));
    }
    ptx::sync_warpgroups();
  }

 private:
  using Weights = Ring<P>;

  // Found anew by each that needs it, which takes less time than to keep it where registers are short.
  __device__ Layer<P> layer(const Product& product) const { return Layer<P>(product, ring.behind(), ring.vectors(next)); }

  // What a product is added to. (Sums that began with it would make the compiler wait for every product: its warning C7515.)
  __device__ void add_init(const Product& product, const Layer<P>& y, Sums& sum) const {
    if (product.what == Product::up && !product.init) return y.add_bias(sum);
    if (!product.init) return;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float* from = init(product, y, half);
      y.for_groups([&](int group) {
        float x[kUnit];
        load_unit(from + group * kGroup, x);
#pragma unroll
        for (int i = 0; i < kUnit; i++) sum[sum_at(group, half, i)] += x[i];
      });
    }
  }
  __device__ void fetch_init(const Product& product, const Layer<P>& y) const {
    if (product.what != Product::up || !product.init) return;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float* from = init(product, y, half);
      y.for_groups([&](int group) { ptx::prefetch(from + group * kGroup); });
    }
  }
  // This thread's first unit of it: of a state, what the observations give, or the same for all rows.
  __device__ const float* init(const Product& product, const Layer<P>& y, int half) const {
    const int row = product.what == Product::up ? ptx::in_shared(known().state_of)[y.row_of(half)] : 0;
    return ptx::in_global(product.init) + row * product.columns + y.first * kGroup + y.unit * kUnit;
  }

  // Ends with this warp's products done. Always of all the columns that there are sums for: of what lies behind a warpgroup's own
  // nothing is used. One that has none only says that it needs no weights.
  __device__ void multiply(const Product& product, const Layer<P>& y, Sums& sum) const {
    const typename Weights::Mate mate = ring.mate();
    const unsigned begin = product.first, end = begin + product.blocks;
#pragma unroll
    for (float& s : sum) s = 0;
    if (!y.multiplies || begin == end) {
#pragma unroll 1
      for (unsigned at = begin; at != end; at++) {
        ring.wait(at);
        ptx::sync_warp();  // all lanes have seen it: the next round may come before a late one looks
        Weights::release(mate, at);
      }
      return;
    }
    const std::uint32_t weights = ptx::operand(ring.weights(0) + y.first * kGroup * kBlockBytes);
    if constexpr (P == Precision::fp32) return multiply_split(mate, begin, end, weights, sum);
    std::uint32_t x = ptx::operand(ring.behind());
#pragma unroll 1
    for (unsigned at = begin; at != end; at++) {
      const std::uint32_t w = weights + ring.wait(at) * (kSlotBytes >> 4);
      ptx::begin_products();
      ptx::multiply_group<P>(sum, x, w);
      ptx::multiply_group<P>(sum, x + kSliceStep, w + kSliceStep);
      ptx::commit_products();
      x += kRowsBlockBytes >> 4;
      ptx::wait_products<1>();
      if (at != begin) Weights::release(mate, at - 1);
    }
    ptx::wait_products<0>();
    ptx::hold(sum);
    Weights::release(mate, end - 1);
  }

  // The same in float32, by three products of tf32: large and small parts of the weights from the ring, those of the
  // activations, which a warp takes apart for its rows, from registers. That of the small parts is below float32's last bit. Sums of
  // the tensor cores are truncated, so only 8 terms are left to them and the rest is added in float32.
  __device__ void multiply_split(const typename Weights::Mate& mate, unsigned begin, unsigned end, std::uint32_t weights,
                                 Sums& sum) const {
    const int thread = ptx::thread_anew(), lane = thread % kLanes, row = thread % kGroupThreads / kLanes * kWarpRows;
    const int own = part_offset(row + a_row(lane), a_part(lane));
    constexpr unsigned kSlices = weight_blocks(P);
#pragma unroll 1
    for (unsigned at = begin; at != end; at++) {
      const std::uint32_t w = weights + ring.wait(at) * (kSlotBytes >> 4);
      const unsigned slice = at - begin;
      std::uint32_t large[4], small[4];
      ptx::load_matrices(small, ring.behind() + slice / kSlices * kRowsBlockBytes + (own ^ slice % kSlices * 2 * kPartBytes));
#pragma unroll
      for (int i = 0; i < 4; i++) {
        large[i] = large_of(small[i]);
        small[i] = small_of(small[i], large[i]);
      }
#pragma unroll
      for (int group = 0; group < kMostGroups; group++) {
        const std::uint32_t large_w = w + group * (kGroup * kBlockBytes >> 4), small_w = large_w + kSliceStep;
        float term[kGroup / 2];
        ptx::begin_products();
        ptx::multiply_rows<true>(term, small, large_w);
        ptx::multiply_rows<false>(term, large, small_w);
        ptx::multiply_rows<false>(term, large, large_w);
        ptx::commit_products();
        ptx::wait_products<0>();
        ptx::hold(term);
        ptx::hold(small);
        ptx::hold(large);
#pragma unroll
        for (int i = 0; i < kGroup / 2; i++) sum[group * kGroup / 2 + i] += term[i];
      }
      ptx::show_to_products();  // what was read of the rows is read before a tape is copied there
      ptx::sync_warp();
      Weights::release(mate, at);
    }
  }

  // to[rows][columns], as float; in twos, which are side by side in a product's sums: for fours ptxas would move all sums, after
  // every product.
  __device__ void put_out(const Product& product, const Layer<P>& y, const Sums& sum) const {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = y.row_of(half);
      if (row >= product.rows) continue;
      float* to = ptx::in_global(product.to) + std::int64_t{row} * product.columns + y.first * kGroup + y.unit * kUnit;
      y.for_groups([&](int group) {
#pragma unroll
        for (int i = 0; i < kUnit; i += 2)
          *reinterpret_cast<Two*>(to + group * kGroup + i) = {{sum[sum_at(group, half, i)], sum[sum_at(group, half, i + 1)]}};
      });
    }
  }

  const Program& p;
  const Weights ring;
  unsigned next = 0;  // number of the next product
};

}  // namespace vgf::cuda
