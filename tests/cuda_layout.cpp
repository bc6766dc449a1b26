// Host tests of the CUDA engine's index maps. Exits with 1 and says what failed.
#include <algorithm>
#include <set>
#include <vector>

#include "check.hpp"
#include "pairs.hpp"
#include "schedule.hpp"
#include "sm90_layout.hpp"

using namespace vgf;
using namespace vgf::cuda;

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
  for (int n = 0; n < kGroup; n++) CHECK(place_of(column_of(n)) == n, "%d", n);
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

// ---- Hopper

// The PTX ISA's own words on swizzling by 64 bytes: of an address, bits 4 and 5 are combined with bits 7 and 8.
static void test_operands_are_swizzled_as_wgmma_has_it() {
  for (int row = 0; row < kChunk; row++)
    for (int part = 0; part < kParts; part++) {
      const int straight = row * 64 + part * 16;
      CHECK(part_offset(row, part) == (straight ^ (straight >> 3 & 0x30)), "row %d, part %d", row, part);
    }
}

static void test_descriptors() {
  const auto field = [](std::uint64_t descriptor, int from, int bits) {
    return static_cast<int>(descriptor >> from & ((std::uint64_t{1} << bits) - 1));
  };
  for (const std::uint32_t address : {0x400u, 0x18400u, 0x38000u}) {
    const std::uint64_t d = wgmma_descriptor(address);
    CHECK(field(d, 0, 14) * 16 == static_cast<int>(address), "start %d", field(d, 0, 14));
    CHECK(field(d, 32, 14) * 16 == 512, "stride between groups of eight rows %d", field(d, 32, 14));
    CHECK(field(d, 49, 3) == 0 && field(d, 62, 2) == 2, "base offset %d, mode %d", field(d, 49, 3), field(d, 62, 2));
    CHECK(field(d, 14, 2) == 0 && field(d, 30, 2) == 0 && field(d, 46, 3) == 0 && field(d, 52, 10) == 0, "unused bits");
    CHECK(field(d + kSliceStep, 0, 14) * 16 == static_cast<int>(address) + 32, "the next 16 numbers of k");
  }
}

// What sm90_design.md says.
static void test_shared_memory_of_the_hopper_kernel() {
  struct Case {
    Precision precision;
    int weights, activations;
  };
  for (const Case& c : {Case{Precision::bf16, 128 * 1024, 64 * 1024}, Case{Precision::tf32, 64 * 1024, 128 * 1024},
                        Case{Precision::fp32, 64 * 1024, 128 * 1024}}) {
    const auto bytes = static_cast<long long>(hopper_shared_bytes(c.precision, k_blocks(512, c.precision)));
    CHECK(bytes == 6144 + c.weights + 16 * 1024 + c.activations, "%lld bytes", bytes);
    CHECK(bytes <= 227 * 1024, "512 columns");
    CHECK(hopper_shared_bytes(c.precision, 1 << 20) > 227 * 1024, "17 million observations or more");
  }
}

// Every group of a layer is one warpgroup's, no two have more than they must, and a product of 128 columns from a warpgroup's
// first one on stays within a k-block of the ring.
static void test_quarters_of_a_layer() {
  for (int groups = 1; groups <= kWidestHopper / kGroup; groups++) {
    const int each = groups_of_each(groups);
    CHECK(each <= kMostGroups && each * kWarpgroups >= groups && (each - 1) * kWarpgroups < groups, "%d of %d", each, groups);
    for (int first = 0; first < groups; first += each) CHECK(first + kMostGroups <= 16, "%d + 4", first);
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
  test_middle_ranks();
  test_operands_are_swizzled_as_wgmma_has_it();
  test_descriptors();
  test_shared_memory_of_the_hopper_kernel();
  test_quarters_of_a_layer();
  return 0;
}
