#include "devices/balloon/device.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/bytes.h"
#include "memory/reclaim.h"
#include "virtio/abi.h"
#include "virtio/service_queue.h"

namespace embervm::devices {

namespace {

using balloon::kDeflateQueue;
using balloon::kInflateQueue;
using balloon::kStatsQueue;

// Linux sends 256 pages at a time, keeps one buffer of statistics, and reports 32 ranges at once.
constexpr std::array<std::uint16_t, 4> kQueueSizes{64, 64, 8, 64};
// Of pages in one buffer: the rest of a longer one is not looked at.
constexpr std::size_t kMaxPages = 1024;
// Many more statistics than there are tags.
constexpr std::size_t kMaxStatistics = 64;
constexpr unsigned kPagesBudget = 16;
// One chain of reports is up to 64 calls: a few of them, then others have their turn.
constexpr unsigned kReportingBudget = 1024;

std::vector<std::uint32_t> ReadPages(const virtio::Chain& chain) {
  std::vector<std::uint32_t> pages(
      std::min<std::size_t>(chain.readable_bytes() / sizeof(std::uint32_t), kMaxPages));
  virtio::CopyFrom(chain.readable(), 0, std::as_writable_bytes(std::span(pages)));
  return pages;
}

BalloonStatistics ReadStatistics(const virtio::Chain& chain) {
  std::array<std::byte, kMaxStatistics * balloon::kStatBytes> bytes{};
  const std::size_t length = virtio::CopyFrom(chain.readable(), 0, bytes);
  BalloonStatistics statistics;
  for (std::size_t at = 0; at + balloon::kStatBytes <= length; at += balloon::kStatBytes) {
    const std::span<const std::byte> entry = std::span(bytes).subspan(at, balloon::kStatBytes);
    const auto value = LoadLe<std::uint64_t>(entry.subspan(balloon::kStatValueOffset));
    switch (LoadLe<std::uint16_t>(entry)) {
      case balloon::kStatSwapIn:
        statistics.swapped_in_bytes = value;
        break;
      case balloon::kStatSwapOut:
        statistics.swapped_out_bytes = value;
        break;
      case balloon::kStatMajorFaults:
        statistics.major_faults = value;
        break;
      case balloon::kStatMinorFaults:
        statistics.minor_faults = value;
        break;
      case balloon::kStatFree:
        statistics.free_bytes = value;
        break;
      case balloon::kStatTotal:
        statistics.total_bytes = value;
        break;
      case balloon::kStatAvailable:
        statistics.available_bytes = value;
        break;
      case balloon::kStatCaches:
        statistics.cache_bytes = value;
        break;
      default:
        // One of a later version.
        break;
    }
  }
  return statistics;
}

}  // namespace

BalloonDevice::BalloonDevice(std::uint32_t target_pages, std::uint32_t actual_pages)
    : config_{.num_pages = target_pages, .actual = actual_pages},
      target_pages_(target_pages),
      actual_pages_(actual_pages) {}

void BalloonDevice::SetTarget(std::uint32_t pages) {
  config_ = {.num_pages = pages, .actual = actual_pages_.load()};
  target_pages_.store(pages);
}

void BalloonDevice::RequestStatistics(StatisticsHandler handler) {
  if (context_ == nullptr || !statistics_queue_) {
    return handler(std::unexpected(
        Error("ERR_GUEST_NO_DRIVER", "the guest has no driver for its balloon, or not yet")));
  }
  waiting_.push_back(std::move(handler));
  // Without one the driver is at work on it already, or comes with its first.
  if (statistics_buffer_) ReturnStatisticsBuffer();
}

BalloonDevice::Counters BalloonDevice::counters() const {
  return {.target_pages = target_pages_.load(),
          .actual_pages = actual_pages_.load(),
          .reported_bytes = reported_bytes_.load()};
}

std::uint32_t BalloonDevice::type() const { return virtio::kDeviceIdBalloon; }

std::uint64_t BalloonDevice::features() const {
  return balloon::kFeatureStats | balloon::kFeatureDeflateOnOom | balloon::kFeatureReporting;
}

std::span<const std::uint16_t> BalloonDevice::queue_sizes() const { return kQueueSizes; }

std::size_t BalloonDevice::QueuesFor(std::uint64_t features) const {
  std::size_t count = kStatsQueue;
  if ((features & balloon::kFeatureStats) != 0) ++count;
  if ((features & balloon::kFeatureReporting) != 0) ++count;
  return count;
}

std::span<const std::byte> BalloonDevice::config() const { return AsBytes(config_); }

Result<> BalloonDevice::Activate(const virtio::DeviceContext& context) {
  context_ = &context;
  std::uint16_t next = kStatsQueue;
  if ((context.features & balloon::kFeatureStats) != 0) statistics_queue_ = next++;
  if ((context.features & balloon::kFeatureReporting) != 0) reporting_queue_ = next;
  return {};
}

void BalloonDevice::Reset() {
  context_ = nullptr;
  statistics_queue_.reset();
  reporting_queue_.reset();
  statistics_buffer_.reset();
  stale_ = false;
  for (StatisticsHandler& handler : std::exchange(waiting_, {})) {
    handler(
        std::unexpected(Error("ERR_GUEST_NO_DRIVER", "the guest's driver let go of its balloon")));
  }
}

Result<> BalloonDevice::BeforeSave() {
  if (context_ == nullptr || !statistics_buffer_) return {};
  // Whoever goes on, this machine or another, takes it from the ring again.
  context_->queues[*statistics_queue_].UndoPop();
  statistics_buffer_.reset();
  stale_ = true;
  context_->host.Kick(*statistics_queue_);
  return {};
}

void BalloonDevice::AfterRestore() { stale_ = context_ != nullptr; }

void BalloonDevice::Notify(std::uint16_t queue) {
  if (context_ == nullptr) return;
  if (queue == kInflateQueue) Inflate();
  if (queue == kDeflateQueue) Deflate();
  if (queue == statistics_queue_) TakeStatistics();
  if (queue == reporting_queue_) Report();
}

void BalloonDevice::Inflate() {
  const std::uint64_t all = std::min<std::uint64_t>(context_->memory.size() / balloon::kPageSize,
                                                    std::numeric_limits<std::uint32_t>::max());
  virtio::ServiceQueue(*context_, kInflateQueue, kPagesBudget, [&](const virtio::Chain& chain) {
    const std::uint64_t pages = ReclaimPages(context_->memory, ReadPages(chain));
    // A guest that names a page twice is not believed to have more than all.
    actual_pages_.store(static_cast<std::uint32_t>(std::min(actual_pages_.load() + pages, all)));
    return virtio::Outcome::Used(0);
  });
}

void BalloonDevice::Deflate() {
  virtio::ServiceQueue(*context_, kDeflateQueue, kPagesBudget, [&](const virtio::Chain& chain) {
    // The pages come back by themselves when the guest touches them.
    const std::uint32_t actual = actual_pages_.load();
    const std::size_t pages = chain.readable_bytes() / sizeof(std::uint32_t);
    actual_pages_.store(actual - static_cast<std::uint32_t>(std::min<std::size_t>(actual, pages)));
    return virtio::Outcome::Used(0);
  });
}

void BalloonDevice::Report() {
  virtio::ServiceQueue(
      *context_, *reporting_queue_, kReportingBudget, [&](const virtio::Chain& chain) {
        std::uint64_t bytes = 0;
        for (const virtio::Segment& segment : chain.writable()) {
          bytes += ReclaimRange({static_cast<std::byte*>(segment.iov_base), segment.iov_len});
        }
        reported_bytes_.fetch_add(bytes);
        return virtio::Outcome::Used(0);
      });
}

void BalloonDevice::TakeStatistics() {
  virtio::Queue& queue = context_->queues[*statistics_queue_];
  // A second buffer waits until the first has gone back.
  if (statistics_buffer_) return;
  Result<std::optional<virtio::Chain>> chain = queue.Pop();
  if (!chain.has_value()) return context_->host.Fail(std::move(chain).error());
  if (!chain->has_value()) {
    if (queue.EnableNotifications()) context_->host.Kick(*statistics_queue_);
    return;
  }
  const BalloonStatistics statistics = ReadStatistics(**chain);
  statistics_buffer_ = (*chain)->head();
  if (std::exchange(stale_, false)) {
    // Whoever asked meanwhile gets what the guest says next.
    if (!waiting_.empty()) ReturnStatisticsBuffer();
    return;
  }
  for (StatisticsHandler& handler : std::exchange(waiting_, {})) handler(statistics);
}

void BalloonDevice::ReturnStatisticsBuffer() {
  virtio::Queue& queue = context_->queues[*statistics_queue_];
  queue.AddUsed(*std::exchange(statistics_buffer_, std::nullopt), 0);
  if (queue.PublishUsed()) context_->host.SignalQueues();
  // Looks for the next one, and asks to be told of it where there is none.
  context_->host.Kick(*statistics_queue_);
}

}  // namespace embervm::devices
