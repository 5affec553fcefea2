// virtio-blk (virtio 1.2 §5.2) over a raw file or host block device.
#ifndef EMBERVM_DEVICES_BLOCK_DEVICE_H_
#define EMBERVM_DEVICES_BLOCK_DEVICE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"
#include "devices/block/disk.h"
#include "devices/block/protocol.h"
#include "devices/block/request.h"
#include "virtio/device.h"

namespace embervm::devices {

class BlockDevice final : public virtio::Device {
 public:
  struct Counters {
    std::uint64_t read_bytes = 0;
    std::uint64_t written_bytes = 0;
    std::uint64_t reads = 0;
    std::uint64_t writes = 0;
    std::uint64_t flushes = 0;
    std::uint64_t errors = 0;
  };

  // `id` is what GET_ID answers: at most 20 bytes, else ERR_DRIVE_INVALID. For the other
  // errors see Disk::Open.
  static Result<std::unique_ptr<BlockDevice>> Open(const std::string& path, bool read_only,
                                                   const std::string& id);

  [[nodiscard]] std::uint32_t type() const override;
  [[nodiscard]] std::string_view name() const override { return name_; }
  [[nodiscard]] std::uint64_t features() const override;
  [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override;
  [[nodiscard]] std::span<const std::byte> config() const override;
  Result<> Activate(const virtio::DeviceContext& context) override;
  void Notify(std::uint16_t queue) override;
  void Reset() override { context_ = nullptr; }
  // Requests end before Notify() returns, so only the host's cache is left to write.
  Result<> BeforeSave() override;

  [[nodiscard]] std::uint64_t size() const { return disk_.size(); }

  // Any thread.
  [[nodiscard]] Counters counters() const;

 private:
  BlockDevice(Disk disk, const std::string& id);
  void Count(const BlockResult& result);

  // Written by the device thread, read by any; relaxed, as each counts for itself.
  struct AtomicCounters {
    std::atomic<std::uint64_t> read_bytes = 0;
    std::atomic<std::uint64_t> written_bytes = 0;
    std::atomic<std::uint64_t> reads = 0;
    std::atomic<std::uint64_t> writes = 0;
    std::atomic<std::uint64_t> flushes = 0;
    std::atomic<std::uint64_t> errors = 0;
  };

  const Disk disk_;
  const std::string name_;
  BlockId id_{};
  block::Config config_{};
  AtomicCounters counters_;
  const virtio::DeviceContext* context_ = nullptr;
};

}  // namespace embervm::devices

#endif  // EMBERVM_DEVICES_BLOCK_DEVICE_H_
