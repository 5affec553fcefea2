#include "devices/vsock/device.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/bytes.h"
#include "virtio/abi.h"
#include "virtio/service_queue.h"

namespace embervm::devices {

namespace {

// Linux fills the whole receive queue with 4 KiB buffers at boot, and the event queue
// with eight: short queues save it work and memory, and 64 buffers hold what we let it
// have in flight anyway.
constexpr std::array<std::uint16_t, 3> kQueueSizes{64, 128, 16};
constexpr unsigned kBudgetPerTurn = 256;
// Buffers of the guest that one read of a stream may fill.
constexpr std::size_t kMaxBatch = kQueueSizes[vsock::kRxQueue];

// A buffer must have room for some payload: then any packet fits.
constexpr std::uint32_t kMinReceiveBuffer = sizeof(vsock::Header) + 1;

}  // namespace

VsockDevice::VsockDevice(EventLoop& loop, const VsockMuxer::Options& options)
    : muxer_(loop, options, [this] { Service(/*drain_transmit=*/false); }) {
  StoreLe(std::span<std::byte>(config_), 0, options.guest_cid);
}

std::uint32_t VsockDevice::type() const { return virtio::kDeviceIdVsock; }

std::span<const std::uint16_t> VsockDevice::queue_sizes() const { return kQueueSizes; }

Result<> VsockDevice::Activate(const virtio::DeviceContext& context) {
  context_ = &context;
  muxer_.SetActive(true);
  return {};
}

void VsockDevice::Reset() {
  muxer_.SetActive(false);
  muxer_.DropAll();
  context_ = nullptr;
  unhandled_reset_.reset();
}

void VsockDevice::Notify(std::uint16_t queue) {
  if (queue != vsock::kEventQueue) return Service(queue == vsock::kTxQueue);
  // Buffers in the event queue matter only as the answer to a reset.
  if (!unhandled_reset_ || context_ == nullptr) return;
  if (context_->queues[vsock::kEventQueue].AvailableIndex() == *unhandled_reset_) return;
  unhandled_reset_.reset();
  Service(/*drain_transmit=*/false);
}

void VsockDevice::Service(bool drain_transmit) {
  if (context_ == nullptr || servicing_) return;
  servicing_ = true;
  Result<> done;
  if (drain_transmit) done = DrainTransmitQueue();
  if (done.has_value() && !unhandled_reset_) done = FillReceiveQueue();
  servicing_ = false;

  const bool received = context_->queues[vsock::kRxQueue].PublishUsed();
  const bool transmitted = context_->queues[vsock::kTxQueue].PublishUsed();
  if (received || transmitted) context_->host.SignalQueues();
  if (!done.has_value()) context_->host.Fail(std::move(done).error());
}

Result<> VsockDevice::DrainTransmitQueue() {
  virtio::Queue& queue = context_->queues[vsock::kTxQueue];
  unsigned budget = kBudgetPerTurn;
  queue.DisableNotifications();
  while (budget > 0) {
    EMBERVM_TRY_ASSIGN(const std::optional<virtio::Chain> chain, queue.Pop());
    if (chain) {
      ReceivePacket(*chain);
      queue.AddUsed(chain->head(), 0);
      budget -= std::min(budget, virtio::ChainCost(*chain));
    } else {
      if (!queue.EnableNotifications()) return {};
      queue.DisableNotifications();
    }
  }
  context_->host.Kick(vsock::kTxQueue);
  return {};
}

void VsockDevice::ReceivePacket(const virtio::Chain& chain) {
  vsock::Header header{};
  if (!virtio::ReadStruct(chain.readable(), 0, header)) return;
  std::vector<virtio::Segment> payload;
  if (header.op == vsock::kOpData) {
    if (header.len > vsock::kMaxPayload ||
        header.len > chain.readable_bytes() - sizeof(vsock::Header)) {
      muxer_.ReceiveInvalid(header);
      return;
    }
    payload = virtio::Subrange(chain.readable(), sizeof(vsock::Header), header.len);
  }
  muxer_.Receive(header, payload);
}

Result<> VsockDevice::FillReceiveQueue() {
  virtio::Queue& queue = context_->queues[vsock::kRxQueue];
  unsigned budget = kBudgetPerTurn;
  // No notification is wanted while there is nothing to send: the driver refills the
  // queue without an exit.
  queue.DisableNotifications();
  while (muxer_.HasOutput()) {
    if (budget == 0) {
      context_->host.Kick(vsock::kRxQueue);
      return {};
    }
    EMBERVM_TRY(GatherBuffers(muxer_.PayloadBytes()));
    if (buffers_.empty()) {
      if (!queue.EnableNotifications()) return {};
      queue.DisableNotifications();
      continue;
    }
    budget -= std::min(budget, static_cast<unsigned>(buffers_.size()));
    std::array<virtio::Segments, kMaxBatch> rooms;
    std::array<std::uint32_t, kMaxBatch> lengths;
    for (std::size_t i = 0; i < buffers_.size(); ++i) rooms.at(i) = buffers_[i].writable();
    const std::size_t sent = muxer_.Send(std::span(rooms).first(buffers_.size()), lengths);
    for (std::size_t i = 0; i < sent; ++i) queue.AddUsed(buffers_[i].head(), lengths.at(i));
    for (std::size_t i = sent; i < buffers_.size(); ++i) queue.UndoPop();
  }
  return {};
}

Result<> VsockDevice::GatherBuffers(std::uint32_t payload) {
  virtio::Queue& queue = context_->queues[vsock::kRxQueue];
  buffers_.clear();
  std::uint64_t room = 0;
  while (buffers_.empty() || (room < payload && buffers_.size() < kMaxBatch)) {
    EMBERVM_TRY_ASSIGN(std::optional<virtio::Chain> chain, queue.Pop());
    if (!chain) return {};
    if (chain->writable_bytes() >= kMinReceiveBuffer) {
      room += chain->writable_bytes() - sizeof(vsock::Header);
      buffers_.push_back(std::move(*chain));
    } else if (buffers_.empty()) {
      queue.AddUsed(chain->head(), 0);
    } else {
      // What comes after it may have to be given back: it waits for its turn.
      queue.UndoPop();
      return {};
    }
  }
  return {};
}

void VsockDevice::AfterRestore() {
  muxer_.DropAll();
  if (context_ == nullptr) return;
  virtio::Queue& queue = context_->queues[vsock::kEventQueue];
  Result<std::optional<virtio::Chain>> chain = queue.Pop();
  if (!chain.has_value()) {
    context_->host.Fail(std::move(chain).error());
    return;
  }
  // Without a buffer the driver is not interested, or has not come that far.
  if (!chain->has_value()) return;
  const std::uint32_t event = vsock::kEventTransportReset;
  const bool fits = virtio::WriteStruct((*chain)->writable(), 0, event);
  queue.AddUsed((*chain)->head(), fits ? sizeof(event) : 0);
  // The driver gives the buffer back when it has closed its streams.
  if (fits) unhandled_reset_ = queue.NotifyOfMore();
  if (queue.PublishUsed()) context_->host.SignalQueues();
}

}  // namespace embervm::devices
