#include "runtime.hpp"

#include <cuda_runtime_api.h>

#include <array>
#include <atomic>
#include <stdexcept>
#include <string>

#include "sm90_layout.hpp"

namespace vgf::cuda {
namespace {

void check(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // the error is reported here, and must not surface in the caller's next call
  const char* remedy = error == cudaErrorNoKernelImageForDevice ? "; build for this GPU, see VGF_CUDA_ARCHS" : "";
  throw std::runtime_error(std::string("vgf cuda engine: ") + call + ": " + cudaGetErrorString(error) + remedy);
}

int current_device() {
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  return device;
}

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

int most_shared_bytes(int device) { return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device); }

// Always the device's limit: another thread may launch the same kernel with less.
void allow_shared_bytes(const void* kernel, const char* name, int device) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most_shared_bytes(device)),
        (std::string("cudaFuncSetAttribute of ") + name).c_str());
}

// A grid as the runtime is told of it.
struct Configuration : cudaLaunchConfig_t {
  cudaLaunchAttribute cluster{};
  explicit Configuration(const Grid& grid, Stream its_stream = nullptr) : cudaLaunchConfig_t{} {
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = grid.cluster;
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    gridDim = dim3(grid.x, grid.y);
    blockDim = dim3(grid.threads);
    dynamicSmemBytes = grid.shared_bytes;
    stream = static_cast<cudaStream_t>(its_stream);
    attrs = &cluster;
    numAttrs = grid.cluster > 1 ? 1 : 0;  // devices before sm_90 know of none
  }
  Configuration(const Configuration&) = delete;  // it points to itself
};

// How many clusters of Hopper's tile kernels the device has room for: fewer than its multiprocessors would make, since a
// cluster lies within a GPC. A fact of the device, which a call should not wait for twice.
int clusters_at_once(int device) {
  static std::array<std::atomic<int>, 64> known{};
  const bool kept = device < static_cast<int>(known.size());
  if (const int clusters = kept ? known[device].load() : 0) return clusters;
  const auto* kernel = reinterpret_cast<const void*>(hopper_tile_kernel_in<Precision::bf16>());
  allow_shared_bytes(kernel, "hopper_tile_kernel", device);
  const Configuration configuration({kCluster, 1, kHopperThreads, most_shared_bytes(device), kCluster});
  int clusters = 0;
  check(cudaOccupancyMaxActiveClusters(&clusters, kernel, &configuration), "cudaOccupancyMaxActiveClusters");
  if (kept) known[device] = clusters;
  return clusters;
}

}  // namespace

std::vector<Device> devices() {
  if (driver_version() == 0) return {};
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorNoDevice) {
    cudaGetLastError();
    return {};
  }
  check(error, "cudaGetDeviceCount");
  std::vector<Device> found;
  for (int i = 0; i < count; i++) {
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, i), "cudaGetDeviceProperties");
    found.push_back({properties.name, properties.major, properties.minor});
  }
  return found;
}

int driver_version() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

Machine machine() {
  const int device = current_device();
  const int major = attribute(cudaDevAttrComputeCapabilityMajor, device);
  const int minor = attribute(cudaDevAttrComputeCapabilityMinor, device);
  const bool hopper = major == 9 && minor == 0;
  return {attribute(cudaDevAttrMultiProcessorCount, device), most_shared_bytes(device), hopper,
          hopper ? clusters_at_once(device) : 0};
}

void clear(void* memory, std::size_t bytes, Stream stream) {
  check(cudaMemsetAsync(memory, 0, bytes, static_cast<cudaStream_t>(stream)), "cudaMemsetAsync");
}

void copy(void* to, const void* from, std::size_t bytes, Stream stream) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, static_cast<cudaStream_t>(stream)),
        "cudaMemcpyAsync");
}

void launch(const char* name, const void* kernel, Grid grid, const void* parameter, Stream stream) {
  if (grid.shared_bytes > 48 * 1024) allow_shared_bytes(kernel, name, current_device());
  constexpr int most_portable = 8;
  if (grid.cluster > most_portable)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
          (std::string("cudaFuncSetAttribute of ") + name).c_str());
  void* arguments[] = {const_cast<void*>(parameter)};
  const Configuration configuration(grid, stream);
  check(cudaLaunchKernelExC(&configuration, kernel, arguments), (std::string("launch of ") + name).c_str());
}

}  // namespace vgf::cuda
