// DeviceSet: the virtio devices of one machine, each in a virtio-mmio slot of
// its own, wired to the VM: one ioeventfd per queue, one irqfd per slot.
#ifndef EMBERVM_MACHINE_DEVICE_SET_H_
#define EMBERVM_MACHINE_DEVICE_SET_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "arch/x86_64/layout.h"
#include "base/event_loop.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "devices/balloon/device.h"
#include "devices/block/device.h"
#include "devices/console/ring.h"
#include "devices/fs/device.h"
#include "devices/mem/device.h"
#include "devices/vsock/device.h"
#include "kvm/vm.h"
#include "machine/completion.h"
#include "machine/config.h"
#include "machine/stats.h"
#include "memory/guest_memory.h"
#include "virtio/device.h"
#include "virtio/mmio_transport.h"

namespace embervm::machine {

class DeviceSet {
 public:
  using FailureHandler = std::function<void(std::string device, std::string message)>;
  using StreamHandler = std::function<void(std::uint32_t guest_port, UniqueFd stream)>;

  static constexpr std::size_t kMaxSlots = layout::kIoApicPins - layout::kFirstDeviceIrq;
  static constexpr std::size_t kRegisterBytes = kMaxSlots * layout::kMmioDeviceSize;

  // Drives come first, in their order: the guest names them vda, vdb, …. Hotplug slots
  // come last, with what the configuration has in them. The references outlive the set, and
  // `register_pages` outlives the VM: kRegisterBytes of zeros, page aligned.
  static Result<std::unique_ptr<DeviceSet>> Create(const MachineConfig& config, KvmVm& vm,
                                                   const GuestMemory& memory, EventLoop& loop,
                                                   devices::ConsoleRing& console,
                                                   std::span<std::byte> register_pages,
                                                   const FailureHandler& on_failure);
  DeviceSet(const DeviceSet&) = delete;
  DeviceSet& operator=(const DeviceSet&) = delete;
  ~DeviceSet();

  // " virtio_mmio.device=4K@0x…:irq" for every slot.
  [[nodiscard]] std::string GuestCommandLine() const;

  // vCPU threads. An address without a register reads as all ones.
  void Read(GuestAddr addr, std::span<std::byte> data) const;
  void Write(GuestAddr addr, std::span<const std::byte> data) const;

  // Lets the guest read registers without an exit. Any thread, once: KVM needs milliseconds
  // for it, in which everything else goes on.
  Result<> MapRegisters();

  // Device thread.
  void ConnectVsock(std::uint32_t port, Completion<UniqueFd> done);
  void ListenVsock(std::uint32_t port, StreamHandler on_stream);
  void UnlistenVsock(std::uint32_t port);
  // Puts a device into a hotplug slot that is empty, and takes it out again; the guest runs
  // or not. ERR_DEVICE_IN_USE while the guest has a driver on it.
  Result<PluggedDevice> AttachDrive(const PluggedDrive& plugged);
  Result<PluggedDevice> AttachSharedDir(const PluggedDirectory& plugged);
  Result<> Detach(std::uint32_t hotplug_slot);
  // Changes what is behind a drive, and tells the guest; its size then. ERR_DEVICE_NOT_FOUND.
  Result<std::uint64_t> ChangeDrive(const std::string& id,
                                    const std::function<Result<>(devices::BlockDevice&)>& change);
  // How many pages the balloon should have. ERR_UNSUPPORTED without one, as the next.
  Result<> SetBalloon(std::uint32_t target_pages);
  void RequestBalloonStatistics(Completion<devices::BalloonStatistics> done);
  // How much of the pluggable memory, of which there is some, the guest should have, in bytes;
  // see MemDevice::Resize().
  void ResizeMemory(std::uint64_t bytes, std::chrono::milliseconds patience,
                    Completion<std::uint64_t> done);
  // What it has of it, by its place in the region.
  [[nodiscard]] std::vector<GuestMemory::Extent> PluggedMemory() const;
  // While no vCPU runs: what is in flight is brought to its end, then one state per
  // slot is taken. Restore() takes the same number of them, of the same devices.
  Result<std::vector<std::vector<std::byte>>> Save();
  Result<> Restore(std::span<const std::vector<std::byte>> states);
  // In the order of the drives in the configuration, then of those in slots.
  [[nodiscard]] std::vector<std::uint64_t> DriveSizes() const;
  // Nothing where there is none.
  [[nodiscard]] std::optional<devices::BalloonDevice::Counters> Balloon() const;
  [[nodiscard]] std::optional<devices::MemDevice::Counters> PluggableMemory() const;
  // The guest is gone: every stream sees its end.
  void CloseStreams();

  // Any thread.
  void AddStats(MachineStats& stats) const;

 private:
  struct Slot {
    // Null in an empty one. Device thread only.
    std::unique_ptr<virtio::Device> device;
    std::unique_ptr<virtio::MmioTransport> transport;
    // What KVM knows of it, which stays for the next device.
    bool irq_wired = false;
    std::size_t wired_queues = 0;
  };

  DeviceSet(KvmVm& vm, const GuestMemory& memory, EventLoop& loop,
            std::span<std::byte> register_pages, FailureHandler on_failure);
  Result<> Add(std::unique_ptr<virtio::Device> device);
  Result<> AddEmptySlot();
  // A hotplug slot without a device. ERR_NO_FREE_SLOT.
  Result<std::size_t> FindEmptySlot(std::uint32_t hotplug_slot) const;
  Result<PluggedDevice> Plug(std::size_t index, std::unique_ptr<virtio::Device> device);
  // Connects the slot's interrupt and so many of its queues to the VM.
  Result<> Wire(std::size_t index, std::size_t queues);
  [[nodiscard]] virtio::MmioTransport* Find(GuestAddr addr) const;

  KvmVm& vm_;
  const GuestMemory& memory_;
  // Where KVM puts the acknowledgements of queues' interrupts, of all slots.
  UniqueFd acknowledged_;
  EventLoop& loop_;
  // One of each slot, in their order.
  const std::span<std::byte> register_pages_;
  const FailureHandler on_failure_;
  // None is added or removed once vCPUs run.
  std::vector<Slot> slots_;
  std::size_t first_hotplug_slot_ = 0;
  // Into slots_; null without vsock.
  devices::VsockDevice* vsock_ = nullptr;
  // The same, and its slot.
  devices::BalloonDevice* balloon_ = nullptr;
  std::size_t balloon_slot_ = 0;
  devices::MemDevice* mem_ = nullptr;
  std::size_t mem_slot_ = 0;
  struct Drive {
    std::string id;
    devices::BlockDevice* device;
  };
  // Guards the two below against AddStats() of other threads; only the device thread
  // changes them.
  mutable std::mutex counted_mutex_;
  std::vector<Drive> drives_;
  // By their tags.
  std::vector<std::pair<std::string, const devices::FsDevice*>> shared_dirs_;
};

}  // namespace embervm::machine

#endif  // EMBERVM_MACHINE_DEVICE_SET_H_
