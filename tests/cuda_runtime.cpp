// csrc/cuda/runtime.cpp on a CUDA runtime that notes what it is asked, and fails where it is told to. Exits with 1 and says
// what failed.
#include "runtime.hpp"

#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>

#include "check.hpp"
#include "sm90_layout.hpp"

using namespace vgf::cuda;

// ---- the runtime: its devices, and what was asked of it

namespace {

struct Properties {
  int multiprocessors, shared_bytes, major, minor, clusters;
};
const Properties kDevices[] = {{132, 227 * 1024, 9, 0, 60}, {108, 163 * 1024, 8, 0, 0}, {114, 200 * 1024, 9, 0, 50},
                               {148, 227 * 1024, 10, 0, 0}};
int current = 0, sticky = 0, occupancies = 0, clears = 0, copies = 0;
std::string failing;  // the function that fails,
cudaError_t failure;  // with this
std::map<cudaFuncAttribute, int> allowed;
struct Launched {
  dim3 grid, block;
  std::size_t shared;
  unsigned cluster;
  cudaStream_t stream;
  int argument;
} launched;

cudaError_t answer(const char* function) {
  if (failing != function) return cudaSuccess;
  sticky = failure;
  return failure;
}

unsigned cluster_of(const cudaLaunchConfig_t* configuration) {
  for (unsigned i = 0; i < configuration->numAttrs; i++) {
    const cudaLaunchAttribute& a = configuration->attrs[i];
    if (a.id != cudaLaunchAttributeClusterDimension) continue;
    CHECK(a.val.clusterDim.y == 1 && a.val.clusterDim.z == 1, "clusters lie along x");
    return a.val.clusterDim.x;
  }
  return 0;
}

}  // namespace

extern "C" {
cudaError_t cudaGetDevice(int* device) { return *device = current, answer("cudaGetDevice"); }
cudaError_t cudaGetDeviceCount(int* count) { return *count = 4, answer("cudaGetDeviceCount"); }
cudaError_t cudaDriverGetVersion(int* version) { return *version = 13000, answer("cudaDriverGetVersion"); }
cudaError_t cudaGetLastError() { return static_cast<cudaError_t>(std::exchange(sticky, 0)); }
const char* cudaGetErrorString(cudaError_t) { return "what went wrong"; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  std::snprintf(properties->name, sizeof properties->name, "GPU %d", device);
  properties->major = kDevices[device].major;
  properties->minor = kDevices[device].minor;
  return answer("cudaGetDeviceProperties");
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int device) {
  const Properties& d = kDevices[device];
  *value = which == cudaDevAttrMultiProcessorCount                ? d.multiprocessors
           : which == cudaDevAttrMaxSharedMemoryPerBlockOptin     ? d.shared_bytes
           : which == cudaDevAttrComputeCapabilityMajor           ? d.major
           : which == cudaDevAttrComputeCapabilityMinor           ? d.minor
                                                                  : -1;
  return answer("cudaDeviceGetAttribute");
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute which, int value) {
  allowed[which] = value;
  return answer("cudaFuncSetAttribute");
}
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void*, const cudaLaunchConfig_t* configuration) {
  CHECK(cluster_of(configuration) == kCluster && configuration->gridDim.x % kCluster == 0 &&
            configuration->blockDim.x == kHopperThreads,
        "the occupancy of another launch");
  CHECK(static_cast<int>(configuration->dynamicSmemBytes) == kDevices[current].shared_bytes, "of less shared memory");
  CHECK(allowed[cudaFuncAttributeMaxDynamicSharedMemorySize] == kDevices[current].shared_bytes, "before it was asked for");
  occupancies++;
  *clusters = kDevices[current].clusters;
  return answer("cudaOccupancyMaxActiveClusters");
}
cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t stream) {
  CHECK(value == 0 && stream == reinterpret_cast<cudaStream_t>(7), "cleared elsewhere");
  std::memset(memory, 0, bytes);
  clears++;
  return answer("cudaMemsetAsync");
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  CHECK(kind == cudaMemcpyDeviceToDevice && stream == reinterpret_cast<cudaStream_t>(7), "copied elsewhere");
  std::memcpy(to, from, bytes);
  copies++;
  return answer("cudaMemcpyAsync");
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* c, const void*, void** arguments) {
  launched = {c->gridDim, c->blockDim, c->dynamicSmemBytes, cluster_of(c), c->stream, *static_cast<int*>(arguments[0])};
  return answer("cudaLaunchKernelExC");
}
}

namespace vgf::cuda {
template <>
Kernel<Program> hopper_tile_kernel_in<Precision::bf16>() {
  return [](Program) {};
}
}  // namespace vgf::cuda

