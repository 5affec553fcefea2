#include "devices/mem/device.h"

#include <array>
#include <utility>

#include "base/bytes.h"
#include "base/checked.h"
#include "memory/reclaim.h"
#include "virtio/abi.h"
#include "virtio/service_queue.h"

namespace embervm::devices {

namespace {

using mem::kRequestQueue;

// Linux has one request on its way at a time.
constexpr std::array<std::uint16_t, 1> kQueueSizes{16};
// A request may give back or look at a quarter of a terabyte: a few of them, then others have
// their turn.
constexpr unsigned kBudget = 4;

Error NoDriver() {
  return Error("ERR_GUEST_NO_DRIVER",
               "the guest has no driver for its pluggable memory (virtio-mem), or not yet");
}

}  // namespace

MemDevice::MemDevice(const MemOptions& options)
    : blocks_(options.region_bytes, options.block_bytes, options.plugged),
      config_{.block_size = options.block_bytes,
              .node_id = 0,
              .padding = {},
              .addr = options.base,
              .region_size = options.region_bytes,
              .usable_region_size = options.region_bytes,
              .plugged_size = blocks_.plugged_bytes(),
              .requested_size = options.requested_bytes},
      requested_bytes_(options.requested_bytes),
      plugged_bytes_(blocks_.plugged_bytes()) {}

void MemDevice::Resize(std::uint64_t bytes, std::chrono::milliseconds patience,
                       ResizeHandler done) {
  if (context_ == nullptr) return done(std::unexpected(NoDriver()));
  config_.requested_size = bytes;
  requested_bytes_.store(bytes);
  patience_ = patience;
  waiting_.push_back(std::move(done));
  WaitOn();
}

MemDevice::Counters MemDevice::counters() const {
  return {.requested_bytes = requested_bytes_.load(), .plugged_bytes = plugged_bytes_.load()};
}

std::uint32_t MemDevice::type() const { return virtio::kDeviceIdMem; }

std::uint64_t MemDevice::features() const { return mem::kFeatureUnpluggedInaccessible; }

std::span<const std::uint16_t> MemDevice::queue_sizes() const { return kQueueSizes; }

std::span<const std::byte> MemDevice::config() const { return AsBytes(config_); }

Result<> MemDevice::Activate(const virtio::DeviceContext& context) {
  context_ = &context;
  return {};
}

void MemDevice::Reset() {
  if (context_ == nullptr) return;
  context_->loop.CancelTimer(std::exchange(timer_, 0));
  context_ = nullptr;
  // What is plugged stays so: only the guest knows what it has there.
  for (ResizeHandler& done : std::exchange(waiting_, {})) done(std::unexpected(NoDriver()));
}

void MemDevice::Notify(std::uint16_t queue) {
  if (context_ == nullptr || queue != kRequestQueue) return;
  virtio::ServiceQueue(*context_, kRequestQueue, kBudget, [&](const virtio::Chain& chain) {
    mem::Request request{};
    // Nothing is done that the driver would not be told of.
    if (chain.writable_bytes() < sizeof(mem::Response)) return virtio::Outcome::Used(0);
    const bool whole = virtio::ReadStruct(chain.readable(), 0, request);
    const mem::Response response =
        whole ? Serve(request) : mem::Response{.type = mem::kResponseError};
    [[maybe_unused]] const bool told = virtio::WriteStruct(chain.writable(), 0, response);
    return virtio::Outcome::Used(sizeof(response));
  });
}

mem::Response MemDevice::Serve(const mem::Request& request) {
  if (request.type == mem::kRequestUnplugAll) {
    UnplugAll();
    return {.type = mem::kResponseAck};
  }
  const std::uint64_t block = blocks_.block_bytes();
  // An address below the region becomes a huge offset, which fits nowhere.
  const std::uint64_t offset = request.addr - config_.addr;
  const std::uint64_t length = request.nb_blocks * block;
  if (length == 0 || offset % block != 0 || !RangeFits(offset, length, config_.region_size)) {
    return {.type = mem::kResponseError};
  }
  const std::uint64_t first = offset / block;
  switch (request.type) {
    case mem::kRequestPlug:
      return {.type = Plug(first, request.nb_blocks)};
    case mem::kRequestUnplug:
      return {.type = Unplug(first, request.nb_blocks)};
    case mem::kRequestState:
      return {.type = mem::kResponseAck, .state = blocks_.StateOf(first, request.nb_blocks)};
    default:
      return {.type = mem::kResponseError};
  }
}

mem::ResponseType MemDevice::Plug(std::uint64_t first, std::uint64_t count) {
  if (blocks_.StateOf(first, count) != mem::kStateUnplugged) return mem::kResponseError;
  // Neither sum can overflow: both are parts of the region.
  if (blocks_.plugged_bytes() + count * blocks_.block_bytes() > config_.requested_size) {
    return mem::kResponseNack;
  }
  // What a guest wrote there before it had it.
  Discard(first, count);
  blocks_.Set(first, count, true);
  Changed();
  return mem::kResponseAck;
}

mem::ResponseType MemDevice::Unplug(std::uint64_t first, std::uint64_t count) {
  if (blocks_.StateOf(first, count) != mem::kStatePlugged) return mem::kResponseError;
  Discard(first, count);
  blocks_.Set(first, count, false);
  Changed();
  return mem::kResponseAck;
}

void MemDevice::UnplugAll() {
  Discard(0, blocks_.blocks());
  blocks_.Set(0, blocks_.blocks(), false);
  Changed();
}

void MemDevice::Discard(std::uint64_t first, std::uint64_t count) const {
  const std::uint64_t block = blocks_.block_bytes();
  const auto bytes = context_->memory.Slice(config_.addr + first * block, count * block);
  if (bytes.has_value()) ReclaimRange(*bytes);
}

void MemDevice::Changed() {
  config_.plugged_size = blocks_.plugged_bytes();
  plugged_bytes_.store(config_.plugged_size);
  // No interrupt: the driver finds what it has asked for.
  context_->host.ShowConfig(config());
  WaitOn();
}

void MemDevice::WaitOn() {
  if (waiting_.empty()) return;
  context_->loop.CancelTimer(std::exchange(timer_, 0));
  if (config_.plugged_size == config_.requested_size) return AnswerAll();
  timer_ = context_->loop.AddTimer(patience_, [this] {
    timer_ = 0;
    AnswerAll();
  });
}

void MemDevice::AnswerAll() {
  for (ResizeHandler& done : std::exchange(waiting_, {})) done(config_.plugged_size);
}

}  // namespace embervm::devices
