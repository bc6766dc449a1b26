// Networks on a tile by mma.sync: products from registers, norms and activations in a pass of their own between them.
//
// On chip, from the start of shared memory:
//   the tile's number                128 bytes
//   bandwidths of its states         16 M bytes
//   stages of weights (and of activations where they do not stay), 4 x up to 16 KB; between products the kernel values
//                                    of the pairwise part, or the counts of its median
//   activations                      M x widest layer x 2 or 4 bytes, where they fit
// bf16, width 512, M = 128 / 64 / 32: 194 / 129 / 97 KB; fp32 and tf32, M = 64 / 32: 193 / 129 KB. In scratch, so in L2 as
// long as all blocks' fits there: the tape (z of every hidden layer, for the gradient). Registers: M sums a thread and
// product; 255 at M = 128.
//
// Floors, two critics of 4 x 512, a particle and step, forward and gradient: 6.4 MFLOP over the rate of mma.sync. From L2,
// bf16: 6.3 MB of weights a tile, so 6.3 / M MB a particle, and 2 (forward, gradient) x 2 x 4 layers x 512 x 2 bytes of z
// and dz written and read, 33 KB. At M = 128 the weights and z together are 82 KB a particle: at 5.5 TB/s of L2 15 ns a
// particle over the whole chip, against 10 ns for 6.4 MFLOP at 620 TFLOP/s (both rates from the literature). What an
// H100 took in bf16 was five to six times as long as schedule.cpp's model of this said, which says so now; that was
// before what a product needs was kept in registers.
#pragma once

#include "gemm.cuh"
#include "hidden.cuh"
#include "place.cuh"

namespace vgf::cuda {

static_assert(bandwidth_bytes(128) % 128 == 0 && kHeadBytes % 128 == 0 && pair_bytes(128) % 128 == 0);
static_assert(kStages * kChunk * kBlockBytes >= pair_bytes(128), "the pairwise part works in the stages of wide layers");
static_assert(kHeadBytes + bandwidth_bytes(kLargestTile) + kStages * (kChunk + kLargestTile) * kBlockBytes <= 99 * 1024,
              "the largest tile fits where shared memory is least, with its activations in scratch");

template <Precision P, int M>
class MmaNetwork {
  using Stored = typename Numbers<P>::Stored;

 public:
  static constexpr int kRows = M;

  __device__ explicit MmaNetwork(const Place& place) : here(place), p(place.p) {
    stages = ptx::shared_memory() + kHeadBytes + bandwidth_bytes(M);
    a = p.resident ? stages + p.work_bytes : here.scratch + p.at.a;
  }

  // Shared memory of the pairwise part.
  __device__ Bandwidth* bandwidths() const { return reinterpret_cast<Bandwidth*>(ptx::shared_memory() + kHeadBytes); }
  __device__ float* pair_memory() const { return reinterpret_cast<float*>(stages); }

  __device__ void run(const Pass& pass) const {
    const Net& net = net_of(p, pass);
    if (pass.observes) return observe(net, here.observed(net));
    const float time = pass.role == Role::policy ? static_cast<float>(pass.round) / counted(p.euler_steps) : 0;
    propagate(net, pass.member, here.observed(net), time, pass.role == Role::critic);
  }

 private:
  // b + obs W of the first layer, of the tile's states.
  __device__ __noinline__ void observe(const Net& net, const Observed& to) const {
    const float* obs = p.obs + here.first_state * p.O;
    fill_operand<P>(a, M, here.states, p.O, [&](int s, int o) { return obs[std::int64_t{s} * p.O + o]; });
    for (int e = 0; e < net.ensemble; e++) {
      Product g = product(net.member(e) + net.observe, p.O, net.first_width);
      g.init = vectors(net, e, net.layer(0).vectors);
      g.c = to.at + e * to.stride;
      g.as_float = true;
      g.rows = here.states;
      ptx::sync_block();
      Gemm<P, M>::start(g);
      Gemm<P, M>::run(g);
    }
  }

