// The fetching thread: walks through a tile's passes and products ahead of the others, tells them of each, and sends for its
// weights and vectors. It is ahead by as many k-blocks as the ring has, and by kProductSlots products, also where one pass or
// tile ends and another one begins.
#pragma once

#include "place.cuh"
#include "ring.cuh"

namespace vgf::cuda {

static_assert(sizeof(Place) <= kRowSumsAt - kFetchingAt);

struct Operand {
  const unsigned char* w;
  int blocks, columns;
};

class Fetcher {
 public:
  __device__ explicit Fetcher(const Program& program) : p(program), ring(program) {}

  __device__ void run(const Place& here) {
    for (Pass pass = following(p, {}, ring.side()); pass.role != Role::end; pass = following(p, pass, ring.side())) {
      const Net& net = net_of(p, pass);
      const int apart = members_apart(p, pass.role), products = products_of(net, pass, apart);
      for (int i = 0; i < products; i++) {
        const Operand operand = operand_of(net, pass, apart, i);
        ptx::wait_for(ring.done(), ring.product_parity() ^ 1);  // of the phase before, which a new barrier counts as ended
        Product& product = *ring.description();
        product = Product{};
        product.more = i + 1 < products;
        product.first = ring.at;
        product.blocks = operand.blocks;
        product.columns = operand.columns;
        tell(p, here, net, pass, apart, i, product, ring.vectors(), ring.told());
        ring.product++;
        fetch(operand);
        if (product.what == Product::down) fetch_tape(product);
      }
    }
  }

 private:
  // In order: what this side's members see; or up through the hidden layers, out of a policy, and down again.
  static __device__ int products_of(const Net& net, const Pass& pass, int apart) {
    if (pass.observes) return (net.ensemble - pass.member + apart - 1) / apart;
    return net.hidden + !net.critic + (pass.role == Role::critic ? net.hidden : 0);
  }
  static __device__ Operand operand_at(const unsigned char* w, int k, int columns) {
    return {w, k_blocks(k, Precision::bf16), padded(columns)};
  }
  static __device__ __noinline__ Operand operand_of(const Net& net, const Pass pass, int apart, int product) {
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

  // The rest of the description, and the layer's vectors: bias, scale, shift and, before the head, the last layer's weights.
  static __device__ __noinline__ void tell(const Program& p, const Place& here, const Net& net, const Pass pass, int apart,
                                           int i, Product& product, unsigned char* its_vectors, ptx::Barrier* told) {
    product.what = Product::out;
    product.rows = pass.observes ? here.states : here.rows;
    const bool up = i < net.hidden;
    const int l = up ? i : 2 * net.hidden - 2 - i;  // whose z or dz it is
    if (pass.observes) {
      const int member = pass.member + i * apart;
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
    product.inverse_width = layer.inverse_width;
    product.activation = net.activation;
    product.normed = net.norm != Norm::none;
    product.eps = net.norm_eps;
    product.keep = gradient && !head;
    product.tape = reinterpret_cast<Part*>(here.scratch + p.at.tape) + (gradient ? l * (net.widest / kUnit * kHopperRows) : 0);
    product.stats = reinterpret_cast<Normaliser*>(here.scratch + p.at.stats) + l * kHopperRows;
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
      ptx::copy_to_block(its_vectors + i * kVectorBytes, member + (i < 3 ? layer.vectors + i * bytes : net.last), bytes, told);
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
    const unsigned end = ring.at + o.blocks;
#pragma unroll 1
    for (; ring.at != end; ring.at++) {
      const int slot = Ring::slot(ring.at);
      ptx::Barrier* const full = ring.full(slot);
      ptx::wait_for(ring.empty(slot), Ring::parity(ring.at) ^ 1);
      ptx::arrive_expecting(full, o.columns * kBlockBytes);
      ptx::copy_to_cluster(slots + slot * kSlotBytes, from, share, full, to);
      from += step;
      if (rest > 0) {
        ptx::copy_to_cluster(slots + slot * kSlotBytes + kChunk * kBlockBytes, other, rest, full, to);
        other += rest;
      }
    }
  }
  // Of a layer on the way up two products or more before, which the fetching thread has seen done.
  __device__ void fetch_tape(const Product& product) {
    const int groups = product.columns / kGroup, each = kTapeWarpgroups * groups_of_each(groups);
    for (int first = 0; first < groups; first += each, ring.at++) {
      const int slot = Ring::slot(ring.at), bytes = min_int(each, groups - first) * kTapeBytes;
      ptx::Barrier* const full = ring.full(slot);
      ptx::wait_for(ring.empty(slot), Ring::parity(ring.at) ^ 1);
      ptx::arrive_expecting(full, bytes);
      ptx::copy_to_block(ring.weights(slot), reinterpret_cast<unsigned char*>(product.tape) + first * kTapeBytes, bytes, full);
    }
  }
  static_assert(kCluster == 2 && kMostAtOnce == 2 && kWidestHopper == 2 * kChunk);

  const Program& p;
  Ring ring;
};

}  // namespace vgf::cuda
