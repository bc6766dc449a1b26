// A tile of particles on its way through networks, interaction and update: the block's whole program, in one launch.
//
// Pointers: those of Program (program.hpp). A block of 256 threads keeps a multiprocessor to itself and walks over tiles of
// M rows (particles of whole states, where they look at each other). All threads call everything, and every phase ends
// with all of them in step.
//
// On chip, from the start of shared memory:
//   the tile's number                128 bytes
//   bandwidths of its states         24 M bytes
//   stages of weights (and of activations where they do not stay), 4 x up to 16 KB; between products the kernel values
//                                    of the pairwise part, or the counts of its median
//   activations                      M x widest layer x 2 or 4 bytes, where they fit
// bf16, width 512, M = 128 / 64 / 32: 195 / 130 / 97 KB; fp32 and tf32, M = 64 / 32: 194 / 129 KB. In scratch, private to
// the block and reused by its tiles, so in L2 as long as all blocks' fits there: the tape (z of every hidden layer, for the
// gradient), particles, moments. Registers: M sums a thread and product; 255 at M = 128.
//
// Floors, two critics of 4 x 512, a particle and step, forward and gradient: 6.4 MFLOP over the rate of mma.sync. From L2,
// bf16: 6.3 MB of weights a tile, so 6.3 / M MB a particle, and 2 (forward, gradient) x 2 x 4 layers x 512 x 2 bytes of z
// and dz written and read, 33 KB. From memory: 8 A bytes a particle and call, 4 O a state. At M = 128 the weights and z
// together are 82 KB a particle: at 5.5 TB/s of L2 15 ns a particle over the whole chip, against 10 ns for 6.4 MFLOP at 620
// TFLOP/s (both rates from the literature; nothing here has been measured).
#pragma once

#include "../reduce.cuh"
#include "../update.cuh"
#include "gemm.cuh"
#include "hidden.cuh"
#include "interaction.cuh"

namespace vgf::cuda {

static_assert(bandwidth_bytes(128) % 128 == 0 && kHeadBytes % 128 == 0 && pair_bytes(128) % 128 == 0);
static_assert(kStages * kChunk * kBlockBytes >= pair_bytes(128), "the pairwise part works in the stages of wide layers");

template <Precision P, int M>
class Tile {
  using Stored = typename Numbers<P>::Stored;

 public:
  __device__ Tile(const Program& program, std::int64_t tile) : p(program) {
    unsigned char* shared = ptx::shared_memory();
    scratch = p.scratch + ptx::block_x() * p.at.bytes;
    bandwidths = reinterpret_cast<Bandwidth*>(shared + kHeadBytes);
    stages = shared + kHeadBytes + bandwidth_bytes(M);
    a = p.resident ? stages + p.work_bytes : scratch + p.at.a;
    first_row = tile * p.rows_per_tile;
    rows = static_cast<int>(p.rows - first_row < p.rows_per_tile ? p.rows - first_row : p.rows_per_tile);
    first_state = first_row / p.N;
    offset = static_cast<int>(first_row - first_state * p.N);
    states = (offset + rows - 1) / p.N + 1;
  }

  __device__ __noinline__ void run() {
    if (p.observe_to) {
      const int width = p.critic.first_width;
      return observe(p.critic, p.observe_to + first_state * width, p.B * width);
    }
    load(p.start, x());
    if (p.policy.present()) sample();
    if (p.differentiate || p.steps.value > 0 || p.particles) move();
    if (p.judge.present()) judge();
  }

 private:
  // ---- what lies in scratch

  __device__ float* floats(std::int64_t at) const { return reinterpret_cast<float*>(scratch + at); }
  __device__ float* x() const { return floats(p.at.x); }
  __device__ float* dq() const { return floats(p.at.dq); }
  __device__ float* phi() const { return floats(p.at.phi); }
  __device__ float* member(int e) const { return floats(p.at.members) + std::int64_t{e} * M * padded(p.A); }
  __device__ float* q(int e) const { return floats(p.at.q) + e * M; }
  // z of a hidden layer; without a tape the layers take turns in one place
  __device__ Stored* z(const Net& net, int l, bool keep) const {
    return reinterpret_cast<Stored*>(scratch + p.at.tape + (keep ? l * tape_bytes(net) : 0));
  }
  __device__ std::int64_t tape_bytes(const Net& net) const { return std::int64_t{M} * net.widest * sizeof(Stored); }

