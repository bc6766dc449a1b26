// Vector clocks, as in "FastTrack" (Flanagan and Freund, 2009), of every emulated thread and of every mbarrier, whose phases
// are the time of the copies that complete in them. A thread keeps, for every agent, up to when what that has written is known
// to it, and what that has read; and of both, what a proxy fence has come after: only that may be touched by copies and
// products. All of it apart for shared and global memory. Of every two bytes of memory the last write and the reads since are
// kept.
#include "races.hpp"

#ifdef EMULATOR_FIND_RACES

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <set>
#include <unordered_map>
#include <utility>

#include <unistd.h>

extern "C" const char __executable_start;

namespace emulator::races {
namespace {

constexpr std::size_t kCell = 2, kPage = 4096;
constexpr int kMostBarriers = 1024, kLanes = 32, kMostReports = 20;
constexpr std::size_t kParts = 64;
constexpr std::uint32_t kNotEnded = ~0u;
constexpr int kExit = 66;

enum Known { written_, read_, written_shown, read_shown, kOfSpace, kKnown = 2 * kOfSpace };  // of shared, then of global memory

enum class Kind : std::uint8_t { none, ordinary, atomic, copy, product };
const char* const kNames[] = {"nothing", "an ordinary access", "an atomic", "a bulk copy", "a product"};

struct Epoch {
  std::uint32_t time = 0, code = 0;
  std::uint16_t agent = 0, cluster = 0;
  Kind kind = Kind::none;
};
struct Cell {
  Epoch write;
  std::vector<Epoch> reads;
};

struct Region {
  std::uintptr_t begin, end;
  Cell* cells;  // null: nobody watches it
  bool in_shared;
};

using Vector = std::vector<std::uint32_t>;

struct Agent {
  std::array<Times, kKnown> knows;
  std::uint32_t now = 1;
  std::array<std::uint32_t, 2> shown = {};
  std::uint32_t own(int what) const { return what % kOfSpace < written_shown ? now : shown[what / kOfSpace]; }
};

void join(Vector& to, const Vector& from) {
  for (std::size_t i = 0; i < to.size(); i++)
    if (from[i] > to[i]) to[i] = from[i];
}

// What has been handed on at a point, of one sort.
struct Handed {
  Vector all;
  std::deque<Times> parts;                       // that went into it, the last ones
  Times frozen;                                  // `all` as it is, for those who take it
  std::vector<std::pair<Times, Times>> answers;  // what it makes of what a thread knows
  void add(const Times& part, int agent, std::uint32_t time) {
    if (all.empty()) all.assign(part->size(), 0);
    if (std::find(parts.begin(), parts.end(), part) == parts.end()) {
      join(all, *part);
      if (parts.size() == kParts) parts.pop_front();
      parts.push_back(part);
    }
    if (all[agent] < time) all[agent] = time;
    frozen.reset();
    answers.clear();
  }
  Times with(const Times& mine) {
    if (all.empty()) return mine;
    if (!frozen) frozen = std::make_shared<const Vector>(all);
    if (std::find(parts.begin(), parts.end(), mine) != parts.end()) return frozen;
    for (const auto& [before, after] : answers)
      if (before == mine) return after;
    Vector both = *mine;
    join(both, all);
    answers.emplace_back(mine, std::make_shared<const Vector>(std::move(both)));
    return answers.back().second;
  }
};
struct Point {
  std::array<Handed, kKnown> in_block, in_cluster;  // to whom waits in this block; in the cluster, acquiring
};

int ignoring = 0, current = -1, threads = 0;
std::uint16_t cluster = 0;
std::vector<Agent> agents;
Times nothing;
std::unordered_map<const void*, Point> points;
std::map<const void*, int> barriers;  // to agents
std::vector<std::array<std::uint32_t, kLanes>> products;
std::vector<unsigned char*> shared;
std::size_t shared_bytes = 0;
std::map<std::uintptr_t, std::uintptr_t> watched;  // to their ends
std::vector<std::vector<Cell>> shared_cells;
std::unordered_map<std::uintptr_t, std::vector<Cell>> global_cells;  // by the page's address
std::array<Region, 8> recent = {};  // what was looked up last, the very last first
std::set<std::pair<std::uint32_t, std::uint32_t>> reported;

std::uint32_t code_at(const void* address) {
  return static_cast<std::uint32_t>(static_cast<const char*>(address) - &__executable_start);
}

void finish() {
  std::fflush(nullptr);
  std::_Exit(kExit);
}

void describe(std::uint32_t code) {
  std::fflush(nullptr);
  char command[96];
  std::snprintf(command, sizeof command, "addr2line -e /proc/%d/exe -fCpi %#x | sed 's/^/    /' >&2", getpid(), code - 1);
  if (std::system(command) != 0) std::fprintf(stderr, "    at %#x\n", code);
}

void report(const void* at, const char* what, const Epoch& mine, const char* before, const Epoch& other) {
  if (!reported.emplace(mine.code, other.code).second) return;
  if (reported.size() == 1) std::atexit(finish);
  std::fprintf(stderr, "race: %s by %s of thread %d, at %p\n", what, kNames[static_cast<int>(mine.kind)], current, at);
  for (std::size_t rank = 0; rank < shared.size(); rank++) {
    const std::ptrdiff_t byte = static_cast<const unsigned char*>(at) - shared[rank];
    if (byte >= 0 && byte < static_cast<std::ptrdiff_t>(shared_bytes))
      std::fprintf(stderr, "  (byte %td of block %zu's shared memory)\n", byte, rank);
  }
  describe(mine.code);
  std::fprintf(stderr, "  not ordered behind the %s by %s of %s %d%s\n", before, kNames[static_cast<int>(other.kind)],
               other.agent < threads ? "thread" : "barrier", other.agent < threads ? other.agent : other.agent - threads,
               other.cluster == cluster ? "" : " of another cluster");
  describe(other.code);
  if (reported.size() == kMostReports) finish();
}

bool knows(const Agent& agent, int index, int what, const Epoch& e) {
  if (e.cluster != cluster) return false;
  if (e.kind == Kind::product) {
    for (int lane = 0; lane < kLanes; lane++) {
      const std::uint32_t time = products[e.time][lane];
      if (e.agent + lane == index ? agent.own(what) >= time : (*agent.knows[what])[e.agent + lane] >= time) return true;
    }
    return false;
  }
  return e.agent == index ? agent.own(what) >= e.time : (*agent.knows[what])[e.agent] >= e.time;
}

// The region that an address lies in. Of global memory it is at most a page.
Region look_up(std::uintptr_t address) {
  std::uintptr_t begin = 0, end = ~std::uintptr_t{0};
  for (std::size_t rank = 0; rank < shared.size(); rank++) {
    const auto first = reinterpret_cast<std::uintptr_t>(shared[rank]), past = first + shared_bytes;
    if (first <= address && address < past) return {first, past, shared_cells[rank].data(), true};
    first > address ? end = std::min(end, first) : begin = std::max(begin, past);
  }
  const auto next = watched.upper_bound(address);
  if (next != watched.end()) end = std::min(end, next->first);
  if (next != watched.begin()) {
    const auto [first, past] = *std::prev(next);
    if (address < past) {
      const std::uintptr_t page_begin = address / kPage * kPage;
      std::vector<Cell>& page = global_cells[page_begin];
      if (page.empty()) page.resize(kPage / kCell);
      begin = std::max(first, page_begin);
      return {begin, std::min(past, page_begin + kPage), &page[(begin - page_begin) / kCell], false};
    }
    begin = std::max(begin, past);
  }
  return {begin, end, nullptr, false};
}
const Region& region_of(std::uintptr_t address) {
  const auto has = [&](const Region& region) { return address - region.begin < region.end - region.begin; };
  if (has(recent[0])) return recent[0];
  auto found = std::find_if(recent.begin() + 1, recent.end(), has);
  if (found == recent.end()) *--found = look_up(address);
  std::swap(recent[0], *found);
  return recent[0];
}

template <class F>
void for_cells(const void* at, std::size_t bytes, F f) {
  std::uintptr_t address = reinterpret_cast<std::uintptr_t>(at) / kCell * kCell;
  const std::uintptr_t end = reinterpret_cast<std::uintptr_t>(at) + bytes;
  while (address < end) {
    const Region region = region_of(address);
    if (!region.cells) return;
    Cell* cell = region.cells + (address - region.begin) / kCell;
    for (const std::uintptr_t past = std::min(end, region.end); address < past; address += kCell)
      f(*cell++, region.in_shared, reinterpret_cast<const void*>(address));
  }
}

// What must be known of an access before one of this kind may follow it.
int needed(bool write, Kind before, Kind mine, bool in_shared) {
  const bool crossing = (mine == Kind::copy || mine == Kind::product) && before != Kind::copy && before != Kind::product;
  return (in_shared ? 0 : kOfSpace) + (crossing ? written_shown : 0) + (write ? written_ : read_);
}

// Whether an access of this kind may follow `before`, a write or a read.
bool follows(const Agent& agent, Kind mine, const Epoch& before, bool write, bool in_shared) {
  if (before.kind == Kind::none || (before.kind == Kind::atomic && mine == Kind::atomic)) return true;
  return knows(agent, current, needed(write, before.kind, mine, in_shared), before);
}

void note_read(Cell& cell, bool in_shared, const void* at, const Epoch& mine, const Agent& agent) {
  if (!follows(agent, mine.kind, cell.write, true, in_shared)) report(at, "read", mine, "write", cell.write);
  if (!cell.reads.empty() && cell.reads.back().agent == mine.agent && cell.reads.back().kind == mine.kind &&
      cell.reads.back().cluster == mine.cluster && mine.kind != Kind::product) {
    cell.reads.back() = mine;
    return;
  }
  cell.reads.push_back(mine);
  const std::size_t count = cell.reads.size();
  if (count < 8 || (count & (count - 1)) != 0) return;
  // who is ordered behind this one is ordered behind those that it is behind itself
  const int what = needed(false, mine.kind, mine.kind, in_shared);
  const auto covered = [&](const Epoch& e) {
    return e.kind == mine.kind && mine.kind != Kind::product && knows(agent, current, what, e);
  };
  cell.reads.erase(std::remove_if(cell.reads.begin(), cell.reads.end() - 1, covered), cell.reads.end() - 1);
}

void note_write(Cell& cell, bool in_shared, const void* at, const Epoch& mine, const Agent& agent) {
  if (!follows(agent, mine.kind, cell.write, true, in_shared)) report(at, "write", mine, "write", cell.write);
  for (const Epoch& r : cell.reads)
    if (!follows(agent, mine.kind, r, false, in_shared)) report(at, "write", mine, "read", r);
  cell.write = mine;
  cell.reads.clear();
}

void access(const void* at, std::size_t bytes, bool write, Kind kind, const void* caller) {
  if (current < 0 || ignoring > 0) return;
  const Agent& agent = agents[current];
  const Epoch mine{agent.now, code_at(caller), static_cast<std::uint16_t>(current), cluster, kind};
  for_cells(at, bytes, [&](Cell& cell, bool in_shared, const void* address) {
    write ? note_write(cell, in_shared, address, mine, agent) : note_read(cell, in_shared, address, mine, agent);
  });
}

int agent_of(const void* barrier) {
  const auto [found, added] = barriers.emplace(barrier, threads + static_cast<int>(barriers.size()));
  if (barriers.size() > kMostBarriers) std::abort();
  return found->second;
}

void hand_on(std::array<Handed, kKnown>& to) {
  const Agent& mine = agents[current];
  for (int what = 0; what < kKnown; what++) to[what].add(mine.knows[what], current, mine.own(what));
}
// Without a release: what has been read was there to be read, and of shared memory there is one copy.
void hand_on_weakly(std::array<Handed, kKnown>& to) {
  const Agent& mine = agents[current];
  for (int what = 0; what < kKnown; what++)
    if (what < kOfSpace || what % 2 == read_) to[what].add(mine.knows[what], current, mine.own(what));
}
void take(std::array<Handed, kKnown>& from) {
  Agent& mine = agents[current];
  for (int what = 0; what < kKnown; what++) mine.knows[what] = from[what].with(mine.knows[what]);
}
// Whoever waits at this point knows of what completes there.
void complete(const void* point, int agent, unsigned phase) {
  for (int what : {+written_, +read_, kOfSpace + written_, kOfSpace + read_})
    points[point].in_block[what].add(nothing, agent, phase + 1);
}

}  // namespace

void begin_launch() {
  recent = {};
  global_cells.clear();
  cluster = 0;
}

void begin_cluster(int count, const std::vector<unsigned char*>& memory, std::size_t bytes) {
  cluster++;
  recent = {};
  threads = count;
  shared = memory;
  shared_bytes = bytes;
  shared_cells.resize(memory.size());
  for (auto& cells : shared_cells) cells.assign(bytes / kCell + 1, {});
  points.clear();
  barriers.clear();
  products.clear();
  nothing = std::make_shared<const Vector>(count + kMostBarriers, 0);
  agents.assign(count, {});
  for (Agent& agent : agents) agent.knows.fill(nothing);
}

void run_as(int thread) { current = thread; }
void watch(const void* begin, std::size_t bytes) {
  recent = {};
  watched[reinterpret_cast<std::uintptr_t>(begin)] = reinterpret_cast<std::uintptr_t>(begin) + bytes;
}
void forget(const void* begin) {
  recent = {};
  watched.erase(reinterpret_cast<std::uintptr_t>(begin));
}

void before(const void* point) {
  hand_on(points[point].in_block);
  agents[current].now++;
}
void after(const void* point) { take(points[point].in_block); }

void arrive(const void* point, bool own_block, Scope scope) {
  Point& there = points[point];
  if (own_block)
    hand_on(there.in_block);
  else if (scope == Scope::cluster)
    hand_on(there.in_cluster);
  hand_on_weakly(there.in_block);
  agents[current].now++;
}
void wait(const void* point, Scope scope) {
  Point& there = points[point];
  take(there.in_block);
  if (scope == Scope::cluster) take(there.in_cluster);
}

void read(const void* from, std::size_t bytes, const void* code) { access(from, bytes, false, Kind::ordinary, code); }
void written(void* to, std::size_t bytes, const void* code) { access(to, bytes, true, Kind::ordinary, code); }

void copied(void* to, const void* from, std::size_t bytes, const Completion& end, const void* code) {
  const int agent = agent_of(end.barrier);
  const Epoch mine{end.phase + 1, code_at(code), static_cast<std::uint16_t>(agent), cluster, Kind::copy};
  for_cells(from, bytes, [&](Cell& cell, bool in_shared, const void* at) {
    note_read(cell, in_shared, at, mine, agents[current]);
  });
  for_cells(to, bytes, [&](Cell& cell, bool in_shared, const void* at) {
    note_write(cell, in_shared, at, mine, agents[current]);
  });
  complete(end.point, agent, end.phase);
}
void stored(void* to, std::size_t bytes, const Completion& end, const void* code) {
  const int agent = agent_of(end.barrier);
  const Epoch mine{end.phase + 1, code_at(code), static_cast<std::uint16_t>(agent), cluster, Kind::ordinary};
  for_cells(to, bytes, [&](Cell& cell, bool in_shared, const void* at) {
    note_write(cell, in_shared, at, mine, agents[current]);
  });
  complete(end.point, agent, end.phase);
  hand_on_weakly(points[end.point].in_block);
  agents[current].now++;
}

void show(Space space) {
  Agent& mine = agents[current];
  const int first = static_cast<int>(space) * kOfSpace;
  for (int what : {written_, read_}) mine.knows[first + what + written_shown] = mine.knows[first + what];
  mine.shown[static_cast<int>(space)] = mine.now++;
}

View view() {
  const Agent& mine = agents[current];
  return {current, mine.shown[0], code_at(__builtin_return_address(0)), mine.knows[written_], mine.knows[written_shown]};
}
std::uint32_t begin_product() {
  products.emplace_back().fill(kNotEnded);
  return static_cast<std::uint32_t>(products.size() - 1);
}
void read_by_product(const void* from, std::size_t bytes, std::uint32_t product, const View& lane) {
  Agent then;
  then.shown[0] = lane.shown;
  then.knows.fill(lane.written);
  then.knows[written_shown] = lane.written_and_shown;
  const int first = lane.agent / kLanes * kLanes;
  const Epoch mine{product, lane.code, static_cast<std::uint16_t>(first), cluster, Kind::product};
  const int self = std::exchange(current, lane.agent);
  for_cells(from, bytes, [&](Cell& cell, bool in_shared, const void* at) { note_read(cell, in_shared, at, mine, then); });
  current = self;
}
void end_product(std::uint32_t product) { products[product][current % kLanes] = agents[current].now; }

void begin_ignoring() { ignoring++; }
void end_ignoring() { ignoring--; }

}  // namespace emulator::races

