// virtio-console with one port (virtio 1.2 §5.3): hvc0. Output goes to the ConsoleRing
// in bulk; there is no input, its buffers just wait.
#ifndef EMBERVM_DEVICES_CONSOLE_DEVICE_H_
#define EMBERVM_DEVICES_CONSOLE_DEVICE_H_

#include "devices/console/ring.h"
#include "virtio/device.h"

namespace embervm::devices {

class ConsoleDevice final : public virtio::Device {
 public:
  // `ring` must outlive the device.
  explicit ConsoleDevice(ConsoleRing& ring) : ring_(ring) {}

  [[nodiscard]] std::uint32_t type() const override;
  [[nodiscard]] std::string_view name() const override { return "console"; }
  [[nodiscard]] std::uint64_t features() const override { return 0; }
  [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override;
  [[nodiscard]] std::span<const std::byte> config() const override { return {}; }
  Result<> Activate(const virtio::DeviceContext& context) override;
  void Notify(std::uint16_t queue) override;
  void Reset() override { context_ = nullptr; }

 private:
  ConsoleRing& ring_;
  const virtio::DeviceContext* context_ = nullptr;
};

}  // namespace embervm::devices

#endif  // EMBERVM_DEVICES_CONSOLE_DEVICE_H_
