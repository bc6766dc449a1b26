// The seam between the engine (baseline C++) and the micro-kernels (one copy per instruction set).
//
// A tile is up to kTileRows particles. Two layouts hold its numbers:
//   blocked   a[blocked(k) + row * kPanel]: panel after panel of units, in each row after row. What a product broadcasts
//             from: rows are a fixed distance apart, and 16 units of a row share a cache line
//   row-major z[row * stride + column]: what layer norm sums over
// Widths are padded to whole panels of kPanel columns; weights in the padding are zero, so it stays harmless.
#pragma once

#include "vgf/types.hpp"

namespace vgf::cpu {

constexpr int kPanel = 16;     // columns in a weight panel: one cache line
constexpr int kTileRows = 14;  // 14 x 2 accumulators + 2 weights + 1 broadcast fill AVX-512's 32 registers
// As dense as tiles allow: with 16 rows a block, 10 rows of 512 units would take all eight ways of 40 of the 64 sets of an L1
// of 32 KB, and every weight that passes would drive one of them out.
constexpr int kBlockRows = kTileRows;
constexpr long blocked(long k) { return k / kPanel * (kBlockRows * kPanel) + k % kPanel; }

// The units of a layer that some row of the tile switches on, ascending. The others are zero in every row, so a
// product may leave them out, and so may the gradient that would flow back into them.
struct Active {
  int count;
  int* unit;
  std::uint16_t* on;  // [panels] the same as bits; null: units 0 to count - 1
};

// The units of a tile, and of the parts of its rows that forward products take one by one. Fewer rows switch on fewer
// units (of 10 uniform particles 67%, of 5 63%), but each part reads the weights from L2 again: 13 bytes a cycle where 6
// rows take four panels at a time.
constexpr int kPartRows = 6, kMaxParts = (kTileRows + kPartRows - 1) / kPartRows;
struct ActiveUnits {
  Active whole, part[kMaxParts];
};
constexpr int parts(int rows) { return (rows + kPartRows - 1) / kPartRows; }
constexpr int part_begin(int rows, int part) { return rows * part / parts(rows); }

// How a product computes wanted columns only: side by side, each packed vector drawn from two neighbouring column
// vectors of the weights. A column vector is as wide as the instruction set's vectors.
constexpr int kMaxPacked = 128;  // column vectors of a layer; wider layers keep all their columns
struct ColumnPlan {
  struct Draw {
    int from;             // the first of two neighbouring vectors
    int select[kPanel];   // which of their lanes stands in each place
  };
  bool pays;              // false: too many columns are wanted, compute all
  int all, packed;        // column vectors of the layer, and of the packed columns
  Draw pack[kMaxPacked];  // [packed] of the weights' column vectors
  Draw unpack[kMaxPacked];  // [all] from packed columns: `from` in columns, lanes past a vector's width give zero
};

// Weights that a later product takes, fetched into L2 a cache line at a time by the products before it.
struct Ahead {
  const float *next, *end;
};

// c = init + a * w for a tile, over the listed k only. Each element is summed over ascending k with one accumulator,
// and a k left out would have added zero: a row's result depends neither on the tile's height nor on its neighbours.
struct Gemm {
  const float* a;  // blocked, from the first row on; or gathered: a[i * rows + row] of k.unit[i]
  int rows;
  Active k;
  const float* w;  // first panel: w[k * k_stride + column]
  long panel_stride, k_stride;  // k_stride: kPanel, but for a matrix in float32 that is read in place
  int begin, end;  // the panels to compute
  const float* init;  // row-major like c; stride 0 repeats one row (a bias); null: zeros
  long init_stride;
  float* c;  // row-major [rows][c_stride]
  long c_stride;
  bool adds;  // to what c holds
  Ahead* ahead;            // null: nothing to fetch
  const ColumnPlan* plan;  // null, or what to compute of the columns: those whose pack starts in the panels, packed in c
};

// c[column] = sum over k of a[k] * w[column][k]: the gradient at a layer's inputs, by the weights of its forward product.
// Each element is summed over lanes of k, then over these: a row's result depends neither on the tile's height nor on its
// neighbours, nor on what else is wanted.
struct Pull {
  const float* a;  // blocked, zero or finite up to whole panels where the row is
  int rows;
  int panels;      // of k
  const float* w;  // element (column, k) at w[k / kPanel * panel_stride + column * column_stride + k % kPanel]
  long panel_stride, column_stride;
  int begin, end;  // the panels of columns to compute
  Active wanted;   // the columns among them; the others become zero
  float* c;        // row-major [rows][c_stride]
  long c_stride;
};

// What a product takes of a tile's activations or gradients, blocked.
enum class Operand {
  single,        // float32
  rounded,       // the same of numbers that bfloat16 holds exactly
  pairs,         // neighbouring units as pairs of bfloat16, blocked like units
  active_pairs,  // the same, of the active units of the row's part side by side
  gathered,      // float32, not blocked: of every active unit of a part its rows side by side, one unit after the other.
                 // A part starts where a row of all units for each row before it would end
  rounded_gathered,  // the same of numbers that bfloat16 holds exactly
};

// What follows a hidden Dense layer: norm and activation.
struct HiddenForward {
  int rows, width;
  Activation activation;
  Norm norm;
  float eps;
  float* z;  // row-major [rows][stride]: in, the Dense output; out, what the backward pass wants: the normalised
             // values (pre) or the Dense output itself (post, none)
  float* work;  // row-major [rows][stride], for post and active_pairs
  long stride;
  const float *scale, *bias;  // [padded width]
  float *mean, *rstd;         // [rows]
  Operand form;               // of out; active_pairs and the gathered ones where `active` is given
  float* out;                 // as form says; gathered, with room for a vector more
  ActiveUnits* active;        // filled for relu (not followed by a norm); null: not wanted
};

struct HiddenBackward {
  int rows, width;
  Activation activation;
  Norm norm;
  const float* dy;  // row-major gradient of the layer's output; stride 0 repeats one row (the head's weights)
  long dy_stride;
  const ColumnPlan* plan;  // how dy's columns are packed; null: they are not
  const float* z;  // as HiddenForward left it
  float* work;     // row-major
  long stride;
  const float *scale, *bias, *mean, *rstd;
  Operand form;  // of out: single, rounded or pairs
  float* out;    // blocked gradient of the Dense output
};

// What a row of squared distances tells about the bracket [low, high].
struct Bracket {
  const float* values;
  int count;
  float low, high;
  float* inside;              // the values in the bracket, in order; room for `count` and a vector
  std::int64_t below;         // added to: how many are smaller than low
  float largest_below;        // raised to the largest of them
};

// The particles of one state, struct of arrays: x[a * stride + i]. Lanes past N hold finite numbers.
struct Pairwise {
  const float *x, *dq;
  long stride;
  int n, dims;
  int begin, end;  // the particles i to compute
  float gamma, inverse_alpha;
  float* k;      // [stride] work
  float* phi;    // like x
  float* d2k;    // sum over (i, j) of d2 k, or null where it is not wanted
};

struct Adam {
  const float* phi;
  float *x, *first, *second;
  int count;  // multiple of kPanel
  float learning_rate, first_correction, second_correction;  // 1 / (1 - beta^t)
  bool adam;
  Clip clip;
};

// One panel of packed weights, 16 columns wide (rows16: 32).
enum class PanelLayout {
  single,   // float32 [k][16]
  rounded,  // the same of numbers that bfloat16 holds exactly
  rows16,   // bfloat16 [k][32], ordered as gemm_bf16.inl says
  pairs,    // pairs of bfloat16 [k / 2][16]
};
struct PackPanel {
  const float* from;  // element (k, column) at from[k * stride_k + column * stride_c]
  std::ptrdiff_t stride_k, stride_c;
  int depth, columns;  // columns past these, and the last pair's second k, become zero
  PanelLayout layout;
  float* to;  // null: only looked through, a matrix contiguous along k and of whole panels there
};

// How bfloat16 products follow a list of units.
enum class Follows {
  list,   // one by one
  pairs,  // two at a time, in the order of the list: what stands beside a unit changes round-off
  none,   // they take all units: Gemm::k counts pairs of neighbours
};

// Products in bfloat16 with float32 sums.
struct Bf16Products {
  void (*forward)(const Gemm&);   // `w` lies as `layout` says; `init` is not null
  void (*backward)(const Gemm&);  // a lane of `w` holds a pair of neighbouring k, and Gemm::k counts pairs
  PanelLayout layout;  // of forward panels: rows16 or, where lists are not followed, pairs
  Operand operand;     // of both: rounded or pairs
  Follows follows;     // by `forward`; pairs are then active_pairs
};

struct Kernels {
  const char* name;
  void (*gemm)(const Gemm&);
  void (*gathered)(const Gemm&);  // the same of gathered units of a part; null where `gemm` follows lists as fast
  void (*pull)(const Pull&);  // null where `gemm` by transposed weights and a plan is as fast
  void (*plan_columns)(const Active& wanted, int panels, ColumnPlan&);  // null where packed columns never pay
  // Packed columns of c to their places, zeros between them.
  void (*unpack_columns)(const ColumnPlan&, int rows, float* c, long c_stride);
  Bf16Products bf16;  // without functions where float32's products of rounded numbers are faster
  void (*hidden_forward)(const HiddenForward&);
  void (*hidden_backward)(const HiddenBackward&);
  // out[row] = b + sum of a[row][k] w[k] over k; w is zero from depth to whole panels
  void (*head)(const float* a, int rows, int depth, const float* w, float b, float* out);
  // out[j - begin] = squared distance of particle i to particle j, for j in [begin, end); begin is a multiple of
  // kPanel, out is padded to one
  void (*distances)(const float* x, long stride, int dims, int i, int begin, int end, float* out);
  int (*bracket)(Bracket&);  // returns how many are inside
  void (*pairwise)(const Pairwise&);
  void (*adam)(const Adam&);
  bool (*pack_panel)(const PackPanel&);  // whether all its numbers are finite
};

// The fastest kernels this machine runs, or those VGF_CPU_ISA names.
const Kernels& kernels();

// Bytes of a core's L2 cache.
long cache_bytes();

// Whether units that are off are left out; VGF_CPU_DENSE=1 turns that off, to measure or to check what it saves.
bool skipping();

}  // namespace vgf::cpu