  template <class F>
  __device__ void for_numbers(F f) const {  // of the tile's particles
    for (int i = ptx::thread(); i < rows * p.A; i += kThreads) f(i);
  }
  __device__ __noinline__ void load(const float* from, float* to) const {
    for_numbers([&](int i) { to[i] = from[first_row * p.A + i]; });
    ptx::sync_block();
  }
  __device__ __noinline__ void store(const float* from, float* to) const {
    for_numbers([&](int i) { to[first_row * p.A + i] = from[i]; });
  }
  __device__ int state_of(int row) const { return (row + offset) / p.N; }

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
    g.rows = rows;
    return g;
  }
  __device__ const float* vectors(const Net& net, int e, std::int64_t at) const {
    return reinterpret_cast<const float*>(net.member(e) + at);
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
      g.row_offset = offset;
    }
    return g;
  }
  __device__ Product velocity(const Net& net) const {
    Product g = product(net.member(0) + net.last, padded(net.layer(net.hidden - 1).width), net.outputs);
    g.init = vectors(net, 0, net.last_bias);
    g.c = member(0);
    g.as_float = true;
    return g;
  }
  __device__ Product down(const Net& net, int e, int l) const {
    const PackedLayer layer = net.layer(l);
    Product g = product(net.member(e) + layer.backward, padded(layer.width),
                        l > 0 ? net.layer(l - 1).width : net.inputs);
    g.c = l > 0 ? static_cast<void*>(scratch + p.at.work) : member(e);
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
    h.rows = rows;
    h.width = layer.width;
    h.activation = net.activation;
    h.norm = net.norm;
    h.eps = net.norm_eps;
    h.z = z(net, l, keep);
    h.vectors = vectors(net, e, layer.vectors);
    h.stats = floats(p.at.stats) + l * 2 * M;
    h.a = a;
    h.tile_rows = M;
    if (net.critic && l + 1 == net.hidden) {
      h.head = vectors(net, e, net.last);
      h.head_bias = *vectors(net, e, net.last_bias);
      h.q = q(e);
    }
    return h;
  }

  // b + obs W of the first layer, of the tile's states. to: [E] times `stride` apart, [states][padded(width)].
  __device__ __noinline__ void observe(const Net& net, float* to, std::int64_t stride) const {
    const float* obs = p.obs + first_state * p.O;
    fill_operand<P>(a, M, states, p.O, [&](int s, int o) { return obs[std::int64_t{s} * p.O + o]; });
    for (int e = 0; e < net.ensemble; e++) {
      Product g = product(net.member(e) + net.observe, p.O, net.first_width);
      g.init = vectors(net, e, net.layer(0).vectors);
      g.c = to + e * stride;
      g.as_float = true;
      g.rows = states;
      ptx::sync_block();
      Gemm<P, M>::start(g);
      Gemm<P, M>::run(g);
    }
  }

  // What the first layer of a net makes of the observations.
  struct Observed {
    const float* at;
    std::int64_t stride;  // between members
  };
  __device__ Observed observed(const Net& net) const {
    const std::int64_t width = net.first_width;
    if (p.observed) return {p.observed + first_state * width, p.B * width};
    const std::int64_t stride = p.states_per_tile * width;
    observe(net, floats(p.at.observed), stride);
    return {floats(p.at.observed), stride};
  }

  // Member e forward on the tile's particles (and `time`, where the net takes one more input): q, or the velocity. With
  // `gradient` also back: dq of this member.
  __device__ __noinline__ void propagate(const Net& net, int e, const Observed& seen, float time, bool gradient) const {
    Product g = up(net, e, 0, seen.at + e * seen.stride, gradient);
    start_early(g);
    const float* particles = x();
    const int dims = p.A;
    fill_operand<P>(a, M, rows, net.inputs,
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
        h.dy = reinterpret_cast<const Stored*>(scratch + p.at.work);
        backward(h);
        start_late(g);
      }
    }
    ptx::sync_block();
  }
  static __device__ __noinline__ void forward(const Hidden<P>& h) { h.forward(); }
  static __device__ __noinline__ void backward(const Hidden<P>& h) { h.backward(); }

  // ---- phases

  __device__ __noinline__ void drift() const {
    const float* v = member(0);
    const int pitch = padded(p.A);
    const float steps = static_cast<float>(counted(p.euler_steps));
    for_numbers([&](int i) { x()[i] += v[i / p.A * pitch + i % p.A] / steps; });
    ptx::sync_block();
  }

  __device__ __noinline__ void sample() {
    const Observed seen = observed(p.policy);
    for (step = 0; step < counted(p.euler_steps); step++) {
      propagate(p.policy, 0, seen, static_cast<float>(step) / static_cast<float>(counted(p.euler_steps)), false);
      drift();
    }
    for_numbers([&](int i) { x()[i] = clipped(x()[i], p.sample_clip); });
    ptx::sync_block();
  }

  __device__ float value_of(int ensemble, Aggregate how, int row) const {
    return aggregated(ensemble, how, [&](int e) { return q(e)[row]; });
  }

  // dq of the aggregate from the members' own: their mean, or the smallest critic's, shared evenly at a tie.
  __device__ __noinline__ void combine() const {
    const int ensemble = p.critic.ensemble, pitch = padded(p.A);
    for_numbers([&](int i) {
      const int row = i / p.A, at = row * pitch + i % p.A;
      const bool mean = p.aggregate == Aggregate::mean;
      const float smallest = mean ? 0 : value_of(ensemble, Aggregate::min, row);
      float sum = 0;
      int sharing = 0;
      for (int e = 0; e < ensemble; e++) {
        if (!mean && q(e)[row] != smallest) continue;
        sum += member(e)[at];
        sharing++;
      }
      // nobody is smallest where q is NaN
      dq()[i] = sharing > 0 ? sum / sharing : ptx::as_float(0x7fc00000u);
    });
    ptx::sync_block();
  }

  __device__ __noinline__ void direction() const {
    const Interaction interaction{x(), dq(), phi(), floats(p.at.attraction), floats(p.at.repulsion), rows, p.N, p.A,
                                  bandwidths, reinterpret_cast<float*>(stages)};
    interaction.run(p.pairwise);
  }

  __device__ __noinline__ void update() const {
    const Corrections corrections = Corrections::of(counted(p.update.first_step) + step);
    float *first = floats(p.at.first), *second = floats(p.at.second);
    for_numbers([&](int i) { x()[i] = moved(x()[i], phi()[i], first[i], second[i], p.update, corrections); });
    ptx::sync_block();
  }

  // The particles' moments from the caller's, or zero.
  __device__ __noinline__ void start_moments() const {
    float *first = floats(p.at.first), *second = floats(p.at.second);
    if (p.first) {
      load(p.first, first);
      load(p.second, second);
    } else {
      for_numbers([&](int i) { first[i] = second[i] = 0; });
    }
  }

  __device__ __noinline__ void move() {
    Observed seen{};
    const int rounds = p.differentiate ? 1 : counted(p.steps);
    if (p.critic.present() && rounds > 0) seen = observed(p.critic);
    start_moments();
    if (p.trajectory) store(x(), p.particles);
    for (step = 0; step < rounds; step++) {
      if (p.given) {
        load(p.given, dq());
      } else {
        for (int e = 0; e < p.critic.ensemble; e++) propagate(p.critic, e, seen, 0, true);
        combine();
      }
      if (p.differentiate) return results();
      direction();
      update();
      if (p.trajectory) store(x(), p.particles + (step + 1) * p.rows * p.A);
    }
    if (p.particles && !p.trajectory) store(x(), p.particles);
    if (p.first) {
      store(floats(p.at.first), p.first);
      store(floats(p.at.second), p.second);
    }
  }

  __device__ __noinline__ void store_values(int ensemble) const {
    for (int e = 0; e < ensemble; e++)
      for (int row = ptx::thread(); row < rows; row += kThreads) p.q[e * p.rows + first_row + row] = q(e)[row];
  }

  // What a single gradient was asked for.
  __device__ __noinline__ void results() const {
    if (p.q) store_values(p.critic.ensemble);
    if (p.dq) store(dq(), p.dq);
    if (p.jacobian) {
      const int pitch = padded(p.A);
      for (int e = 0; e < p.critic.ensemble; e++)
        for_numbers([&](int i) {
          p.jacobian[(e * p.rows + first_row) * p.A + i] = member(e)[i / p.A * pitch + i % p.A];
        });
    }
    if (p.phi) {
      direction();
      store(phi(), p.phi);
    }
  }

  __device__ __noinline__ void judge() const {
    const Observed seen = observed(p.judge);
    for (int e = 0; e < p.judge.ensemble; e++) propagate(p.judge, e, seen, 0, false);
    if (p.q) store_values(p.judge.ensemble);
    const Judgement& j = p.judgement;
    if (!j.actions && !j.target) return;
    for (int s = ptx::thread() / kLanes; s < rows / p.N; s += kWarps) {
      const auto value = [&](int i) { return value_of(p.judge.ensemble, j.aggregate, s * p.N + i); };
      judge_state(j, first_state + s, p.N, p.A, x() + s * p.N * p.A, value);
    }
  }

  const Program& p;
  unsigned char *scratch, *stages, *a;
  Bandwidth* bandwidths;
  std::int64_t first_row, first_state;
  int rows, states, offset;  // offset: of the first row within its state
  int step = 0;
};

// A block's tiles, one after the other. A product takes all registers, so what outlives one is kept in memory on purpose:
// the number of the tile at the head of shared memory, the rest in the Tile.
template <Precision P, int M>
__global__ void __launch_bounds__(kThreads, 1) tile_kernel(const __grid_constant__ Program program) {
  volatile std::int64_t* tile = reinterpret_cast<volatile std::int64_t*>(ptx::shared_memory());
  if (ptx::thread() == 0) *tile = ptx::block_x();
  ptx::sync_block();
  while (*tile < program.tiles) {
    Tile<P, M>(program, *tile).run();
    ptx::sync_block();  // the next tile writes what this one may still be reading
    if (ptx::thread() == 0) *tile = *tile + ptx::blocks_x();
    ptx::sync_block();
  }
}

}  // namespace vgf::cuda
