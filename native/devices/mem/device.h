// virtio-mem (virtio 1.2 §5.15): memory that the guest gets beyond what it booted with, and gives
// back, by blocks of a region that the device names. The host says how much it should have; the
// driver chooses the blocks, and asks for each before it uses it.
//
// The whole region is memory of the guest as far as KVM and the other devices go. A guest that
// writes to blocks which it has not plugged gets no error, and no more than the region: what it
// puts there is saved by nobody and gone with the next request for the block. Taking the pages out
// of this process's reach instead would let a guest choose when one of our threads faults.
#ifndef EMBERVM_DEVICES_MEM_DEVICE_H_
#define EMBERVM_DEVICES_MEM_DEVICE_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <vector>

#include "base/event_loop.h"
#include "base/result.h"
#include "devices/mem/block_map.h"
#include "devices/mem/protocol.h"
#include "memory/guest_memory.h"
#include "virtio/device.h"

namespace embervm::devices {

struct MemOptions {
  // The region in guest memory: whole blocks.
  GuestAddr base = 0;
  std::uint64_t region_bytes = 0;
  // A power of two, a page or more.
  std::uint64_t block_bytes = mem::kBlockBytes;
  // How much of it the guest should have, and what it has, which has passed mem::IsBlockList().
  std::uint64_t requested_bytes = 0;
  std::vector<GuestMemory::Extent> plugged;
};

class MemDevice final : public virtio::Device {
 public:
  using ResizeHandler = std::move_only_function<void(Result<std::uint64_t>)>;

  struct Counters {
    std::uint64_t requested_bytes = 0;
    std::uint64_t plugged_bytes = 0;
  };

  explicit MemDevice(const MemOptions& options);

  // Device thread. How much the guest should have: whole blocks, in the region. The transport has
  // to show the new config() to the driver. `done` gets what the guest has when it has that, or
  // when it has plugged and unplugged nothing for `patience`, after which it may still do so.
  // Whoever waits while the next comes gets the same answer. ERR_GUEST_NO_DRIVER, also for all
  // who wait when the driver goes.
  void Resize(std::uint64_t bytes, std::chrono::milliseconds patience, ResizeHandler done);
  // What the guest has, by its place in the region.
  [[nodiscard]] std::vector<GuestMemory::Extent> Plugged() const { return blocks_.Extents(); }

  // Any thread.
  [[nodiscard]] Counters counters() const;

  [[nodiscard]] std::uint32_t type() const override;
  [[nodiscard]] std::string_view name() const override { return "mem"; }
  [[nodiscard]] std::uint64_t features() const override;
  [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override;
  [[nodiscard]] std::span<const std::byte> config() const override;
  Result<> Activate(const virtio::DeviceContext& context) override;
  void Notify(std::uint16_t queue) override;
  void Reset() override;

 private:
  [[nodiscard]] mem::Response Serve(const mem::Request& request);
  mem::ResponseType Plug(std::uint64_t first, std::uint64_t count);
  mem::ResponseType Unplug(std::uint64_t first, std::uint64_t count);
  void UnplugAll();
  // Gives the blocks' memory back to the host.
  void Discard(std::uint64_t first, std::uint64_t count) const;
  // The map has changed: config() and the counters follow.
  void Changed();
  void WaitOn();
  void AnswerAll();

  mem::BlockMap blocks_;
  mem::Config config_;
  const virtio::DeviceContext* context_ = nullptr;
  std::vector<ResizeHandler> waiting_;
  std::chrono::milliseconds patience_{};
  // 0: nobody waits.
  EventLoop::TimerId timer_ = 0;

  std::atomic<std::uint64_t> requested_bytes_;
  std::atomic<std::uint64_t> plugged_bytes_;
};

}  // namespace embervm::devices

#endif  // EMBERVM_DEVICES_MEM_DEVICE_H_
