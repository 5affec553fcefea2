// virtio-blk requests of any content and framing, on a real (memory) file.
#include <fuzzer/FuzzedDataProvider.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "devices/block/device.h"
#include "fuzz/device_harness.h"

namespace embervm::fuzz {
namespace {

constexpr off_t kDiskBytes = 65536;
constexpr std::size_t kMaxBuffers = 6;
constexpr std::uint32_t kMaxBufferBytes = 8192;

const std::string& DiskPath() {
  static const UniqueFd file(::memfd_create("disk", MFD_CLOEXEC));
  static const std::string path = "/proc/self/fd/" + std::to_string(file.get());
  Require(::ftruncate(file.get(), kDiskBytes) == 0);
  return path;
}

void SendRequest(FuzzedDataProvider& input, DeviceHarness& harness, devices::BlockDevice& device) {
  std::vector<test::DriverBuffer> buffers;
  std::uint64_t writable = 0;
  const auto count = input.ConsumeIntegralInRange<std::size_t>(1, kMaxBuffers);
  for (std::size_t i = 0; i < count; ++i) {
    const bool to_guest = input.ConsumeBool();
    if (to_guest) {
      const auto length = input.ConsumeIntegralInRange<std::uint32_t>(0, kMaxBufferBytes);
      buffers.push_back({harness.arena().Allocate(length), length, true});
      writable += length;
      continue;
    }
    const std::vector<std::byte> bytes = input.ConsumeBytes<std::byte>(
        input.ConsumeIntegralInRange<std::size_t>(0, kMaxBufferBytes));
    // What the input does not fill is data of any content: its length counts.
    const auto padding = input.ConsumeIntegralInRange<std::uint32_t>(0, 1024);
    const auto length = static_cast<std::uint32_t>(bytes.size()) + padding;
    const GuestAddr addr = harness.arena().Allocate(length);
    Require(SharedMemory().Write(addr, bytes).has_value());
    buffers.push_back({addr, length, false});
  }
  const std::uint16_t head = harness.queue(0).AddIndirect(buffers);
  harness.Notify(0);
  // What waits for the disk is done by a worker.
  Require(device.BeforeSave().has_value());
  const auto used = harness.queue(0).PopUsed();
  // Each request is answered, once, and with no more than it had room for.
  Require(used.has_value() && used->id == head && used->len <= writable);
  Require(!harness.queue(0).PopUsed().has_value());
}

void Run(FuzzedDataProvider& input, EventLoop& loop) {
  const auto device = devices::BlockDevice::Open(
                          {.id = "disk", .path = DiskPath(), .read_only = input.ConsumeBool()})
                          .value();
  DeviceHarness harness(*device, loop);
  // The arena is bounded: so is the number of requests.
  constexpr int kMaxRequests = 8;
  for (int i = 0; i < kMaxRequests && input.remaining_bytes() > 0; ++i) {
    SendRequest(input, harness, *device);
  }
  Require(!harness.failed());
}

}  // namespace
}  // namespace embervm::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::unique_ptr<embervm::EventLoop> loop = embervm::EventLoop::Create().value();
  FuzzedDataProvider input(data, size);
  embervm::fuzz::Run(input, *loop);
  return 0;
}
