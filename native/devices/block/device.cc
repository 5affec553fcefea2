#include "devices/block/device.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <utility>

#include "base/clock.h"
#include "devices/block/limits.h"
#include "devices/block/qcow2_disk.h"
#include "devices/block/raw_disk.h"
#include "devices/block/vmdk_disk.h"
#include "virtio/abi.h"
#include "virtio/service_queue.h"

namespace embervm::devices {

namespace {

constexpr std::uint16_t kQueue = 0;
constexpr std::array<std::uint16_t, 1> kQueueSizes{block::kQueueSize};
// Up to 16 MiB.
constexpr unsigned kBudgetPerTurn = 256;
// The driver goes on with these while the device is at the rest of a deep queue.
constexpr unsigned kPublishEvery = 16;

Result<std::unique_ptr<Disk>> OpenDisk(BlockFormat format, const std::string& path, bool read_only,
                                       BlockCache cache) {
  const bool direct = cache == BlockCache::kDirect;
  switch (format) {
    case BlockFormat::kQcow2:
      return Qcow2Disk::Open(path, read_only, direct);
    case BlockFormat::kVmdk:
      return VmdkDisk::Open(path, read_only, direct);
    case BlockFormat::kRaw:
      break;
  }
  return RawDisk::Open(path, read_only, direct);
}

// Only the device's thread writes, so no other addition can be lost, and no bus lock is needed.
void Add(std::atomic<std::uint64_t>& counter, std::uint64_t value) {
  counter.store(counter.load(std::memory_order_relaxed) + value, std::memory_order_relaxed);
}

}  // namespace

Result<std::unique_ptr<BlockDevice>> BlockDevice::Open(const BlockOptions& options) {
  EMBERVM_TRY_ASSIGN(std::unique_ptr<Disk> disk,
                     OpenDisk(options.format, options.path, options.read_only, options.cache));
  return Over(std::move(disk), options);
}

Result<std::unique_ptr<BlockDevice>> BlockDevice::Over(std::unique_ptr<Disk> disk,
                                                       const BlockOptions& options) {
  if (options.id.size() > block::kIdBytes) {
    return std::unexpected(
        Error("ERR_DRIVE_INVALID", "drive id " + options.id + " is longer than 20 bytes")
            .With("id", options.id));
  }
  return std::unique_ptr<BlockDevice>(new BlockDevice(std::move(disk), options));
}

BlockDevice::BlockDevice(std::unique_ptr<Disk> disk, const BlockOptions& options)
    : disk_(std::move(disk)),
      name_("block " + options.id),
      format_(options.format),
      cache_(options.cache),
      bytes_(options.bytes, MonotonicNs()),
      operations_(options.operations, MonotonicNs()),
      workers_(disk_->concurrency()) {
  std::ranges::copy(std::as_bytes(std::span(options.id)), id_.begin());
  config_.capacity = disk_->size() / block::kSectorSize;
  config_.seg_max = block::kMaxSegments;
  config_.blk_size = block::kSectorSize;
  config_.num_queues = 1;
  if (!disk_->read_only()) {
    config_.max_discard_sectors = block::kMaxDiscardSectors;
    config_.max_discard_seg = block::kMaxDiscardSegments;
    config_.discard_sector_alignment = block::kDiscardAlignmentSectors;
    config_.max_write_zeroes_sectors = block::kMaxWriteZeroesSectors;
    config_.max_write_zeroes_seg = block::kMaxWriteZeroesSegments;
    config_.write_zeroes_may_unmap = 1;
  }
}

std::uint32_t BlockDevice::type() const { return virtio::kDeviceIdBlock; }

std::uint64_t BlockDevice::features() const {
  const std::uint64_t common = block::kFeatureSegMax | block::kFeatureBlockSize;
  if (disk_->read_only()) return common | block::kFeatureReadOnly;
  const std::uint64_t writable = common | block::kFeatureDiscard | block::kFeatureWriteZeroes;
  return cache_ == BlockCache::kWritethrough ? writable : writable | block::kFeatureFlush;
}

std::span<const std::uint16_t> BlockDevice::queue_sizes() const { return kQueueSizes; }

std::span<const std::byte> BlockDevice::config() const {
  return std::as_bytes(std::span<const block::Config, 1>(&config_, 1));
}

Result<> BlockDevice::Activate(const virtio::DeviceContext& context) {
  context_ = &context;
  return {};
}

void BlockDevice::Reset() {
  if (timer_) context_->loop.CancelTimer(*timer_);
  timer_.reset();
  workers_.Drain();
  finished_.clear();
  context_ = nullptr;
}

Result<> BlockDevice::Swap(const std::string& path) {
  // Nobody asks for a flush of it later.
  EMBERVM_TRY(BeforeSave());
  EMBERVM_TRY_ASSIGN(disk_, OpenDisk(format_, path, disk_->read_only(), cache_));
  config_.capacity = disk_->size() / block::kSectorSize;
  return {};
}

Result<> BlockDevice::RefreshSize() {
  workers_.Drain();
  EMBERVM_TRY(disk_->RefreshSize());
  config_.capacity = disk_->size() / block::kSectorSize;
  return {};
}

std::int64_t BlockDevice::Charge(const BlockRequest& request) {
  if (bytes_.unlimited() && operations_.unlimited()) return 0;
  const std::int64_t now = MonotonicNs();
  const std::int64_t wait = std::max(bytes_.WaitNs(now), operations_.WaitNs(now));
  if (wait > 0) return wait;
  bytes_.Take(request.DataBytes(), now);
  operations_.Take(1, now);
  return 0;
}

void BlockDevice::Notify(std::uint16_t queue) {
  if (context_ == nullptr) return;
  TakeFinished();
  // While a request waits, so does all behind it.
  if (timer_) return;
  // virtio 1.2 §5.2.6.2: a driver that cannot ask for a flush must not need one.
  const bool durable = (context_->features & block::kFeatureFlush) == 0;
  virtio::ServiceQueue(
      *context_, queue, kBudgetPerTurn,
      [this, queue, durable](virtio::Chain& chain) {
        BlockRequest request(chain);
        if (const std::int64_t wait = Charge(request); wait > 0) {
          timer_ = context_->loop.AddTimer(std::chrono::nanoseconds(wait), [this, queue] {
            timer_.reset();
            context_->host.Kick(queue);
          });
          return virtio::Outcome::Stays();
        }
        if (const auto result = request.ExecuteAtHand(*disk_, id_, durable)) {
          Count(*result);
          return virtio::Outcome::Used(result->used_length);
        }
        Hand(chain.head(), std::move(request), durable);
        return virtio::Outcome::Taken();
      },
      kPublishEvery);
}

void BlockDevice::Hand(std::uint16_t head, BlockRequest request, bool durable) {
  // The disk, the queue and the guest's memory stay: whoever takes one away drains the workers
  // before.
  workers_.Add(
      [this, &host = context_->host, head, request = std::move(request), durable]() mutable {
        const Finished finished{.head = head, .result = request.Execute(*disk_, id_, durable)};
        bool first = false;
        {
          const std::scoped_lock lock(mutex_);
          first = finished_.empty();
          finished_.push_back(finished);
        }
        if (first) host.Kick(kQueue);
      });
}

void BlockDevice::TakeFinished() {
  std::vector<Finished> finished;
  {
    const std::scoped_lock lock(mutex_);
    finished.swap(finished_);
  }
  if (finished.empty()) return;
  virtio::Queue& queue = context_->queues[kQueue];
  for (const Finished& one : finished) {
    Count(one.result);
    queue.AddUsed(one.head, one.result.used_length);
  }
  if (queue.PublishUsed()) context_->host.SignalQueues();
}

Result<> BlockDevice::BeforeSave() {
  workers_.Drain();
  if (context_ != nullptr) TakeFinished();
  if (disk_->read_only() || disk_->Flush()) return {};
  return std::unexpected(
      Error("ERR_DRIVE_ACCESS", "the drive's file could not be written out").With("device", name_));
}

void BlockDevice::Count(const BlockResult& result) {
  if (result.status != block::Status::kOk) {
    Add(counters_.errors, 1);
    return;
  }
  switch (result.type) {
    case block::kTypeIn:
      Add(counters_.reads, 1);
      Add(counters_.read_bytes, result.transferred);
      return;
    case block::kTypeOut:
      Add(counters_.writes, 1);
      Add(counters_.written_bytes, result.transferred);
      return;
    case block::kTypeFlush:
      Add(counters_.flushes, 1);
      return;
    default:
      return;
  }
}

BlockDevice::Counters BlockDevice::counters() const {
  const auto load = [](const std::atomic<std::uint64_t>& counter) {
    return counter.load(std::memory_order_relaxed);
  };
  return {.read_bytes = load(counters_.read_bytes),
          .written_bytes = load(counters_.written_bytes),
          .reads = load(counters_.reads),
          .writes = load(counters_.writes),
          .flushes = load(counters_.flushes),
          .errors = load(counters_.errors)};
}

}  // namespace embervm::devices