  // Member e forward on the tile's particles (and `time`, where the net takes one more input): q, or the velocity. With
  // `gradient` also back: dq of this member.
  __device__ __noinline__ void propagate(const Net& net, int e, const Observed& seen, float time, bool gradient) const {
    Product g = up(net, e, 0, seen.at + e * seen.stride, gradient);
    start_early(g);
    const float* particles = here.x();
    const int dims = p.A;
    fill_operand<P>(a, M, here.rows, net.inputs,
                    [&](int row, int k) { return k < dims ? particles[row * dims + k] : time; });
    start_late(g);
    for (int l = 0; l < net.hidden; l++) {
      Gemm<P, M>::run(g);
      const bool last = l + 1 == net.hidden, more = !last || !net.critic || gradient;
      if (!last)
        g = up(net, e, l + 1, nullptr, gradient);
      else if (!net.critic)
        g = velocity(net);
      else if (gradient)
        g = down(net, e, l);
      if (more) start_early(g);
      const Hidden<P> h = hidden(net, e, l, gradient);
      forward(h);
      if (last && gradient) {
        ptx::sync_block();
        backward(h);
      }
      if (more) start_late(g);
    }
    if (!net.critic) Gemm<P, M>::run(g);
    if (gradient) {
      for (int l = net.hidden - 1;; l--) {
        Gemm<P, M>::run(g);
        if (l == 0) break;
        g = down(net, e, l - 1);
        start_early(g);
        Hidden<P> h = hidden(net, e, l - 1, true);
        h.dy = reinterpret_cast<const Stored*>(here.scratch + p.at.work);
        backward(h);
        start_late(g);
      }
    }
    ptx::sync_block();
  }

  // z of a hidden layer; without a tape the layers take turns in one place
  __device__ Stored* z(const Net& net, int l, bool keep) const {
    return reinterpret_cast<Stored*>(here.scratch + p.at.tape + (keep ? l * tape_bytes(net) : 0));
  }
  __device__ std::int64_t tape_bytes(const Net& net) const { return std::int64_t{M} * net.widest * sizeof(Stored); }

  // ---- products

  __device__ Product product(const unsigned char* w, int k, int columns) const {
    Product g{};
    g.a = a;
    g.staged = !p.resident;
    g.stages = stages;
    g.stage_bytes = p.stage_bytes;
    g.stage_a = p.stage_a;
    g.w = w;
    g.blocks = k_blocks(k, P);
    g.columns = padded(columns);
    g.pitch = g.columns;
    g.rows = here.rows;
    return g;
  }

  // observed: [states of the tile][padded(width)], of member e
  __device__ Product up(const Net& net, int e, int l, const float* observed, bool keep) const {
    const PackedLayer layer = net.layer(l);
    const int k = l > 0 ? padded(net.layer(l - 1).width) : net.inputs;
    Product g = product(net.member(e) + layer.forward, k, layer.width);
    g.c = z(net, l, keep);
    g.as_float = !Numbers<P>::kHalf;
    if (l > 0) {
      g.init = vectors(net, e, layer.vectors);
    } else {
      g.init = observed;
      g.init_pitch = g.columns;
      g.states_of = p.N;
      g.row_offset = here.offset;
    }
    return g;
  }
  __device__ Product velocity(const Net& net) const {
    Product g = product(net.member(0) + net.last, padded(net.layer(net.hidden - 1).width), net.outputs);
    g.init = vectors(net, 0, net.last_bias);
    g.c = here.velocity();
    g.as_float = true;
    return g;
  }
  __device__ Product down(const Net& net, int e, int l) const {
    const PackedLayer layer = net.layer(l);
    Product g = product(net.member(e) + layer.backward, padded(layer.width),
                        l > 0 ? net.layer(l - 1).width : net.inputs);
    g.c = l > 0 ? static_cast<void*>(here.scratch + p.at.work) : here.member(e);
    g.as_float = l == 0 || !Numbers<P>::kHalf;
    return g;
  }

  // Copies of weights may start before the activations are written; of activations in scratch, only after.
  __device__ void start_early(const Product& g) const {
    if (p.resident) Gemm<P, M>::start(g);
  }
  __device__ void start_late(const Product& g) const {
    if (p.resident) return;
    ptx::sync_block();
    Gemm<P, M>::start(g);
  }

  // ---- networks

  __device__ Hidden<P> hidden(const Net& net, int e, int l, bool keep) const {
    const PackedLayer layer = net.layer(l);
    Hidden<P> h{};
    h.rows = here.rows;
    h.width = layer.width;
    h.activation = net.activation;
    h.norm = net.norm;
    h.eps = net.norm_eps;
    h.z = z(net, l, keep);
    h.vectors = vectors(net, e, layer.vectors);
    h.stats = here.floats(p.at.stats) + l * 2 * M;
    h.a = a;
    h.tile_rows = M;
    if (net.critic && l + 1 == net.hidden) {
      h.head = vectors(net, e, net.last);
      h.head_bias = *vectors(net, e, net.last_bias);
      h.q = here.q(e);
    }
    return h;
  }

  // A copy each, so that what they are told stays in registers.
  static __device__ __noinline__ void forward(const Hidden<P>& what) {
    const Hidden<P> h = what;
    h.forward();
  }
  static __device__ __noinline__ void backward(const Hidden<P>& what) {
    const Hidden<P> h = what;
    h.backward();
  }

  const Place& here;
  const Program& p;
  unsigned char *stages, *a;
};

}  // namespace vgf::cuda
