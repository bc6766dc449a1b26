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

// Rows: of a tile.
template <int Rows>
class Fetcher {
 public:
  __device__ Fetcher(const Program& program, unsigned char* shared) : p(program), ring(shared) {}

  __device__ void run(const Place& here) {
    for (Pass pass = following(p, {}); pass.role != Role::end; pass = following(p, pass)) {
      const Net& net = net_of(p, pass);
      const int products = products_of(net, pass);
      for (int i = 0; i < products; i++) {
        const Operand operand = operand_of(net, pass, i);
        ptx::wait_for(ring.done(), ring.product_parity() ^ 1);  // of the phase before, which a new barrier counts as ended
        Product& product = *ring.description();
        product = Product{};
        product.more = i + 1 < products;
        product.blocks = operand.blocks;
        product.columns = operand.columns;
        tell(p, here, net, pass, i, product, ring.vectors(), ring.told());
        ring.product++;
        fetch(operand);
      }
    }
  }

 private:
  // In order: what the members see; or up through the hidden layers, out of a policy, and down again.
  static __device__ int products_of(const Net& net, const Pass& pass) {
    if (pass.observes) return net.ensemble;
    return net.hidden + !net.critic + (pass.role == Role::critic ? net.hidden : 0);
  }
  static __device__ Operand operand_at(const unsigned char* w, int k, int columns) {
    return {w, k_blocks(k, Precision::bf16), padded(columns)};
  }
  static __device__ __noinline__ Operand operand_of(const Net& net, const Pass pass, int product) {
    const auto below = [&](int l) { return l > 0 ? net.layer(l - 1).width : net.inputs; };
    if (pass.observes) return operand_at(net.member(product) + net.observe, net.observations, net.first_width);
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
  static __device__ __noinline__ void tell(const Program& p, const Place& here, const Net& net, const Pass pass, int i,
                                           Product& product, unsigned char* its_vectors, ptx::Barrier* told) {
    product.what = Product::out;
    product.rows = pass.observes ? here.states : here.rows;
    const bool up = i < net.hidden;
    const int l = up ? i : 2 * net.hidden - 2 - i;  // whose z or dz it is
    if (pass.observes) {
      product.init = vectors(net, i, net.layer(0).vectors);
      const Observed to = here.observed(net);
      product.to = to.at + i * to.stride;
      return ptx::arrive(told);
    }
    if (!up && (!net.critic || l < 0)) {
      if (!net.critic) product.init = vectors(net, 0, net.last_bias);
      product.to = here.member(pass.member);
      return ptx::arrive(told);
    }
    const PackedLayer layer = net.layer(l);
    const bool gradient = pass.role == Role::critic, head = up && net.critic && l + 1 == net.hidden;
    product.what = up ? Product::up : Product::down;
    product.width = layer.width;
    product.activation = net.activation;
    product.normed = net.norm != Norm::none;
    product.eps = net.norm_eps;
    product.keep = gradient;
    product.tape = reinterpret_cast<Part*>(here.scratch + p.at.tape) + (gradient ? l * (net.widest / kUnit * Rows) : 0);
    product.stats = reinterpret_cast<Normaliser*>(here.scratch + p.at.stats) + l * Rows;
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
    ptx::copy_to_block(its_vectors, member + layer.vectors, 3 * bytes, told);
    if (head) ptx::copy_to_block(its_vectors + 3 * bytes, member + net.last, bytes, told);
  }

  __device__ void fetch(const Operand& o) {
    const unsigned char* from = o.w;
    for (int chunk = 0; chunk < chunks_of(o.columns); chunk++) {
      const int bytes = chunk_columns(o.columns, chunk) * kBlockBytes, share = bytes / kCluster;
      const int mine = ptx::cluster_rank() * share;
#pragma unroll 1
      for (int block = 0; block < o.blocks; block++, from += bytes) {
        ptx::wait_for(ring.empty(ring.slot), ring.parity ^ 1);
        ptx::arrive_expecting(ring.full(ring.slot), bytes);
        ptx::copy_to_cluster(ring.weights(ring.slot) + mine, from + mine, share, ring.full(ring.slot), (1 << kCluster) - 1);
        ring.advance();
      }
    }
  }

  const Program& p;
  Ring ring;
};

}  // namespace vgf::cuda