// ---- what the compiler calls

using emulator::races::access;
using emulator::races::Kind;

#define VGF_ACCESS(BYTES)                                                                                                  \
  void __tsan_read##BYTES(void* at) { access(at, BYTES, false, Kind::ordinary, __builtin_return_address(0)); }             \
  void __tsan_write##BYTES(void* at) { access(at, BYTES, true, Kind::ordinary, __builtin_return_address(0)); }             \
  void __tsan_unaligned_read##BYTES(void* at) { access(at, BYTES, false, Kind::ordinary, __builtin_return_address(0)); }   \
  void __tsan_unaligned_write##BYTES(void* at) { access(at, BYTES, true, Kind::ordinary, __builtin_return_address(0)); }
#define VGF_ATOMIC(BITS, TYPE)                                                                                             \
  TYPE __tsan_atomic##BITS##_load(const volatile TYPE* at, int) {                                                          \
    access(const_cast<TYPE*>(at), BITS / 8, false, Kind::atomic, __builtin_return_address(0));                             \
    return __atomic_load_n(at, __ATOMIC_SEQ_CST);                                                                          \
  }                                                                                                                        \
  void __tsan_atomic##BITS##_store(volatile TYPE* at, TYPE x, int) {                                                       \
    access(const_cast<TYPE*>(at), BITS / 8, true, Kind::atomic, __builtin_return_address(0));                              \
    __atomic_store_n(at, x, __ATOMIC_SEQ_CST);                                                                             \
  }                                                                                                                        \
  TYPE __tsan_atomic##BITS##_fetch_add(volatile TYPE* at, TYPE x, int) {                                                   \
    access(const_cast<TYPE*>(at), BITS / 8, true, Kind::atomic, __builtin_return_address(0));                              \
    return __atomic_fetch_add(at, x, __ATOMIC_SEQ_CST);                                                                    \
  }                                                                                                                        \
  int __tsan_atomic##BITS##_compare_exchange_strong(volatile TYPE* at, TYPE* before, TYPE x, int, int) {                   \
    access(const_cast<TYPE*>(at), BITS / 8, true, Kind::atomic, __builtin_return_address(0));                              \
    return __atomic_compare_exchange_n(at, before, x, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                          \
  }                                                                                                                        \
  int __tsan_atomic##BITS##_compare_exchange_weak(volatile TYPE* at, TYPE* before, TYPE x, int, int) {                     \
    access(const_cast<TYPE*>(at), BITS / 8, true, Kind::atomic, __builtin_return_address(0));                              \
    return __atomic_compare_exchange_n(at, before, x, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                          \
  }
extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
VGF_ACCESS(1)
VGF_ACCESS(2)
VGF_ACCESS(4)
VGF_ACCESS(8)
VGF_ACCESS(16)
void __tsan_read_range(void* at, unsigned long bytes) { access(at, bytes, false, Kind::ordinary, __builtin_return_address(0)); }
void __tsan_write_range(void* at, unsigned long bytes) { access(at, bytes, true, Kind::ordinary, __builtin_return_address(0)); }
VGF_ATOMIC(8, unsigned char)
VGF_ATOMIC(32, unsigned)
VGF_ATOMIC(64, unsigned long)
}

#endif
