// Host tests of what the CUDA engine's host decides: packed networks, schedules, the choice among kernels, passes of a program.
// Exits with 1 and says what failed.
#include <algorithm>
#include <vector>

#include "check.hpp"
#include "pack.hpp"
#include "schedule.hpp"
#include "sm90_latency_layout.hpp"
#include "sm90_layout.hpp"
#include "tile/passes.cuh"

using namespace vgf;
using namespace vgf::cuda;

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
        for (const int observations : {0, 3, 40, -1}) {  // and, of 40, a deep one
          const bool deep = observations < 0;
          const int seen = deep ? 40 : observations;
          std::vector<int> widths{seen + 5, 33, 300, 17};
          if (deep) widths.insert(widths.end(), {8, 8, 8, 8, 8, 70});
          widths.push_back(critic ? 1 : 5);
          const MlpSpec spec = spec_of(widths, critic ? 3 : 1);
          const Layout layout = lay_out(spec, seen, critic, gradient, precision);
          const Net& net = layout.net;
          CHECK(net.first_width == 64 && net.widest == 320 && net.hidden == (deep ? 9 : 3), "widths %d, %d", net.first_width, net.widest);
          std::vector<float> some(1);
          const std::vector<LayerWeights> weights(spec.ensemble * spec.layers(), {some.data(), 1, 1, some.data(), nullptr, nullptr});
          std::vector<std::pair<std::int64_t, std::int64_t>> pieces{{0, net.hidden * sizeof(PackedLayer)}};  // the table
          for (const PackJob& job : pack_jobs(layout, spec, weights)) {
            const std::int64_t plain = operand_bytes(k_blocks(job.depth, precision), padded(job.N));
            const std::int64_t bytes = job.vector                     ? padded(job.N) * sizeof(float)
                                       : precision == Precision::fp32 ? 3 * plain
                                                                      : plain;
            CHECK(job.to % kPartBytes == 0, "at %lld", static_cast<long long>(job.to));
            pieces.push_back({job.to, job.to + bytes});
          }
          std::sort(pieces.begin(), pieces.end());
          for (std::size_t i = 0; i < pieces.size(); i++)
            CHECK(pieces[i].second <= (i + 1 < pieces.size() ? pieces[i + 1].first : net.bytes), "piece %zu", i);
        }
}

static void test_schedules() {
  const Machine machines[] = {{132, 227 * 1024, false, 0}, {108, 163 * 1024, false, 0}, {84, 99 * 1024, false, 0},
                              {1, 99 * 1024, false, 0},    {132, 227 * 1024, true, 32}, {3, 227 * 1024, true, 0},
                              {18, 227 * 1024, true, 4}};
  for (const Machine& machine : machines)
    for (const Precision precision : {Precision::fp32, Precision::tf32, Precision::bf16})
      for (const int width : {8, 64, 512, 1024, 4096})
        for (const std::int64_t B : {1, 7, 256, 100000})
          for (const int N : {1, 7, 10, 32, 64})
            for (const bool whole : {true, false}) {
              Program p{};
              p.critic = lay_out(spec_of({12, width, width, 1}, 2), 8, true, true, precision).net;
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
              const bool latency = s.family == Family::hopper_latency;
              const std::int64_t useful = latency ? p.tiles * s.cluster : round_up(p.tiles * p.at_once, s.cluster);
              CHECK(s.blocks >= 1 && s.blocks <= std::min<std::int64_t>(useful, machine.multiprocessors), "blocks");
              CHECK(s.blocks % s.cluster == 0 && (s.family == Family::general || machine.hopper), "%d blocks", s.blocks);
              CHECK(!latency || (p.team * 2 <= s.cluster && p.team * kSlice >= padded(width)), "a team of %d", p.team);
              CHECK(s.scratch_bytes == s.blocks * p.at.bytes && p.at.bytes % 256 == 0, "scratch");
              // the states of any run of rows_per_tile rows
              int most = 0;
              for (int offset = 0; offset < (whole ? 1 : N); offset++)
                most = std::max(most, (offset + p.rows_per_tile - 1) / N + 1);
              CHECK(p.states_per_tile >= most, "%d states of at most %d", p.states_per_tile, most);
              std::vector<std::int64_t> pieces{p.at.tape, p.at.work, p.at.stats, p.at.observed, p.at.members, p.at.q, p.at.x,
                                               p.at.dq, p.at.phi, p.at.first, p.at.second, p.at.repulsion,
                                               p.at.a, p.at.bytes};
              CHECK(std::is_sorted(pieces.begin(), pieces.end()), "pieces overlap");
              const std::int64_t layer =
                  latency ? kThreads * kKeptBytes : std::int64_t{s.M} * padded(width) * element_bytes(precision);
              CHECK(p.at.work - p.at.tape >= 2 * layer, "tape");
            }
}

