// MmioTransport: one virtio-mmio version 2 slot (virtio 1.2 §4.2). vCPU threads read
// and write registers; the device itself runs on the device thread only.
//
// Everything that the guest can read lives in one page, so that the machine maps the pages
// of all slots as read-only memory and reads cost no exit; Read() serves the same bytes
// until it has. Writes always come through Write().
//
// The acknowledgement of a queue's interrupt need not come here: the machine may let KVM
// swallow it, which saves an exit for each interrupt. The cause then stays in the register,
// and all that costs is that the driver looks at its used rings when its configuration has
// changed. Acknowledgements with the other cause must come.
//
// Life: create before the loop runs or on the loop thread. Destroy after the loop has
// ended (or on its thread) and after the vCPU threads are gone, before the device and
// the loop.
#ifndef EMBERVM_VIRTIO_MMIO_TRANSPORT_H_
#define EMBERVM_VIRTIO_MMIO_TRANSPORT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "base/event_loop.h"
#include "base/result.h"
#include "base/state_stream.h"
#include "base/unique_fd.h"
#include "memory/guest_memory.h"
#include "virtio/abi.h"
#include "virtio/completion.h"
#include "virtio/device.h"
#include "virtio/queue.h"

namespace embervm::virtio {

class MmioTransport final : private DeviceHost {
 public:
  // Called on the device thread when a device was stopped because of its driver.
  using FailureHandler = std::function<void(const Device& device, const Error& error)>;

  // An empty slot: device id 0, which drivers skip. `page` is 4 KiB of zeros, page aligned,
  // and outlives the transport.
  static Result<std::unique_ptr<MmioTransport>> Create(EventLoop& loop, const GuestMemory& memory,
                                                       FailureHandler on_failure,
                                                       std::span<std::byte> page);
  MmioTransport(const MmioTransport&) = delete;
  MmioTransport& operator=(const MmioTransport&) = delete;
  ~MmioTransport();

  // Makes room for a device with so many queues: Attach() does it, too, but whoever wires
  // the descriptors can do so before a driver sees the device. Loop thread.
  Result<> ReserveQueues(std::size_t count);
  // Puts a device, which must outlive the transport, into an empty slot, while vCPUs run or
  // not. Loop thread, or before the loop runs.
  Result<> Attach(Device& device);
  // Empties the slot again; afterwards nobody touches the device. ERR_DEVICE_IN_USE while
  // the guest has a driver on it. Loop thread.
  Result<> Detach();
  // The device's config() has changed: shows it to the driver, now or when it comes. Loop thread.
  void RefreshConfig();

  // Any thread. `offset` is relative to the page. A write of the status register
  // returns when the device thread has activated or reset the device.
  void Read(std::uint64_t offset, std::span<std::byte> data);
  void Write(std::uint64_t offset, std::span<const std::byte> data);

  // Device thread, while no vCPU runs: the driver's set-up, the registers, and where
  // the device is in its queues. What the rings hold is in guest memory. The device
  // itself keeps nothing (see Device::BeforeSave() and AfterRestore()).
  void Save(StateWriter& writer);
  // Before any vCPU runs, on a slot with the device of the saved one's type, after
  // guest memory and the interrupt controllers were restored. Interrupts and
  // notifications that were on their way are raised again.
  Result<> Restore(StateReader& reader);

  // Any thread. Releases vCPU threads that wait for the device thread, now and from
  // now on: call it when the loop is stopped before the vCPU threads have ended.
  void ReleaseWaiters();

  // One per queue, valid from ReserveQueues() on; the machine binds each to a write of the
  // queue's index to kRegQueueNotify.
  [[nodiscard]] std::size_t queue_count() const { return notify_fds_.size(); }
  [[nodiscard]] int notify_fd(std::size_t queue) const { return notify_fds_.at(queue).get(); }
  // The machine binds it to the slot's interrupt line (edge).
  [[nodiscard]] int irq_fd() const { return irq_fd_.get(); }
  // What the guest reads once the machine has mapped it.
  [[nodiscard]] std::span<std::byte> register_page() const { return page_; }
  // Any thread.
  [[nodiscard]] std::uint64_t interrupts() const {
    return interrupts_.load(std::memory_order_relaxed);
  }
  // Writes to the configuration space, which no device of ours accepts.
  [[nodiscard]] std::uint64_t ignored_config_writes() const {
    return ignored_config_writes_.load(std::memory_order_relaxed);
  }