namespace {

const Stream kStream = reinterpret_cast<Stream>(7);

template <class Call>
std::string error_of(const char* function, cudaError_t error, Call call) {
  failing = function;
  failure = error;
  std::string found;
  try {
    call();
  } catch (const std::runtime_error& thrown) {
    found = thrown.what();
  }
  failing.clear();
  return found;
}

void start(Grid grid, int parameter = 42) {
  launched = {};
  allowed.clear();
  launch("a_kernel", reinterpret_cast<const void*>(&start), grid, &parameter, kStream);
}

// ---- the tests

void test_a_launch() {
  start({3, 2, 96, 48 * 1024});
  CHECK(launched.grid.x == 3 && launched.grid.y == 2 && launched.grid.z == 1 && launched.block.x == 96, "shape");
  CHECK(launched.shared == 48 * 1024 && launched.cluster == 0 && launched.argument == 42, "the rest");
  CHECK(launched.stream == reinterpret_cast<cudaStream_t>(7), "on another stream");
  CHECK(allowed.empty(), "what every kernel may have was asked for");
}

// More than 48 KB, and more than eight blocks of a cluster, must be asked for.
void test_large_launches() {
  current = 1;
  start({3, 1, 96, 48 * 1024 + 1});
  CHECK(allowed[cudaFuncAttributeMaxDynamicSharedMemorySize] == 163 * 1024, "not this device's limit");
  start({16, 1, 96, 0, 8});
  CHECK(launched.cluster == 8 && allowed.empty(), "a cluster of eight");
  start({16, 1, 96, 0, 16});
  CHECK(launched.cluster == 16 && allowed[cudaFuncAttributeNonPortableClusterSizeAllowed] == 1, "one of sixteen");
  current = 0;
}

// Hopper is 9.0 alone. How many clusters a device has room for is asked once, and not of another.
void test_machines() {
  for (int round = 0; round < 2; round++)
    for (current = 0; current < 4; current++) {
      const Machine m = machine();
      const Properties& d = kDevices[current];
      CHECK(m.multiprocessors == d.multiprocessors && m.shared_bytes == d.shared_bytes, "device %d", current);
      CHECK(m.hopper == (d.major == 9) && m.clusters == d.clusters, "device %d: %d clusters", current, m.clusters);
    }
  CHECK(occupancies == 2, "asked %d times", occupancies);
  current = 0;
}

void test_memory() {
  float from[3] = {1, 2, 3}, to[3] = {};
  copy(to, from, 8, kStream);
  CHECK(to[1] == 2 && to[2] == 0 && copies == 1, "copied");
  clear(to, 4, kStream);
  CHECK(to[0] == 0 && to[1] == 2 && clears == 1, "cleared");
}

void test_devices() {
  const std::vector<Device> found = devices();
  CHECK(found.size() == 4 && found[1].name == "GPU 1" && found[2].major == 9 && found[1].minor == 0, "devices");
  failing = "cudaGetDeviceCount";
  failure = cudaErrorNoDevice;
  CHECK(devices().empty() && sticky == 0, "where there is none");
  failing = "cudaDriverGetVersion";
  CHECK(driver_version() == 0 && devices().empty(), "where there is no driver");
  failing.clear();
}

// Each is reported, with the name of the call, and does not surface in the caller's next call.
void test_errors() {
  float some[1];
  const auto expect = [](const char* function, auto call) {
    const std::string found = error_of(function, cudaErrorInvalidValue, call);
    CHECK(found.find("what went wrong") != found.npos && sticky == 0, "%s: '%s'", function, found.c_str());
    CHECK(std::strcmp(function, "cudaLaunchKernelExC") == 0 || found.find(function) != found.npos, "'%s'", found.c_str());
  };
  expect("cudaLaunchKernelExC", [] { start({1, 1, 32, 0}); });
  expect("cudaFuncSetAttribute", [] { start({1, 1, 32, 64 * 1024}); });
  expect("cudaFuncSetAttribute", [] { start({16, 1, 32, 0, 16}); });
  expect("cudaMemsetAsync", [&] { clear(some, 4, kStream); });
  expect("cudaMemcpyAsync", [&] { copy(some, some, 0, kStream); });
  expect("cudaGetDevice", [] { machine(); });
  expect("cudaDeviceGetAttribute", [] { machine(); });
  expect("cudaGetDeviceCount", [] { devices(); });
  expect("cudaGetDeviceProperties", [] { devices(); });
  const std::string found = error_of("cudaLaunchKernelExC", cudaErrorNoKernelImageForDevice, [] { start({1, 1, 32, 0}); });
  CHECK(found.find("launch of a_kernel") != found.npos && found.find("VGF_CUDA_ARCHS") != found.npos, "'%s'", found.c_str());
}

}  // namespace

int main() {
  test_a_launch();
  test_large_launches();
  test_machines();
  test_memory();
  test_devices();
  test_errors();
  return 0;
}
