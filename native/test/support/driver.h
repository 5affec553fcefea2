// Driver: a whole virtio driver for tests: a device thread with a real transport on one
// side, and on the other side register accesses, rings, notifications and interrupts as
// a guest makes them.
#ifndef EMBERVM_TEST_SUPPORT_DRIVER_H_
#define EMBERVM_TEST_SUPPORT_DRIVER_H_

#include <doctest/doctest.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/event_loop.h"
#include "memory/guest_memory.h"
#include "test/support/driver_queue.h"
#include "test/support/mmio_slot.h"
#include "virtio/abi.h"
#include "virtio/completion.h"
#include "virtio/mmio_transport.h"

namespace embervm::test {

inline constexpr auto kPatience = std::chrono::seconds(60);

// Polls for conditions that other threads bring about.
template <class Condition>
[[nodiscard]] bool Eventually(Condition condition) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  return true;
}

// A device thread.
class LoopThread {
 public:
  LoopThread() : loop_(EventLoop::Create().value()), thread_([this] { loop_->Run(); }) {}
  LoopThread(const LoopThread&) = delete;
  LoopThread& operator=(const LoopThread&) = delete;
  ~LoopThread() { Stop(); }

  EventLoop& loop() { return *loop_; }
  // Runs `task` on the device thread and waits for it.
  void Call(std::function<void()> task) {
    const virtio::Completion completion;
    loop_->Post([&task, token = completion.MakeToken()] { task(); });
    completion.Wait();
  }
  // Keeps the device thread busy while `task` runs here: what `task` does is one batch
  // to the devices.
  void WhileBlocked(const std::function<void()>& task) {
    const virtio::Completion entered;
    const virtio::Completion leave;
    loop_->Post([token = entered.MakeToken(), &leave]() mutable {
      {
        const virtio::Completion::Token enter = std::move(token);
      }
      leave.Wait();
    });
    entered.Wait();
    task();
    leave.Abandon();
    Call([] {});
  }
  void Stop() {
    if (!thread_.joinable()) return;
    loop_->Stop();
    thread_.join();
  }

 private:
  std::unique_ptr<EventLoop> loop_;
  std::thread thread_;
};

class Driver {
 public:
  static constexpr std::uint64_t kMemoryBytes = 64U << 20U;
  static constexpr GuestAddr kArenaBase = 0x10000;

  explicit Driver(virtio::Device& device, LoopThread& thread)
      : thread_(thread),
        memory_(GuestMemory::Create(kMemoryBytes).value()),
        arena_(memory_, kArenaBase) {
    thread_.Call([this, &device] {
      slot_.emplace(thread_.loop(), memory_, [this](const virtio::Device&, const Error& error) {
        const std::lock_guard lock(mutex_);
        failures_.push_back(error.message());
      });
      REQUIRE(transport().Attach(device).has_value());
    });
  }
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;
  ~Driver() {
    thread_.Stop();
    slot_.reset();
  }

  virtio::MmioTransport& transport() { return **slot_; }
  const GuestMemory& memory() { return memory_; }
  GuestArena& arena() { return arena_; }
  DriverQueue& queue(std::size_t index) { return queues_.at(index); }

  std::uint32_t Read32(std::uint64_t offset) {
    std::array<std::byte, 4> bytes{};
    transport().Read(offset, bytes);
    return LoadLe<std::uint32_t>(bytes);
  }
  void Write32(std::uint64_t offset, std::uint32_t value) {
    transport().Write(offset, AsBytes(value));
  }

  std::uint64_t OfferedFeatures() {
    Write32(virtio::kRegDeviceFeaturesSel, 1);
    const std::uint64_t high = Read32(virtio::kRegDeviceFeatures);
    Write32(virtio::kRegDeviceFeaturesSel, 0);
    return (high << 32U) | Read32(virtio::kRegDeviceFeatures);
  }

  void Negotiate(std::uint64_t features) {
    Write32(virtio::kRegStatus, 0);
    Write32(virtio::kRegStatus, 1);
    Write32(virtio::kRegStatus, 3);
    Write32(virtio::kRegDriverFeaturesSel, 0);
    Write32(virtio::kRegDriverFeatures, static_cast<std::uint32_t>(features));
    Write32(virtio::kRegDriverFeaturesSel, 1);
    Write32(virtio::kRegDriverFeatures, static_cast<std::uint32_t>(features >> 32U));
    Write32(virtio::kRegStatus, 0xb);
  }

