// Host tests of the CUDA engine's plain C++: index maps, packed networks, schedules. Exits with 1 and says what failed.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <stdexcept>
#include <vector>

#include "pack.hpp"
#include "pairs.hpp"
#include "schedule.hpp"

using namespace vgf;
using namespace vgf::cuda;

#define CHECK(condition, ...)                                            \
  do {                                                                   \
    if (!(condition)) {                                                  \
      std::printf("%s:%d: %s: ", __FILE__, __LINE__, #condition);        \
      std::printf(__VA_ARGS__);                                          \
      std::printf("\n");                                                 \
      std::exit(1);                                                      \
    }                                                                    \
  } while (false)

// 16-byte accesses of eight lanes at a time must cover all 32 banks.
static bool all_banks(const std::vector<int>& offsets) {
  std::set<int> parts;
  for (const int offset : offsets) parts.insert(offset / kPartBytes % 8);
  return parts.size() == 8;
}

static void test_parts_of_a_block_do_not_meet() {
  std::set<int> places;
  for (int row = 0; row < kChunk; row++)
    for (int part = 0; part < kParts; part++) places.insert(part_offset(row, part));
  CHECK(places.size() == kChunk * kParts, "%zu places", places.size());
  CHECK(*places.rbegin() == (kChunk * kParts - 1) * kPartBytes, "last at %d", *places.rbegin());
}

static void test_ldmatrix_meets_no_bank_twice() {
  for (int slice = 0; slice < 2; slice++)
    for (int matrix = 0; matrix < 4; matrix++) {
      std::vector<int> a, b;
      for (int lane = 8 * matrix; lane < 8 * matrix + 8; lane++) {
        a.push_back(part_offset(a_row(lane), 2 * slice + a_part(lane)));
        b.push_back(part_offset(b_row(lane), 2 * slice + b_part(lane)));
      }
      CHECK(all_banks(a) && all_banks(b), "slice %d, matrix %d", slice, matrix);
    }
}

static void test_hidden_passes_store_to_all_banks_in_bf16() {
  for (int lane = 0; lane < kLanes; lane += 8) {
    std::vector<int> offsets;
    for (int l = lane; l < lane + 8; l++) offsets.push_back(part_offset(6 + pass_row(l), pass_unit(l) % kParts));
    CHECK(all_banks(offsets), "lanes from %d", lane);
  }
}

static void test_hidden_passes_reach_every_unit_of_both_rows_once() {
  std::set<std::pair<int, int>> reached;
  for (int lane = 0; lane < kLanes; lane++) reached.insert({pass_row(lane), pass_unit(lane)});
  CHECK(reached.size() == kLanes && reached.rbegin()->first == 1 && reached.rbegin()->second == kRowLanes - 1,
        "%zu places", reached.size());
}

// The accumulator of mma i, register 2 half + h of a lane is row c_row, n = 8 i + 2 (lane % 4) + h: in matrix order, a
// lane holds 8 columns side by side.
static void test_columns_of_a_group() {
  std::set<int> columns;
  for (int n = 0; n < kGroup; n++) columns.insert(column_of(n));
  CHECK(columns.size() == kGroup && *columns.rbegin() == kGroup - 1, "%zu columns", columns.size());
  for (int lane = 0; lane < kLanes; lane++)
    for (int i = 0; i < kUnit; i++)
      CHECK(column_of(8 * (i / 2) + 2 * (lane % 4) + i % 2) == c_unit(lane) * kUnit + i, "lane %d, number %d", lane, i);
  std::set<int> rows;
  for (int lane = 0; lane < kLanes; lane++)
    for (int half = 0; half < 2; half++) rows.insert(c_row(lane, half) * 4 + c_unit(lane));
  CHECK(rows.size() == 64, "%zu places", rows.size());
}

static void test_tiles_of_an_operand_follow_each_other() {
  for (const int columns : {32, 256, 288, 512, 800})
    for (const int blocks : {1, 3, 16}) {
      std::int64_t next = 0;
      for (int chunk = 0; chunk < chunks_of(columns); chunk++)
        for (int block = 0; block < blocks; block++) {
          CHECK(tile_offset(blocks, columns, chunk, block) == next, "%d columns, chunk %d, block %d", columns, chunk, block);
          next += chunk_columns(columns, chunk) * kBlockBytes;
        }
      CHECK(next == operand_bytes(blocks, columns), "%d columns, %d blocks", columns, blocks);
    }
}

static MlpSpec spec_of(std::vector<int> widths, int ensemble) {
  MlpSpec spec;
  spec.widths = std::move(widths);
  spec.ensemble = ensemble;
  return spec;
}

// Every job's destination lies in the packed network, and no two overlap.
static void test_packed_networks() {
  for (const Precision precision : {Precision::fp32, Precision::tf32, Precision::bf16})
    for (const bool critic : {true, false})
      for (const bool gradient : {true, false})
        for (const int observations : {0, 3, 40}) {
          const MlpSpec spec = spec_of({observations + 5, 33, 300, 17, critic ? 1 : 5}, critic ? 3 : 1);
          const Net net = lay_out(spec, observations, critic, gradient, precision);
          std::vector<float> some(1);
          const std::vector<LayerWeights> weights(spec.ensemble * spec.layers(), {some.data(), 1, 1, some.data(), nullptr, nullptr});
          std::vector<std::pair<std::int64_t, std::int64_t>> pieces;
          for (const PackJob& job : pack_jobs(net, spec, weights)) {
            const std::int64_t bytes = job.vector ? padded(job.N) * sizeof(float)
                                                  : operand_bytes(k_blocks(job.depth, precision), padded(job.N));
            CHECK(job.to % kPartBytes == 0, "at %lld", static_cast<long long>(job.to));
            pieces.push_back({job.to, job.to + bytes});
          }
          std::sort(pieces.begin(), pieces.end());
          for (std::size_t i = 0; i < pieces.size(); i++)
            CHECK(pieces[i].second <= (i + 1 < pieces.size() ? pieces[i + 1].first : net.bytes), "piece %zu", i);
        }
  try {
    lay_out(spec_of(std::vector<int>(kMaxHidden + 3, 8), 1), 3, true, false, Precision::fp32);
    CHECK(false, "a network that is too deep was taken");
  } catch (const std::invalid_argument&) {
  }
}

static void test_schedules() {
  const Machine machines[] = {{132, 227 * 1024}, {108, 163 * 1024}, {84, 99 * 1024}, {1, 99 * 1024}};
  for (const Machine& machine : machines)
    for (const Precision precision : {Precision::fp32, Precision::tf32, Precision::bf16})
      for (const int width : {8, 64, 512, 1024, 4096})
        for (const std::int64_t B : {1, 7, 256, 100000})
          for (const int N : {1, 7, 10, 32, 64})
            for (const bool whole : {true, false}) {
              Program p{};
              p.critic = lay_out(spec_of({12, width, width, 1}, 2), 8, true, true, precision);
              p.B = B;
              p.N = N;
              p.A = 4;
              p.O = 8;
              p.rows = B * N;
              const Schedule s = fit(p, precision, whole, machine);
              CHECK(s.shared_bytes <= machine.shared_bytes && s.shared_bytes > 0, "%d bytes", s.shared_bytes);
              CHECK(s.M <= largest_tile(precision) && p.rows_per_tile <= s.M, "%d rows", s.M);
              CHECK(!whole || p.rows_per_tile % N == 0, "%d rows of %d particles", p.rows_per_tile, N);
              CHECK((p.tiles - 1) * p.rows_per_tile < p.rows && p.tiles * p.rows_per_tile >= p.rows, "tiles");
              CHECK(s.blocks >= 1 && s.blocks <= std::min<std::int64_t>(p.tiles, machine.multiprocessors), "blocks");
              CHECK(s.scratch_bytes == s.blocks * p.at.bytes && p.at.bytes % 256 == 0, "scratch");
              // the states of any run of rows_per_tile rows
              int most = 0;
              for (int offset = 0; offset < (whole ? 1 : N); offset++)
                most = std::max(most, (offset + p.rows_per_tile - 1) / N + 1);
              CHECK(p.states_per_tile >= most, "%d states of at most %d", p.states_per_tile, most);
              std::vector<std::int64_t> pieces{p.at.tape, p.at.work, p.at.stats, p.at.observed, p.at.members, p.at.q, p.at.x,
                                               p.at.dq, p.at.phi, p.at.first, p.at.second, p.at.attraction,
                                               p.at.repulsion, p.at.a, p.at.bytes};
              CHECK(std::is_sorted(pieces.begin(), pieces.end()), "pieces overlap");
              CHECK(p.at.work - p.at.tape >= std::int64_t{2} * s.M * padded(width) * element_bytes(precision), "tape");
            }
}

// What the head of csrc/cuda/tile/network.cuh says of the paper's networks, in units of 1024 bytes, rounded.
static void test_shared_memory_of_the_default_configurations() {
  struct Case {
    Precision precision;
    int M, kilobytes;
  };
  const Case cases[] = {{Precision::bf16, 128, 195}, {Precision::bf16, 64, 130}, {Precision::bf16, 32, 97},
                        {Precision::fp32, 64, 194},  {Precision::fp32, 32, 129}, {Precision::tf32, 64, 194},
                        {Precision::tf32, 32, 129}};
  for (const Case& c : cases) {
    bool met = false;
    for (const std::int64_t B : {1, 256, 1000, 2000, 100000})
      for (const int kilobytes : {99, 163, 227}) {
        Program p{};
        p.critic = lay_out(spec_of({37, 512, 512, 512, 512, 1}, 2), 29, true, true, c.precision);
        p.B = B;
        p.N = 10;
        p.A = 8;
        p.O = 29;
        p.rows = B * p.N;
        const Schedule s = fit(p, c.precision, true, {132, kilobytes * 1024});
        CHECK(p.resident || kilobytes < 163, "%d KB of shared memory", kilobytes);
        if (!p.resident || s.M != c.M) continue;
        met = true;
        CHECK((s.shared_bytes + 512) / 1024 == c.kilobytes, "M = %d: %d bytes", s.M, s.shared_bytes);
      }
    CHECK(met, "no batch is given tiles of %d rows", c.M);
  }
}

// Against sorting: the N zeros of the diagonal and every pair twice.
static void test_middle_ranks() {
  for (int n = 3; n < 40; n++) {
    std::vector<int> entries(n, -1);
    for (int pair = 0; pair < n * (n - 1) / 2; pair++) entries.insert(entries.end(), 2, pair);
    std::sort(entries.begin(), entries.end());
    const int total = n * n;
    const MiddleRanks ranks = middle_ranks(n);
    CHECK(entries[total / 2] == static_cast<int>(ranks.pair), "n = %d", n);
    CHECK(entries[(total - 1) / 2] == static_cast<int>(ranks.pair) - ranks.apart, "n = %d", n);
  }
}

int main() {
  test_parts_of_a_block_do_not_meet();
  test_ldmatrix_meets_no_bank_twice();
  test_hidden_passes_store_to_all_banks_in_bf16();
  test_hidden_passes_reach_every_unit_of_both_rows_once();
  test_columns_of_a_group();
  test_tiles_of_an_operand_follow_each_other();
  test_packed_networks();
  test_schedules();
  test_shared_memory_of_the_default_configurations();
  test_middle_ranks();
  return 0;
}
