#include "memory.hpp"

#include <map>
#include <new>
#include <string>

namespace vgf::cpu {
namespace {

class NoMemory : public std::bad_alloc {
 public:
  explicit NoMemory(std::size_t bytes)
      : text_("expected " + std::to_string(bytes) + " bytes for the cpu engine's work, got none from the system; "
              "free some, or give fewer particles a state or fewer threads") {}
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  std::string text_;
};

}  // namespace

Memory allocate(std::size_t bytes) {
  Memory memory(static_cast<float*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64)));
  if (!memory) throw NoMemory(bytes);
  return memory;
}

float* thread_scratch(std::size_t floats) {
  thread_local Memory memory;
  thread_local std::size_t capacity = 0;
  if (floats > capacity) {
    memory.reset();
    capacity = 0;
    memory = allocate(floats * sizeof(float));
    capacity = floats;
  }
  return memory.get();
}

std::shared_ptr<float> kept_memory(std::size_t bytes) {
  thread_local std::multimap<std::size_t, Memory> kept;  // what nobody uses, by size
  auto found = kept.lower_bound(bytes);
  if (found == kept.end()) {
    kept.clear();  // too small for what this thread does now
    found = kept.emplace(bytes, allocate(bytes));
  }
  const auto used = std::make_shared<decltype(kept)::node_type>(kept.extract(found));
  return {used->mapped().get(), [used](float*) { kept.insert(std::move(*used)); }};
}

}  // namespace vgf::cpu
