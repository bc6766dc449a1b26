// The fetching thread: walks through a tile's passes and products ahead of the others, tells them of each, and sends for its
// weights and vectors. It is ahead by as many k-blocks as the ring has, and by kProductSlots products, also where one pass or
// tile ends and another one begins.
#pragma once

#include "place.cuh"
#include "ring.cuh"

namespace vgf::cuda {

struct Operand {
  const unsigned char* w;
  int blocks, columns;
};

// Where the fetching thread is, in shared memory: it has 32 registers.
struct Errand {
  Place here;
  Pass pass;
  int apart, products;  // of the pass's members that are evaluated here; its products
  Operand operand;      // of the next of them
  __device__ explicit Errand(const Place& place) : here(place) {}
};
static_assert(sizeof(Errand) <= kRowSumsAt - kFetchingAt);
__device__ inline Errand& errand() { return *reinterpret_cast<Errand*>(ptx::shared_memory() + kFetchingAt); }

template <Precision P>
class Fetcher {
 public:
  __device__ explicit Fetcher(const Program& program) : p(program), ring(program) {}

  // All of the tile that the errand is for.
  __device__ void run() {
    const Errand& all = *ptx::in_shared(&errand());
    while (next_pass()) {
      for (int i = 0; i < all.products; i++) {
        find_operand(p, i);
        // of the phase before, which a new barrier counts as ended
        ptx::wait_for(ring.done(next), Weights::product_parity(next) ^ 1);
        tell(p, i, next, at, tapes);
        const Product& product = *ptx::in_shared(ring.description(next++));
        fetch(all.operand);
        if (product.what == Product::down) fetch_tape(product);
      }
    }
  }

 private:
  using Weights = Ring<P>;

  // The tile's next pass, if there is one, and its products. In order: what this side's members see; or up through the hidden
  // layers, out of a policy, and down again.
  __device__ bool next_pass() const {
    Errand& now = *ptx::in_shared(&errand());
    const Pass pass = now.pass = following(p, now.pass, now.here.side);
    if (pass.role == Role::end) return false;
    const Net& net = net_of(p, pass);
    const int apart = now.apart = members_apart(p, pass.role);
    now.products = pass.observes ? (net.ensemble - pass.member + apart - 1) / apart
                                 : net.hidden + !net.critic + (pass.role == Role::critic ? net.hidden : 0);
    return true;
  }
  static __device__ Operand operand_at(const unsigned char* w, int k, int columns) {
    const int blocks = k_blocks(k, P), wide = padded(columns);
    if constexpr (P == Precision::fp32) w += operand_bytes(blocks, wide);  // the split one
    return {w, blocks * weight_blocks(P), wide};
  }
  static __device__ Operand operand_of(const Net& net, const Pass& pass, int apart, int product) {
    const auto below = [&](int l) { return l > 0 ? net.layer(l - 1).width : net.inputs; };
    if (pass.observes)
      return operand_at(net.member(pass.member + product * apart) + net.observe, net.observations, net.first_width);
    const unsigned char* member = net.member(pass.member);
    if (product < net.hidden) {
      const int l = product, k = l > 0 ? padded(below(l)) : below(l);
      return operand_at(member + net.layer(l).forward, k, net.layer(l).width);
    }
    if (!net.critic) return operand_at(member + net.last, padded(below(net.hidden)), net.outputs);
    const int l = 2 * net.hidden - 1 - product;
    return operand_at(member + net.layer(l).backward, padded(net.layer(l).width), below(l));
  }
  static __device__ __noinline__ void find_operand(const Program& p, int product) {
    Errand& now = *ptx::in_shared(&errand());
    now.operand = operand_of(net_of(p, now.pass), now.pass, now.apart, product);
  }

