// DeviceHarness: activates one device on real guest memory without a transport or a
// device thread, so that a fuzzer drives it synchronously and fast.
#ifndef EMBERVM_FUZZ_DEVICE_HARNESS_H_
#define EMBERVM_FUZZ_DEVICE_HARNESS_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/event_loop.h"
#include "memory/guest_memory.h"
#include "test/support/driver_queue.h"
#include "virtio/device.h"

namespace embervm::fuzz {

// A property that does not hold is a crash for the fuzzer to report.
inline void Require(bool holds) {
  if (!holds) __builtin_trap();
}

inline constexpr std::uint64_t kMemoryBytes = 1U << 20U;

// One for the whole run: what an earlier input left in it is as good as any other.
inline const GuestMemory& SharedMemory() {
  static const GuestMemory memory = GuestMemory::Create(kMemoryBytes).value();
  return memory;
}

class DeviceHarness final : private virtio::DeviceHost {
 public:
  DeviceHarness(virtio::Device& device, EventLoop& loop)
      : arena_(SharedMemory(), kArenaBase), device_(device) {
    const std::uint64_t features = device.features() | virtio::kRingFeatures;
    for (const std::uint16_t size : device.queue_sizes()) {
      drivers_.emplace_back(arena_, size, features);
    }
    const GuestAddr end = arena_.Allocate(0);
    Require(SharedMemory().Fill(kArenaBase, end - kArenaBase, std::byte{0}).has_value());
    for (const test::DriverQueue& driver : drivers_) {
      queues_.push_back(
          virtio::Queue::Create(SharedMemory(), driver.Config(driver.size()), features).value());
    }
    context_ =
        std::make_unique<virtio::DeviceContext>(virtio::DeviceContext{.memory = SharedMemory(),
                                                                      .loop = loop,
                                                                      .host = *this,
                                                                      .queues = queues_,
                                                                      .features = features});
    Require(device_.Activate(*context_).has_value());
  }
  DeviceHarness(const DeviceHarness&) = delete;
  DeviceHarness& operator=(const DeviceHarness&) = delete;
  ~DeviceHarness() { device_.Reset(); }

  test::DriverQueue& queue(std::size_t index) { return drivers_.at(index); }
  test::GuestArena& arena() { return arena_; }
  [[nodiscard]] bool failed() const { return failed_; }

  // As the transport does, with the kicks that the device gives itself.
  void Notify(std::uint16_t queue) {
    Kick(queue);
    while (!failed_) {
      const std::uint32_t kicked = kicks_.exchange(0);
      if (kicked == 0) return;
      for (std::uint16_t next = 0; next < queues_.size(); ++next) {
        if ((kicked >> next & 1U) != 0 && !failed_) device_.Notify(next);
      }
    }
  }

 private:
  static constexpr GuestAddr kArenaBase = 0x1000;

  void SignalQueues() override {}
  void PublishConfig(std::span<const std::byte>) override {}
  void ShowConfig(std::span<const std::byte>) override {}
  void Kick(std::uint16_t queue) override { kicks_.fetch_or(1U << queue); }
  void Fail(Error) override { failed_ = true; }

  test::GuestArena arena_;
  virtio::Device& device_;
  std::vector<test::DriverQueue> drivers_;
  std::vector<virtio::Queue> queues_;
  std::unique_ptr<virtio::DeviceContext> context_;
  // A bit for each queue; threads of a device may kick, too.
  std::atomic<std::uint32_t> kicks_ = 0;
  bool failed_ = false;
};

}  // namespace embervm::fuzz

#endif  // EMBERVM_FUZZ_DEVICE_HARNESS_H_