// What the head of csrc/cuda/tile/network.cuh says of the paper's networks, in units of 1024 bytes, rounded.
static void test_shared_memory_of_the_default_configurations() {
  struct Case {
    Precision precision;
    int M, kilobytes;
  };
  const Case cases[] = {{Precision::bf16, 128, 194}, {Precision::bf16, 64, 129}, {Precision::bf16, 32, 97},
                        {Precision::fp32, 64, 193},  {Precision::fp32, 32, 129}, {Precision::tf32, 64, 193},
                        {Precision::tf32, 32, 129}};
  for (const Case& c : cases) {
    bool met = false;
    for (const std::int64_t B : {1, 256, 1000, 2000, 100000})
      for (const int kilobytes : {99, 163, 227}) {
        Program p{};
        p.critic = lay_out(spec_of({37, 512, 512, 512, 512, 1}, 2), 29, true, true, c.precision).net;
        p.B = B;
        p.N = 10;
        p.A = 8;
        p.O = 29;
        p.rows = B * p.N;
        const Schedule s = fit(p, c.precision, true, {132, kilobytes * 1024, false, 0});
        CHECK(p.resident || kilobytes < 163, "%d KB of shared memory", kilobytes);
        if (!p.resident || s.M != c.M) continue;
        met = true;
        CHECK((s.shared_bytes + 512) / 1024 == c.kilobytes, "M = %d: %d bytes", s.M, s.shared_bytes);
      }
    CHECK(met, "no batch is given tiles of %d rows", c.M);
  }
}

static Program flow_of(const MlpSpec& spec, Precision precision, std::int64_t B, int N) {
  Program p{};
  p.A = 8;
  p.O = spec.widths.front() - p.A;
  p.critic = lay_out(spec, p.O, true, true, precision).net;
  p.B = B;
  p.N = N;
  p.rows = B * N;
  return p;
}