  void SetUpQueue(std::uint32_t index, const virtio::QueueConfig& config) {
    Write32(virtio::kRegQueueSel, index);
    Write32(virtio::kRegQueueNum, config.size);
    Write32(virtio::kRegQueueDescLow, static_cast<std::uint32_t>(config.descriptor_table));
    Write32(virtio::kRegQueueDescHigh, static_cast<std::uint32_t>(config.descriptor_table >> 32U));
    Write32(virtio::kRegQueueDriverLow, static_cast<std::uint32_t>(config.driver_ring));
    Write32(virtio::kRegQueueDriverHigh, static_cast<std::uint32_t>(config.driver_ring >> 32U));
    Write32(virtio::kRegQueueDeviceLow, static_cast<std::uint32_t>(config.device_ring));
    Write32(virtio::kRegQueueDeviceHigh, static_cast<std::uint32_t>(config.device_ring >> 32U));
    Write32(virtio::kRegQueueReady, config.ready ? 1 : 0);
  }

  // From reset to DRIVER_OK, with fresh rings of the largest size.
  void Start(std::uint64_t without_features = 0) {
    const std::uint64_t features = OfferedFeatures() & ~without_features;
    Negotiate(features);
    queues_.clear();
    for (std::uint32_t index = 0; index < transport().queue_count(); ++index) {
      Write32(virtio::kRegQueueSel, index);
      const auto size = static_cast<std::uint16_t>(Read32(virtio::kRegQueueNumMax));
      queues_.emplace_back(arena_, size, features);
      SetUpQueue(index, queues_.back().Config(size));
    }
    Write32(virtio::kRegStatus, 0xf);
    REQUIRE(Read32(virtio::kRegStatus) == 0xf);
  }

  // As KVM does for a guest's write to the notify register.
  void Kick(std::size_t index) {
    const std::uint64_t one = 1;
    REQUIRE(::write(transport().notify_fd(index), &one, sizeof(one)) == sizeof(one));
  }
  void KickIfAsked(std::size_t index) {
    if (queue(index).TakeKick()) Kick(index);
  }

  // Waits for the next used element with interrupts only, as a driver that sleeps: a
  // lost interrupt shows as a time-out.
  virtio::UsedElement WaitUsed(std::size_t index) {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    for (;;) {
      if (const auto element = queue(index).PopUsed()) return *element;
      if (queue(index).EnableInterrupts()) continue;
      const bool in_time = std::chrono::steady_clock::now() < deadline;
      REQUIRE(in_time);
      if (WaitIrqLine()) {
        AcknowledgeInterrupt();
      } else {
        const bool lost = queue(index).EnableInterrupts();
        REQUIRE_FALSE(lost);
      }
    }
  }

  // Returns the causes, acknowledged; 0 when there is no interrupt for a long time.
  std::uint32_t WaitInterrupt() { return WaitIrqLine() ? AcknowledgeInterrupt() : 0; }

  std::vector<std::string> failures() {
    const std::lock_guard lock(mutex_);
    return failures_;
  }

  // Guest memory, for buffers.
  GuestAddr Put(std::span<const std::byte> bytes) {
    const GuestAddr addr = arena_.Allocate(bytes.size());
    REQUIRE(memory_.Write(addr, bytes).has_value());
    return addr;
  }
  template <class T>
  GuestAddr PutStruct(const T& value) {
    return Put(AsBytes(value));
  }
  std::vector<std::byte> Get(GuestAddr addr, std::size_t length) {
    std::vector<std::byte> bytes(length);
    REQUIRE(memory_.Read(addr, bytes).has_value());
    return bytes;
  }

 private:
  bool WaitIrqLine() {
    constexpr int kMilliseconds = 10000;
    pollfd state{.fd = transport().irq_fd(), .events = POLLIN, .revents = 0};
    if (::poll(&state, 1, kMilliseconds) != 1) return false;
    std::uint64_t count = 0;
    return ::read(transport().irq_fd(), &count, sizeof(count)) == sizeof(count);
  }
  std::uint32_t AcknowledgeInterrupt() {
    const std::uint32_t causes = Read32(virtio::kRegInterruptStatus);
    Write32(virtio::kRegInterruptAck, causes);
    return causes;
  }

  LoopThread& thread_;
  GuestMemory memory_;
  GuestArena arena_;
  std::optional<MmioSlot> slot_;
  std::vector<DriverQueue> queues_;
  std::mutex mutex_;
  std::vector<std::string> failures_;
};

}  // namespace embervm::test

#endif  // EMBERVM_TEST_SUPPORT_DRIVER_H_
