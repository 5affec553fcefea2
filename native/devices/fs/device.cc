#include "devices/fs/device.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "devices/fs/limits.h"
#include "virtio/abi.h"

namespace embervm::devices {

namespace {

// virtio 1.2 §5.11.2: what must not wait behind requests that block, then the requests.
constexpr std::array<std::uint16_t, 2> kQueueSizes{fs::kQueueSize, fs::kQueueSize};
constexpr std::uint32_t kRequestQueues = 1;
// Then the other queue has its turn, and whoever wants the worker to stop.
constexpr unsigned kBudgetPerTurn = 64;

constexpr std::uint32_t Bit(std::size_t queue) { return 1U << queue; }

}  // namespace

Result<std::unique_ptr<FsDevice>> FsDevice::Open(const FsOptions& options) {
  EMBERVM_TRY_ASSIGN(std::unique_ptr<fs::Server> server, fs::Server::Open(options));
  return std::unique_ptr<FsDevice>(new FsDevice(std::move(server), options.tag));
}

FsDevice::FsDevice(std::unique_ptr<fs::Server> server, const std::string& tag)
    : name_("fs " + tag), server_(std::move(server)) {
  // Zeroes follow a shorter one.
  std::ranges::copy(tag, config_.tag.begin());
  config_.num_request_queues = kRequestQueues;
}

std::uint32_t FsDevice::type() const { return virtio::kDeviceIdFs; }

std::span<const std::uint16_t> FsDevice::queue_sizes() const { return kQueueSizes; }

std::span<const std::byte> FsDevice::config() const { return AsBytes(config_); }

Result<> FsDevice::Activate(const virtio::DeviceContext& context) {
  context_ = &context;
  pending_ = 0;
  stop_ = false;
  failure_.reset();
  auto worker = Thread::Start("ember-fs", [this] { Run(); });
  if (!worker.has_value()) {
    context_ = nullptr;
    return std::unexpected(std::move(worker).error());
  }
  worker_ = std::move(*worker);
  return {};
}

void FsDevice::Notify(std::uint16_t queue) {
  if (context_ == nullptr) return;
  std::optional<Error> failure;
  {
    const std::lock_guard lock(mutex_);
    pending_ |= Bit(queue);
    failure.swap(failure_);
  }
  wake_.notify_one();
  if (failure.has_value()) context_->host.Fail(*std::move(failure));
}

void FsDevice::Reset() {
  if (context_ == nullptr) return;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  worker_.Join();
  waiting_.clear();
  server_->Reset();
  context_ = nullptr;
}

Result<> FsDevice::BeforeSave() {
  return std::unexpected(
      Error("ERR_SNAPSHOT_UNSUPPORTED",
            "a machine with a shared directory cannot be saved: its guest holds open files of "
            "this host")
          .With("device", name_));
}

void FsDevice::Run() {
  constexpr auto kRetry = std::chrono::milliseconds(fs::kLockRetryMs);
  const auto wanted = [this] { return stop_ || pending_ != 0; };
  for (;;) {
    std::uint32_t pending = 0;
    {
      std::unique_lock lock(mutex_);
      if (waiting_.empty()) {
        wake_.wait(lock, wanted);
      } else {
        wake_.wait_for(lock, kRetry, wanted);
      }
      if (stop_) return;
      pending = std::exchange(pending_, 0);
    }
    std::uint32_t more = 0;
    for (std::size_t index = 0; index < kQueueSizes.size(); ++index) {
      const auto queue = static_cast<std::uint16_t>(index);
      if ((pending & Bit(queue)) != 0 && Serve(queue)) more |= Bit(queue);
    }
    RetryLocks();
    if (more == 0) continue;
    const std::lock_guard lock(mutex_);
    pending_ |= more;
  }
}

bool FsDevice::Serve(std::uint16_t index) {
  virtio::Queue& queue = context_->queues[index];
  queue.DisableNotifications();
  for (unsigned left = kBudgetPerTurn; left > 0;) {
    Result<std::optional<virtio::Chain>> popped = queue.Pop();
    if (!popped.has_value()) {
      {
        const std::lock_guard lock(mutex_);
        failure_ = std::move(popped).error();
      }
      // Only the device thread may say so.
      context_->host.Kick(index);
      return false;
    }
    if (!popped->has_value()) {
      if (!queue.EnableNotifications()) return false;
      queue.DisableNotifications();
      continue;
    }
    virtio::Chain& chain = **popped;
    const fs::Server::Outcome outcome = server_->Handle(chain.readable(), chain.writable());
    if (outcome.waiting.has_value()) {
      waiting_.push_back({.lock = *outcome.waiting, .queue = index, .chain = std::move(chain)});
    } else {
      Complete(index, chain, outcome.used_length);
    }
    --left;
  }
  return true;
}

void FsDevice::Complete(std::uint16_t index, const virtio::Chain& chain, std::uint32_t length) {
  virtio::Queue& queue = context_->queues[index];
  queue.AddUsed(chain.head(), length);
  // At once: the next request may take long. A driver that is still at work on the one
  // before gets no second interrupt.
  if (queue.PublishUsed()) context_->host.SignalQueues();
}

void FsDevice::RetryLocks() {
  std::erase_if(waiting_, [this](const Waiting& request) {
    const std::optional<std::uint32_t> length =
        server_->Retry(request.lock, request.chain.writable());
    if (length.has_value()) Complete(request.queue, request.chain, *length);
    return length.has_value();
  });
}

}  // namespace embervm::devices