static void test_the_choice_among_kernels() {
  constexpr Family general = Family::general, tiles = Family::hopper_tiles, latency = Family::hopper_latency;
  struct Case {
    const char* what;
    Family family;
    int M;  // of one of Hopper's kernels
    std::int64_t B;
    int N, width;
    Precision precision = Precision::bf16;
    Norm norm = Norm::pre;
    bool whole = true;
    Machine machine{132, 227 * 1024, true, 66};
    int at_once = 1;
  };
  const Machine h100{132, 227 * 1024, true, 66}, pcie{114, 227 * 1024, true, 57};
  const Case cases[] = {
      {"many states", tiles, 64, 3200, 10, 512},
      {"a million", tiles, 64, 100000, 10, 512},
      {"narrow layers", tiles, 64, 100000, 10, 64},
      {"the largest states of a tile", tiles, 64, 4000, 64, 512},
      {"larger states", general, 0, 4000, 65, 512},
      {"larger states, a part of each", tiles, 64, 4000, 200, 512, Precision::bf16, Norm::pre, false},
      {"no norm", tiles, 64, 3200, 10, 512, Precision::bf16, Norm::none},
      {"a training batch", tiles, 64, 256, 10, 512, Precision::bf16, Norm::pre, true, h100, 2},
      {"half of one", tiles, 64, 128, 10, 512, Precision::bf16, Norm::pre, true, h100, 2},
      {"more columns than the warpgroups have sums for", general, 0, 3200, 10, 544},
      {"norm behind the activation", general, 0, 3200, 10, 512, Precision::bf16, Norm::post},
      {"float32", tiles, 64, 3200, 10, 512, Precision::fp32},
      {"float32, norm behind the activation", general, 0, 3200, 10, 512, Precision::fp32, Norm::post},
      {"tf32", tiles, 64, 3200, 10, 512, Precision::tf32},
      {"tf32, one state", tiles, 64, 1, 10, 512, Precision::tf32, Norm::pre, true, h100, 2},
      {"tf32, a training batch", tiles, 64, 256, 10, 512, Precision::tf32, Norm::pre, true, h100, 2},
      {"tf32, a training batch without norms", tiles, 64, 256, 10, 512, Precision::tf32, Norm::none, true, h100, 2},
      {"tf32, norm behind the activation", general, 0, 256, 10, 512, Precision::tf32, Norm::post},
      {"tf32, more columns", general, 0, 256, 10, 544, Precision::tf32},
      {"tf32, another GPU", general, 0, 256, 10, 512, Precision::tf32, Norm::pre, true, {132, 227 * 1024, false, 0}},
      {"another GPU", general, 0, 3200, 10, 512, Precision::bf16, Norm::pre, true, {132, 227 * 1024, false, 0}},
      {"no cluster", general, 0, 3200, 10, 512, Precision::bf16, Norm::pre, true, {1, 227 * 1024, true, 0}},
      {"one state", latency, 16, 1, 10, 512},
      {"one particle", latency, 16, 1, 1, 512},
      {"one narrow state", latency, 16, 1, 10, 64},
      {"one state, no norm", latency, 16, 1, 10, 512, Precision::bf16, Norm::none},
      {"a state of 32", latency, 32, 1, 32, 512},
      {"a wave of clusters", latency, 32, 20, 10, 512},
      {"more narrow states", tiles, 64, 200, 10, 128, Precision::bf16, Norm::pre, true, h100, 2},
      {"a state that is too large", tiles, 64, 1, 33, 512, Precision::bf16, Norm::pre, true, h100, 2},
      {"a part of large states", latency, 32, 1, 200, 512, Precision::bf16, Norm::pre, false},
      {"one state, norm behind the activation", general, 0, 1, 10, 512, Precision::bf16, Norm::post},
      {"one state, too wide", general, 0, 1, 10, 544},
      {"one state, float32", tiles, 64, 1, 10, 512, Precision::fp32, Norm::pre, true, h100, 2},
      {"a GPC of sixteen is not certain", tiles, 64, 1, 10, 512, Precision::bf16, Norm::pre, true, pcie, 2},
      {"nor of one more", tiles, 64, 1, 10, 512, Precision::bf16, Norm::pre, true, {120, 227 * 1024, true, 60}, 2},
      {"eight of fifteen are not all", latency, 16, 1, 10, 512, Precision::bf16, Norm::pre, true, {121, 227 * 1024, true, 60}},
      {"one of eight is", latency, 16, 1, 10, 256, Precision::bf16, Norm::pre, true, pcie},
  };
  for (const Case& c : cases) {
    MlpSpec spec = spec_of({37, c.width, c.width, c.width, c.width, 1}, 2);
    spec.norm = c.norm;
    Program p = flow_of(spec, c.precision, c.B, c.N);
    const Schedule s = fit(p, c.precision, c.whole, c.machine);
    CHECK(s.family == c.family, "%s", c.what);
    if (s.family == general) continue;
    CHECK(s.M == c.M && s.shared_bytes <= c.machine.shared_bytes, "%s: %d rows, %d bytes", c.what, s.M, s.shared_bytes);
    CHECK(p.at_once == c.at_once, "%s: %d members at once", c.what, p.at_once);
    if (s.family == latency) continue;
    CHECK(p.at.work - p.at.tape >= std::int64_t{4} * s.M * padded(c.width) * element_bytes(c.precision),
          "%s: tape", c.what);
  }
}

