// Device: what a virtio device implements, and what the transport gives it. After the
// constructor, every call below comes from the machine's device thread. A device may give
// its queues to a thread of its own between Activate() and Reset(), which then calls
// SignalQueues() and Kick() too.
#ifndef EMBERVM_VIRTIO_DEVICE_H_
#define EMBERVM_VIRTIO_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/event_loop.h"
#include "base/result.h"
#include "memory/guest_memory.h"
#include "virtio/queue.h"

namespace embervm::virtio {

// The transport as an active device sees it.
class DeviceHost {
 public:
  // Raises the interrupt for used buffers: once per batch, and only when
  // Queue::PublishUsed() asked for it. Any thread.
  virtual void SignalQueues() = 0;
  // Replaces the bytes that the driver reads from the configuration space, bumps their
  // generation and raises the configuration interrupt.
  virtual void PublishConfig(std::span<const std::byte> config) = 0;
  // The same without the interrupt: for what has changed because the driver asked for it.
  virtual void ShowConfig(std::span<const std::byte> config) = 0;
  // Calls Notify(queue) again on a later turn of the loop: for a device that used up
  // its budget and lets others run. Any thread.
  virtual void Kick(std::uint16_t queue) = 0;
  // The driver broke the protocol beyond repair: sets DEVICE_NEEDS_RESET, tells the
  // machine, and calls Reset() on a later turn. No Notify() follows.
  virtual void Fail(Error error) = 0;

 protected:
  ~DeviceHost() = default;
};

struct DeviceContext {
  const GuestMemory& memory;
  EventLoop& loop;
  DeviceHost& host;
  std::span<Queue> queues;
  // Negotiated with the driver.
  std::uint64_t features;
};

class Device {
 public:
  Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  virtual ~Device() = default;

  // Constant for the life of the device; also read by the thread that builds the machine.
  [[nodiscard]] virtual std::uint32_t type() const = 0;
  // For messages and events: "block rootfs".
  [[nodiscard]] virtual std::string_view name() const = 0;
  // The device's own feature bits; the transport adds kRingFeatures.
  [[nodiscard]] virtual std::uint64_t features() const = 0;
  // The maximum size of each queue.
  [[nodiscard]] virtual std::span<const std::uint16_t> queue_sizes() const = 0;
  // How many of them, from the first on, a driver has to set up that negotiated `features`.
  [[nodiscard]] virtual std::size_t QueuesFor(std::uint64_t /*features*/) const {
    return queue_sizes().size();
  }
  // The configuration space as the driver finds it first.
  [[nodiscard]] virtual std::span<const std::byte> config() const = 0;

  // DRIVER_OK, all queues valid. `context` stays valid until Reset(). On an error the
  // device is as before the call.
  virtual Result<> Activate(const DeviceContext& context) = 0;
  // The driver made buffers available, or Kick() was called. Spurious calls happen.
  virtual void Notify(std::uint16_t queue) = 0;
  // Forgets the driver and drops work in flight; the context dies after this call.
  virtual void Reset() = 0;

  // The guest is paused and will be saved with all that the rings hold: when this
  // returns, nothing is in flight and what the device keeps elsewhere is as the guest
  // believes it to be.
  virtual Result<> BeforeSave() { return {}; }
  // The guest was continued from a snapshot, with this device in the place of the one
  // that it had; Activate() came before, where it had a driver. No vCPU runs yet.
  virtual void AfterRestore() {}
};

}  // namespace embervm::virtio

#endif  // EMBERVM_VIRTIO_DEVICE_H_
