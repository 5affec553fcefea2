// virtio-balloon (virtio 1.2 §5.5): takes pages from the guest when the host wants some back
// (inflate), gives them again (deflate), is told which pages the guest has no use for at the
// moment (free page reporting), and asks for the guest's own statistics.
#ifndef EMBERVM_DEVICES_BALLOON_DEVICE_H_
#define EMBERVM_DEVICES_BALLOON_DEVICE_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "base/result.h"
#include "devices/balloon/protocol.h"
#include "virtio/device.h"

namespace embervm::devices {

// What the guest says of its memory; absent: it did not say.
struct BalloonStatistics {
  std::optional<std::uint64_t> swapped_in_bytes;
  std::optional<std::uint64_t> swapped_out_bytes;
  std::optional<std::uint64_t> major_faults;
  std::optional<std::uint64_t> minor_faults;
  std::optional<std::uint64_t> free_bytes;
  std::optional<std::uint64_t> total_bytes;
  // What programs could get without swapping.
  std::optional<std::uint64_t> available_bytes;
  std::optional<std::uint64_t> cache_bytes;
};

class BalloonDevice final : public virtio::Device {
 public:
  using StatisticsHandler = std::move_only_function<void(Result<BalloonStatistics>)>;

  struct Counters {
    std::uint32_t target_pages = 0;
    // As the guest told it, page by page; at most all of RAM.
    std::uint32_t actual_pages = 0;
    // Given back to the host so far because the guest reported them free.
    std::uint64_t reported_bytes = 0;
  };

  // Numbers of 4 KiB pages: how many the balloon should have, and how many it has in the guest
  // that goes on with this device.
  BalloonDevice(std::uint32_t target_pages, std::uint32_t actual_pages);

  // Device thread. The transport has to show the new config() to the driver.
  void SetTarget(std::uint32_t pages);
  // Asks the guest. Several who ask before it has answered get the same answer.
  // ERR_GUEST_NO_DRIVER while the guest has no driver for the device, or one without statistics.
  void RequestStatistics(StatisticsHandler handler);

  // Any thread.
  [[nodiscard]] Counters counters() const;

  [[nodiscard]] std::uint32_t type() const override;
  [[nodiscard]] std::string_view name() const override { return "balloon"; }
  [[nodiscard]] std::uint64_t features() const override;
  [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override;
  [[nodiscard]] std::size_t QueuesFor(std::uint64_t features) const override;
  [[nodiscard]] std::span<const std::byte> config() const override;
  Result<> Activate(const virtio::DeviceContext& context) override;
  void Notify(std::uint16_t queue) override;
  void Reset() override;
  Result<> BeforeSave() override;
  void AfterRestore() override;

 private:
  void Inflate();
  void Deflate();
  void Report();
  void TakeStatistics();
  void ReturnStatisticsBuffer();

  balloon::Config config_;
  const virtio::DeviceContext* context_ = nullptr;
  // Absent: the driver did not take the feature.
  std::optional<std::uint16_t> statistics_queue_;
  std::optional<std::uint16_t> reporting_queue_;
  // The head of the buffer that the driver fills again when it gets it back.
  std::optional<std::uint16_t> statistics_buffer_;
  // The next buffer was filled before the guest was saved: nobody's answer.
  bool stale_ = false;
  std::vector<StatisticsHandler> waiting_;

  std::atomic<std::uint32_t> target_pages_;
  std::atomic<std::uint32_t> actual_pages_;
  std::atomic<std::uint64_t> reported_bytes_ = 0;
};

}  // namespace embervm::devices

#endif  // EMBERVM_DEVICES_BALLOON_DEVICE_H_