// What one of a call's three networks does not allow, whichever it is.
static void test_every_network_of_a_call_is_looked_at() {
  const MlpSpec usual = spec_of({37, 64, 48, 1}, 2);
  MlpSpec post = usual, narrow = spec_of({37, 64, 2, 1}, 2);
  post.norm = Norm::post;
  narrow.norm = Norm::pre;
  struct Case {
    const char* what;
    MlpSpec spec;
    Family one_state, many_states;
    Precision precision = Precision::bf16;
  };
  for (const Case& c : {Case{"usual", usual, Family::hopper_latency, Family::hopper_tiles},
                        Case{"norm behind the activation", post, Family::general, Family::general},
                        Case{"a norm over two units", narrow, Family::general, Family::general, Precision::tf32},
                        Case{"more columns", spec_of({37, 64, 544, 1}, 2), Family::general, Family::general},
                        Case{"more members", spec_of({37, 64, 48, 1}, 17), Family::hopper_tiles, Family::hopper_tiles},
                        Case{"more weights", spec_of({37, 512, 512, 512, 512, 512, 1}, 2), Family::hopper_tiles,
                             Family::hopper_tiles}})
    for (int place = 0; place < 3; place++)
      for (const std::int64_t B : {1, 3200}) {
        Program p = flow_of(usual, c.precision, B, 10);
        p.policy = p.judge = p.critic;
        Net& other = place == 0 ? p.policy : place == 1 ? p.critic : p.judge;
        other = lay_out(c.spec, p.O, true, true, c.precision).net;
        const Schedule s = fit(p, c.precision, true, {132, 227 * 1024, true, 66});
        CHECK(s.family == (B == 1 ? c.one_state : c.many_states), "%s, network %d, %d states", c.what, place,
              static_cast<int>(B));
      }
  for (const bool first : {true, false}) {
    Program p = flow_of(spec_of({37, 512, 512, 1}, first ? 1 : 2), Precision::fp32, 256, 10);
    p.judge = lay_out(spec_of({37, 512, 512, 1}, first ? 2 : 1), p.O, true, false, Precision::fp32).net;
    fit(p, Precision::fp32, true, {132, 227 * 1024, true, 66});
    CHECK(p.at_once == 1, "the other has two critics");
  }
}

// Of a call on larger states, or of a transport: kernels of one critic at a time alone know what they are given.
static void test_parts_of_a_call() {
  float some = 0;
  for (const std::int64_t rows : {1, 10, 2560})
    for (int part = 0; part < 3; part++) {
      Program p = flow_of(spec_of({37, 512, 512, 512, 512, 1}, 2), Precision::bf16, rows, 1);
      (part == 0 ? p.observe_to : p.observed) = part < 2 ? &some : nullptr;
      if (part == 2) p.given = &some;
      const Schedule s = fit(p, Precision::bf16, false, {132, 227 * 1024, true, 66});
      CHECK(s.family == Family::hopper_tiles && p.at_once == 1, "part %d, %d rows", part, static_cast<int>(rows));
    }
}

static void test_a_block_may_take_all_shared_memory_there_is() {
  for (const bool hopper : {false, true})
    for (const std::int64_t B : {1, 3200}) {
      Program p = flow_of(spec_of({37, 512, 512, 512, 512, 1}, 2), Precision::bf16, B, 10), same = p;
      Machine machine{132, 227 * 1024, hopper, hopper ? 66 : 0};
      const Schedule s = fit(p, Precision::bf16, true, machine);
      machine.shared_bytes = s.shared_bytes;
      const Schedule exact = fit(same, Precision::bf16, true, machine);
      CHECK(exact.family == s.family && exact.M == s.M && same.resident == p.resident, "%d bytes", s.shared_bytes);
    }
}

