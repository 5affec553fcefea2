// virtio-rng (virtio 1.2 §5.4): bytes of the host's getrandom(2) straight into the
// guest's buffers, at most 64 KiB per request.
#ifndef EMBERVM_DEVICES_RNG_DEVICE_H_
#define EMBERVM_DEVICES_RNG_DEVICE_H_

#include "virtio/device.h"

namespace embervm::devices {

class RngDevice final : public virtio::Device {
 public:
  static constexpr std::uint32_t kMaxRequestBytes = 64 * 1024;

  [[nodiscard]] std::uint32_t type() const override;
  [[nodiscard]] std::string_view name() const override { return "rng"; }
  [[nodiscard]] std::uint64_t features() const override { return 0; }
  [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override;
  [[nodiscard]] std::span<const std::byte> config() const override { return {}; }
  Result<> Activate(const virtio::DeviceContext& context) override;
  void Notify(std::uint16_t queue) override;
  void Reset() override { context_ = nullptr; }

 private:
  const virtio::DeviceContext* context_ = nullptr;
};

}  // namespace embervm::devices

#endif  // EMBERVM_DEVICES_RNG_DEVICE_H_
