// virtio-vsock (virtio 1.2 §5.10) without vhost: this file moves packets between the
// rings and the VsockMuxer, which knows connections.
#ifndef EMBERVM_DEVICES_VSOCK_DEVICE_H_
#define EMBERVM_DEVICES_VSOCK_DEVICE_H_

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/event_loop.h"
#include "base/result.h"
#include "devices/vsock/muxer.h"
#include "virtio/device.h"

namespace embervm::devices {

class VsockDevice final : public virtio::Device {
 public:
  // `loop` must outlive the device.
  VsockDevice(EventLoop& loop, const VsockMuxer::Options& options);

  // Loop thread: Connect(), Listen(), Unlisten().
  [[nodiscard]] VsockMuxer& muxer() { return muxer_; }
  // Any thread.
  [[nodiscard]] VsockMuxer::Counters counters() const { return muxer_.counters(); }

  [[nodiscard]] std::uint32_t type() const override;
  [[nodiscard]] std::string_view name() const override { return "vsock"; }
  [[nodiscard]] std::uint64_t features() const override { return 0; }
  [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override;
  [[nodiscard]] std::span<const std::byte> config() const override { return config_; }
  Result<> Activate(const virtio::DeviceContext& context) override;
  void Notify(std::uint16_t queue) override;
  void Reset() override;
  // Tells the driver that its streams are gone (virtio 1.2 §5.10.6.6).
  void AfterRestore() override;

 private:
  [[nodiscard]] Result<> DrainTransmitQueue();
  [[nodiscard]] Result<> FillReceiveQueue();
  // Pops as many receive buffers into buffers_ as so much payload takes, at least one;
  // none when there is none.
  [[nodiscard]] Result<> GatherBuffers(std::uint32_t payload);
  void ReceivePacket(const virtio::Chain& chain);
  // Moves packets both ways as asked, then shows the driver all that is used: one
  // interrupt.
  void Service(bool drain_transmit);

  std::array<std::byte, sizeof(std::uint64_t)> config_{};
  VsockMuxer muxer_;
  const virtio::DeviceContext* context_ = nullptr;
  // Of FillReceiveQueue(), kept for its memory.
  std::vector<virtio::Chain> buffers_;
  // A handler of the muxer may ask for output while packets are being moved.
  bool servicing_ = false;
  // Set while the driver has not handled the event of a transport reset, to the event
  // queue's index when it was sent: a stream that is opened before it has would fall to
  // that event, too, so nothing is sent to the guest until then.
  std::optional<std::uint16_t> unhandled_reset_;
};

}  // namespace embervm::devices

#endif  // EMBERVM_DEVICES_VSOCK_DEVICE_H_