 private:
  // What the driver set up. Guarded by state_mutex_.
  struct DriverState {
    std::uint32_t device_features_sel = 0;
    std::uint32_t driver_features_sel = 0;
    std::uint32_t queue_sel = 0;
    std::uint64_t driver_features = 0;
    std::vector<QueueConfig> queues;
  };

  MmioTransport(EventLoop& loop, const GuestMemory& memory, FailureHandler on_failure,
                std::span<std::byte> page, UniqueFd irq_fd);

  // DeviceHost, device thread.
  void SignalQueues() override;
  void PublishConfig(std::span<const std::byte> config) override;
  void ShowConfig(std::span<const std::byte> config) override;
  void Kick(std::uint16_t queue) override;
  void Fail(Error error) override;

  // What a register write leaves for the device thread to do.
  enum class Request : std::uint8_t { kNone, kActivate, kDeactivate, kReset };

  // vCPU threads, with turn_mutex_ held.
  Request WriteRegister(std::uint64_t offset, std::uint32_t value);
  void FinishWrite(Request request);
  // Runs `task` on the device thread and waits for it.
  void RunOnDeviceThread(EventLoop::Task task);

  // With state_mutex_ held, and a device in the slot.
  void WriteDriverFeatures(std::uint32_t value);
  void WriteQueueRegister(std::uint64_t offset, std::uint32_t value);
  Request WriteStatus(std::uint32_t value);
  void ResetRegisters(const Device& device);
  void RefreshSelected(const Device& device);

  // Device thread.
  void ActivateDevice();
  // `positions` is empty for a driver that just came.
  Result<> TryActivate(std::span<const QueueConfig> configs, std::uint64_t features,
                       std::span<const QueuePosition> positions);
  void DeactivateDevice();
  void OnNotify(std::uint16_t queue);
  void Signal(std::uint32_t cause);
  void RaiseLine() const;

  static std::uint64_t OfferedFeatures(const Device& device);
  // One 32-bit register in the page. The guest may read it at any moment.
  [[nodiscard]] std::atomic_ref<std::uint32_t> Word(std::uint64_t offset) const;
  [[nodiscard]] std::uint32_t Status() const;

  EventLoop& loop_;
  const GuestMemory& memory_;
  FailureHandler on_failure_;
  std::span<std::byte> page_;
  UniqueFd irq_fd_;

  // Register writes of vCPU threads, one at a time: held while one waits for the device
  // thread, which therefore never takes it.
  std::mutex turn_mutex_;

  // Held for the moment of an access, never while waiting. Guards driver_, and against
  // Attach() and Detach() device_ and notify_fds_, which only the device thread changes.
  std::mutex state_mutex_;
  DriverState driver_;
  // Null in an empty slot.
  Device* device_ = nullptr;
  // They stay when the device goes: the next one takes them over.
  std::vector<UniqueFd> notify_fds_;

  // Guards the configuration bytes of the page. Held for a copy only.
  std::mutex config_mutex_;

  // Guards current_wait_ and released_.
  std::mutex wait_mutex_;
  std::optional<Completion> current_wait_;
  bool released_ = false;

  std::atomic<std::uint64_t> interrupts_ = 0;
  std::atomic<std::uint64_t> ignored_config_writes_ = 0;

  // Device thread only.
  std::vector<Queue> queues_;
  std::optional<DeviceContext> context_;  // Set while the device is active.
  bool failed_ = false;
  std::uint64_t activation_ = 0;
};

}  // namespace embervm::virtio

#endif  // EMBERVM_VIRTIO_MMIO_TRANSPORT_H_