  // The description of product i of the pass, and the layer's vectors: bias, scale, shift and, before the head, the last layer's
  // weights.
  static __device__ __noinline__ void tell(const Program& p, int i, unsigned number, unsigned first, unsigned tape_number) {
    const Weights ring(p);
    const Errand& now = *ptx::in_shared(&errand());
    const Place& here = now.here;
    const Pass& pass = now.pass;
    const Net& net = net_of(p, pass);
    ptx::Barrier* told = ring.told(number);
    Product& product = *ptx::in_shared(ring.description(number));
    product = Product{};
    product.more = i + 1 < now.products;
    product.first = first;
    product.blocks = now.operand.blocks;
    product.columns = now.operand.columns;
    product.groups = product.columns / kGroup;
    product.each = groups_of_each(product.groups);
    product.tape_number = tape_number;
    product.what = Product::out;
    product.rows = pass.observes ? here.states : here.rows;
    const bool up = i < net.hidden;
    const int l = up ? i : 2 * net.hidden - 2 - i;  // whose z or dz it is
    if (pass.observes) {
      const int member = pass.member + i * now.apart;
      product.init = vectors(net, member, net.layer(0).vectors);
      const Observed to = here.observed(net);
      product.to = to.at + member * to.stride;
      return ptx::arrive(told);
    }
    if (!up && (!net.critic || l < 0)) {
      if (!net.critic) product.init = vectors(net, 0, net.last_bias);
      product.to = net.critic ? here.member(pass.member) : here.velocity();
      return ptx::arrive(told);
    }
    const PackedLayer layer = net.layer(l);
    const bool gradient = pass.role == Role::critic, head = up && net.critic && l + 1 == net.hidden;
    product.what = up ? Product::up : Product::down;
    product.width = layer.width;
    product.inverse_width = layer.inverse_width;
    product.activation = net.activation;
    product.normed = net.norm != Norm::none;
    product.eps = net.norm_eps;
    product.keep = gradient && !head;
    product.tape = here.scratch + p.at.tape + (gradient ? l * (k_blocks(net.widest, P) * kRowsBlockBytes) : 0);
    product.stats = here.scratch + p.at.stats + l * (kHopperRows * static_cast<int>(sizeof(Normaliser<P>)));
    if (up && l == 0) {
      const Observed seen = here.observed(net);
      product.init = seen.at + pass.member * seen.stride;
    }
    if (head) {
      product.to_head = true;
      product.from_head = gradient;
      product.head_bias = *vectors(net, pass.member, net.last_bias);
      product.q = here.q(pass.member);
    }
    const int bytes = padded(layer.width) * static_cast<int>(sizeof(float));
    const unsigned char* member = net.member(pass.member);
    ptx::arrive_expecting(told, (3 + head) * bytes);
    for (int i = 0; i < 3 + head; i++)
      ptx::copy_to_block(ring.vectors(number) + i * kVectorBytes, member + (i < 3 ? layer.vectors + i * bytes : net.last),
                         bytes, told);
  }

  // Of every k-block a straight line is this block's to send: a half of the only chunk, or one of two; or, alone, all. This loop
  // must keep up with the tensor cores, a k-block in 512 clocks, and a lone thread waits for each of its instructions.
  __device__ void fetch(const Operand& o) {
    const int mine = ptx::cluster_rank() - ring.first_mate();
    const auto to = static_cast<std::uint16_t>(((1 << ring.mates()) - 1) << ring.first_mate());
    const bool two = o.columns > kChunk, alone = ring.mates() == 1, halved = !two && !alone;
    const int chunk = two && !alone ? mine : 0, step = chunk_columns(o.columns, chunk) * kBlockBytes;
    const int share = halved ? step / 2 : step, skipped = halved ? mine * share : 0;
    const int rest = two && alone ? chunk_columns(o.columns, 1) * kBlockBytes : 0;
    const unsigned char* from = o.w + tile_offset(o.blocks, o.columns, chunk, 0) + skipped;
    const unsigned char* other = o.w + tile_offset(o.blocks, o.columns, 1, 0);
    unsigned char* const slots = ring.weights(0) + chunk * kChunk * kBlockBytes + skipped;
    const unsigned end = at + o.blocks;
    const int bytes = o.columns * kBlockBytes;
#pragma unroll 1
    for (; at != end; at++) {
      const int slot = Weights::slot(at);
      ptx::Barrier* const full = ring.full(slot);
      wait_multiplied(at - Weights::kSlots);  // of the phase before, which a new barrier counts as ended
      ptx::arrive_expecting(full, bytes);
      ptx::copy_to_cluster(slots + slot * kSlotBytes, from, share, full, to);
      from += step;
      if (rest > 0) {
        ptx::copy_to_cluster(slots + slot * kSlotBytes + kChunk * kBlockBytes, other, rest, full, to);
        other += rest;
      }
    }
  }
  // z of a layer on the way up two products or more before, which the fetching thread has seen done: to where the product's rows
  // lie, as soon as they have been multiplied. Of all k-blocks but the ring's, fetch() has seen that. And where one of them has
  // been, the tape before is there: its phase has ended.
  __device__ void fetch_tape(const Product& product) {
    unsigned char* const to = ring.behind();
    const unsigned end = product.first + product.blocks;
    const int all = k_blocks(product.columns, P) * kRowsBlockBytes;
    unsigned done = end - min_int(product.blocks, Weights::kSlots);
    if (done == product.first) wait_multiplied(done++);
    ptx::arrive_expecting(ring.taped(), all);
    tapes++;
    for (int sent = 0;; wait_multiplied(done++)) {
      const int until = done == end ? all : min_int((done - product.first) / weight_blocks(P) * kRowsBlockBytes, all);
      if (until > sent) ptx::copy_to_block(to + sent, product.tape + sent, until - sent, ring.taped());
      if (done == end) return;
      sent = until;
    }
  }
  __device__ void wait_multiplied(unsigned block) const { ptx::wait_for(ring.empty(Weights::slot(block)), Weights::parity(block)); }
  static_assert(kCluster == 2 && kMostAtOnce == 2 && kWidestHopper == 2 * kChunk);

  const Program& p;
  const Weights ring;
  unsigned at = 0, next = 0, tapes = 0;  // numbers of the next k-block, of the next product, and of the next tape
};

}  // namespace vgf::cuda
