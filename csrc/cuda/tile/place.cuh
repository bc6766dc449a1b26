// Which particles a block is at, and where it keeps what belongs to them: a tile's rows, and its private scratch.
#pragma once

#include <ptx/access.cuh>

#include "../numbers.cuh"
#include "passes.cuh"

namespace vgf::cuda {

// What the first layer of a net makes of the observations: [E] times `stride` apart, [states of the tile][padded(width)].
struct Observed {
  float* at;
  std::int64_t stride;
};

// A tile's rows. A tile past the last one has none.
struct Spot {
  std::int64_t tile, first_row, first_state;
  int rows, states, offset;  // offset: of the first row within its state

  __device__ Spot(const Program& p, std::int64_t number) : tile(number) {
    const std::int64_t left = p.rows - tile * p.rows_per_tile;
    rows = static_cast<int>(left < p.rows_per_tile ? (left > 0 ? left : 0) : p.rows_per_tile);
    first_row = rows > 0 ? tile * p.rows_per_tile : 0;
    first_state = first_row / p.N;
    offset = static_cast<int>(first_row - first_state * p.N);
    states = rows > 0 ? (offset + rows - 1) / p.N + 1 : 0;
  }
};

struct Place : Spot {
  const Program& p;
  unsigned char* scratch;
  int tile_rows;  // M: rows that products and pitches count with
  int side = 0;   // of several blocks that evaluate different members on this tile,
  int first = 0;  // and how many blocks before this one is the first, in whose scratch all put what critics give
  bool speaks = true;  // of several blocks that find the same, one gives the results

  __device__ Place(const Program& program, const Spot& spot, int M)
      : Spot(spot), p(program), scratch(p.scratch + ptx::block_x() * p.at.bytes), tile_rows(M) {}
  __device__ void go_to(std::int64_t number) { static_cast<Spot&>(*this) = Spot(p, number); }

  __device__ float* floats(std::int64_t at) const { return ptx::in_global(reinterpret_cast<float*>(scratch + at)); }
  __device__ float* x() const { return floats(p.at.x); }
  __device__ float* dq() const { return floats(p.at.dq); }
  __device__ float* phi() const { return floats(p.at.phi); }
  __device__ float* velocity() const { return floats(p.at.members); }
  // What critic e gives: its dq and its value.
  __device__ float* member(int e) const { return of_all_sides(p.at.members) + std::int64_t{e} * tile_rows * padded(p.A); }
  __device__ float* q(int e) const { return of_all_sides(p.at.q) + e * tile_rows; }

  __device__ Observed observed(const Net& net) const {
    const std::int64_t width = net.first_width;
    if (p.observe_to) return {p.observe_to + first_state * width, p.B * width};
    if (p.observed) return {p.observed + first_state * width, p.B * width};
    return {floats(p.at.observed), p.states_per_tile * width};
  }

  template <class F>
  __device__ void for_numbers(F f) const {  // of the tile's particles
    for (int i = ptx::thread(); i < rows * p.A; i += kThreads) f(i);
  }

 private:
  __device__ float* of_all_sides(std::int64_t at) const { return floats(at - first * p.at.bytes); }
};

// Biases, scales and the last layer of a packed network.
__device__ inline const float* vectors(const Net& net, int e, std::int64_t at) {
  return ptx::in_global(reinterpret_cast<const float*>(net.member(e) + at));
}

}  // namespace vgf::cuda
