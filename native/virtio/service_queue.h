// ServiceQueue: a device's turn over one of its queues.
#ifndef EMBERVM_VIRTIO_SERVICE_QUEUE_H_
#define EMBERVM_VIRTIO_SERVICE_QUEUE_H_

#include <algorithm>
#include <climits>
#include <cstdint>
#include <optional>
#include <utility>

#include "base/result.h"
#include "virtio/chain.h"
#include "virtio/device.h"
#include "virtio/queue.h"

namespace embervm::virtio {

// What one chain takes from the budget of a turn: one unit, and one for each 64 KiB, so
// that neither many requests nor huge ones keep other devices waiting.
[[nodiscard]] inline unsigned ChainCost(const Chain& chain) {
  constexpr unsigned kBytesPerUnitLog2 = 16;
  return 1 + (chain.readable_bytes() >> kBytesPerUnitLog2) +
         (chain.writable_bytes() >> kBytesPerUnitLog2);
}

// What became of a chain.
class Outcome {
 public:
  // It goes back to the driver, with so many bytes written from the start of its writable part.
  static Outcome Used(std::uint32_t length) { return {Kind::kUsed, length}; }
  // It stays in the ring, with all behind it, until the device calls Kick().
  static Outcome Stays() { return {Kind::kStays, 0}; }
  // The device has its head and adds it to the used ring later.
  static Outcome Taken() { return {Kind::kTaken, 0}; }

  [[nodiscard]] bool stays() const { return kind_ == Kind::kStays; }
  [[nodiscard]] bool taken() const { return kind_ == Kind::kTaken; }
  [[nodiscard]] std::uint32_t used_length() const { return used_length_; }

 private:
  enum class Kind : std::uint8_t { kUsed, kStays, kTaken };
  Outcome(Kind kind, std::uint32_t used_length) : kind_(kind), used_length_(used_length) {}

  Kind kind_;
  std::uint32_t used_length_;
};

// Drains one queue: `handler` is called with each chain, which it may take apart, and returns an
// Outcome. What is used is
// published, with at most one interrupt, each `publish_every` units and at the end; when `budget`
// units are used up, the rest waits for a later turn of the loop.
template <class Handler>
void ServiceQueue(const DeviceContext& context, std::uint16_t index, unsigned budget,
                  Handler&& handler, unsigned publish_every = UINT_MAX) {
  Queue& queue = context.queues[index];
  std::optional<Error> failure;
  bool more = true;
  unsigned unpublished = 0;
  queue.DisableNotifications();
  while (more && budget > 0) {
    Result<std::optional<Chain>> chain = queue.Pop();
    if (!chain.has_value()) {
      failure = std::move(chain).error();
      break;
    }
    if (chain->has_value()) {
      const Outcome outcome = handler(**chain);
      if (outcome.stays()) {
        queue.UndoPop();
        more = false;
        break;
      }
      if (!outcome.taken()) queue.AddUsed((*chain)->head(), outcome.used_length());
      const unsigned cost = std::min(budget, ChainCost(**chain));
      budget -= cost;
      unpublished += cost;
      if (unpublished >= publish_every) {
        unpublished = 0;
        if (queue.PublishUsed()) context.host.SignalQueues();
      }
    } else {
      more = queue.EnableNotifications();
      if (more) queue.DisableNotifications();
    }
  }
  if (queue.PublishUsed()) context.host.SignalQueues();
  if (failure) {
    context.host.Fail(*std::move(failure));
  } else if (more) {
    context.host.Kick(index);
  }
}

}  // namespace embervm::virtio

#endif  // EMBERVM_VIRTIO_SERVICE_QUEUE_H_