// So that a state's bits do not depend on how many there are.
static void test_one_kernel_takes_all_batches_but_in_bf16() {
  for (const Machine& machine : {Machine{132, 227 * 1024, true, 66}, Machine{114, 227 * 1024, true, 57}})
    for (const Precision precision : {Precision::tf32, Precision::fp32})
      for (const int width : {8, 64, 512})
        for (const int N : {1, 10, 64})
          for (std::int64_t B = 1; B < 200000; B += 1 + B / 3) {
            Program p = flow_of(spec_of({37, width, width, 1}, 2), precision, B, N);
            CHECK(fit(p, precision, true, machine).family == Family::hopper_tiles, "%d states of %d, %d wide",
                  static_cast<int>(B), N, width);
          }
}

// In bf16 as few of a Hopper tile's warps as it takes to keep all clusters at work equally often; else as many as fit.
static void test_rows_of_hopper_tiles() {
  struct Case {
    std::int64_t B;
    int N, ensemble, rows;
    std::int64_t tiles;
    bool whole = true;
    Precision precision = Precision::bf16;
  };
  // 66 clusters: 66 tiles at a time where their blocks take a critic each, 132 where each takes both
  const Case cases[] = {
      {64, 10, 2, 10, 64},      {128, 10, 2, 30, 43},          {192, 10, 2, 30, 64},           {256, 10, 2, 40, 64},
      {396, 10, 2, 60, 66},     {1, 50, 2, 50, 1},             {700, 1, 2, 16, 44},            {2112, 1, 2, 32, 66},
      {10560, 10, 2, 60, 1760}, {400, 10, 1, 40, 100},         {4000, 64, 2, 64, 4000},
      {1, 1000, 1, 16, 63, false}, {4, 1056, 1, 32, 132, false},
      {256, 10, 2, 60, 43, true, Precision::tf32}, {256, 10, 2, 60, 43, true, Precision::fp32},
      {1, 1000, 1, 64, 16, false, Precision::fp32},
  };
  for (const Case& c : cases) {
    Program p = flow_of(spec_of({37, 512, 512, 512, 512, 1}, c.ensemble), c.precision, c.B, c.N);
    if (!c.whole) p.given = reinterpret_cast<const float*>(&p);  // a part of a call: one critic at a time
    const Schedule s = fit(p, c.precision, c.whole, {132, 227 * 1024, true, 66});
    CHECK(s.family == Family::hopper_tiles && p.rows_per_tile == c.rows && p.tiles == c.tiles, "%d x %d: %d rows, %d tiles",
          static_cast<int>(c.B), c.N, p.rows_per_tile, static_cast<int>(p.tiles));
  }
}

static void test_teams_of_the_latency_kernel() {
  struct Case {
    int width, hidden, ensemble, team, cluster;  // 0: not taken
  };
  const Case cases[] = {{512, 4, 2, 8, 16}, {512, 4, 1, 8, 8}, {512, 5, 2, 0, 0}, {512, 3, 3, 0, 0}, {256, 4, 2, 4, 8},
                        {256, 4, 4, 4, 16}, {300, 2, 2, 8, 16}, {64, 1, 3, 1, 4}, {64, 2, 16, 1, 16}, {64, 2, 17, 0, 0}, {64, 2, 1, 1, 2}};
  for (const Case& c : cases) {
    std::vector<int> widths(c.hidden + 2, c.width);
    widths.front() = 37;
    widths.back() = 1;
    Program p = flow_of(spec_of(widths, c.ensemble), Precision::bf16, 1, 10);
    const Schedule s = fit(p, Precision::bf16, true, {132, 227 * 1024, true, 32});
    CHECK((s.family == Family::hopper_latency) == (c.team > 0), "%d x %d x %d", c.ensemble, c.hidden, c.width);
    if (c.team > 0)
      CHECK(p.team == c.team && s.cluster == c.cluster && s.blocks == c.cluster, "%d x %d x %d: a team of %d, %d blocks",
            c.ensemble, c.hidden, c.width, p.team, s.cluster);
  }
}

