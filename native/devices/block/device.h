// virtio-blk (virtio 1.2 §5.2) over a Disk.
#ifndef EMBERVM_DEVICES_BLOCK_DEVICE_H_
#define EMBERVM_DEVICES_BLOCK_DEVICE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/result.h"
#include "base/token_bucket.h"
#include "devices/block/disk.h"
#include "devices/block/options.h"
#include "devices/block/protocol.h"
#include "devices/block/request.h"
#include "devices/block/workers.h"
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

  // ERR_DRIVE_INVALID also for an id that is too long; for the others see RawDisk,
  // Qcow2Disk and VmdkDisk.
  static Result<std::unique_ptr<BlockDevice>> Open(const BlockOptions& options);
  // The same over a disk of any kind: of `options`, `path`, `format` and
  // `read_only` do not count, but for a Swap().
  static Result<std::unique_ptr<BlockDevice>> Over(std::unique_ptr<Disk> disk,
                                                   const BlockOptions& options);

  // Device thread. Both change config(), which the transport has to show to the driver; on an
  // error all is as before.
  // Another file in the place of this one, which has all that the guest wrote, and of
  // the same format. See Open().
  Result<> Swap(const std::string& path);
  // Has the guest see how large the file is now. See Disk::RefreshSize.
  Result<> RefreshSize();

  [[nodiscard]] std::uint32_t type() const override;
  [[nodiscard]] std::string_view name() const override { return name_; }
  [[nodiscard]] std::uint64_t features() const override;
  [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override;
  [[nodiscard]] std::span<const std::byte> config() const override;
  Result<> Activate(const virtio::DeviceContext& context) override;
  void Notify(std::uint16_t queue) override;
  void Reset() override;
  Result<> BeforeSave() override;

  [[nodiscard]] std::uint64_t size() const { return disk_->size(); }

  // Any thread.
  [[nodiscard]] Counters counters() const;

 private:
  BlockDevice(std::unique_ptr<Disk> disk, const BlockOptions& options);
  // How long a request has to wait for the limits; 0 has taken its share.
  std::int64_t Charge(const BlockRequest& request);
  void Count(const BlockResult& result);
  // Gives a request to the workers.
  void Hand(std::uint16_t head, BlockRequest request, bool durable);
  // What the workers did since the last call goes to the used ring.
  void TakeFinished();

  // A request that a worker has done.
  struct Finished {
    std::uint16_t head;
    BlockResult result;
  };

  // Written by the device thread, read by any; relaxed, as each counts for itself.
  struct AtomicCounters {
    std::atomic<std::uint64_t> read_bytes = 0;
    std::atomic<std::uint64_t> written_bytes = 0;
    std::atomic<std::uint64_t> reads = 0;
    std::atomic<std::uint64_t> writes = 0;
    std::atomic<std::uint64_t> flushes = 0;
    std::atomic<std::uint64_t> errors = 0;
  };

  std::unique_ptr<Disk> disk_;
  const std::string name_;
  const BlockFormat format_;
  const BlockCache cache_;
  BlockId id_{};
  block::Config config_{};
  TokenBucket bytes_;
  TokenBucket operations_;
  // Set while a request waits for the limits.
  std::optional<EventLoop::TimerId> timer_;
  AtomicCounters counters_;
  const virtio::DeviceContext* context_ = nullptr;
  std::mutex mutex_;
  std::vector<Finished> finished_;  // Guarded by mutex_.
  // Its threads use all of the above: they end first.
  BlockWorkers workers_;
};

}  // namespace embervm::devices

#endif  // EMBERVM_DEVICES_BLOCK_DEVICE_H_