// ---- the passes of a program

static std::vector<Pass> passes_of(const Program& p, int side = 0) {
  std::vector<Pass> found;
  for (Pass pass = following(p, {}, side); pass.role != Role::end; pass = following(p, pass, side)) found.push_back(pass);
  return found;
}

static void test_passes() {
  const auto expect = [](const char* what, const std::vector<Pass>& got, const std::vector<Pass>& wanted) {
    CHECK(got.size() == wanted.size(), "%s: %zu passes of %zu", what, got.size(), wanted.size());
    for (std::size_t i = 0; i < got.size(); i++)
      CHECK(got[i].role == wanted[i].role && got[i].observes == wanted[i].observes && got[i].round == wanted[i].round &&
                got[i].member == wanted[i].member,
            "%s: pass %zu", what, i);
  };
  const Role policy = Role::policy, critic = Role::critic, judge = Role::judge;
  Program p{};
  p.critic.ensemble = 2;
  p.differentiate = true;
  expect("a gradient", passes_of(p), {{critic, true, 0, 0}, {critic, false, 0, 0}, {critic, false, 0, 1}});
  float some = 0;
  p.observed = &some;
  expect("a gradient of what was seen", passes_of(p), {{critic, false, 0, 0}, {critic, false, 0, 1}});
  p.observed = nullptr;
  p.differentiate = false;
  p.policy.ensemble = p.judge.ensemble = 1;
  p.euler_steps = 2;
  p.steps = 2;
  expect("all", passes_of(p),
         {{policy, true, 0, 0}, {policy, false, 0, 0}, {policy, false, 1, 0}, {critic, true, 0, 0}, {critic, false, 0, 0},
          {critic, false, 0, 1}, {critic, false, 1, 0}, {critic, false, 1, 1}, {judge, true, 0, 0}, {judge, false, 0, 0}});
  p.critic.ensemble = p.judge.ensemble = 3;
  p.at_once = 2;
  p.steps = 1;
  expect("two at once, the first", passes_of(p),
         {{policy, true, 0, 0}, {policy, false, 0, 0}, {policy, false, 1, 0}, {critic, true, 0, 0}, {critic, false, 0, 0},
          {critic, false, 0, 2}, {judge, true, 0, 0}, {judge, false, 0, 0}, {judge, false, 0, 2}});
  expect("and the second", passes_of(p, 1),
         {{policy, true, 0, 0}, {policy, false, 0, 0}, {policy, false, 1, 0}, {critic, true, 0, 1}, {critic, false, 0, 1},
          {judge, true, 0, 1}, {judge, false, 0, 1}});
  p.critic.ensemble = 2;
  p.judge.ensemble = p.at_once = 1;
  p.steps = 0;
  p.euler_steps = 1;
  expect("no steps", passes_of(p), {{policy, true, 0, 0}, {policy, false, 0, 0}, {judge, true, 0, 0}, {judge, false, 0, 0}});
  p.observe_to = &some;
  expect("observations", passes_of(p), {{critic, true, 0, 0}});
  Program given{};
  given.steps = 1;
  given.given = &some;
  expect("a given gradient", passes_of(given), {});
}

int main() {
  test_packed_networks();
  test_schedules();
  test_shared_memory_of_the_default_configurations();
  test_the_choice_among_kernels();
  test_every_network_of_a_call_is_looked_at();
  test_parts_of_a_call();
  test_a_block_may_take_all_shared_memory_there_is();
  test_one_kernel_takes_all_batches_but_in_bf16();
  test_rows_of_hopper_tiles();
  test_teams_of_the_latency_kernel();
  test_passes();
  return 0;
}
