// Queue: the device side of one split virtqueue (virtio 1.2 §2.7) with EVENT_IDX and
// INDIRECT_DESC. The rings are the guest's: every field is read once and checked, and
// no content of them can make the device read or write outside guest RAM, loop, or
// allocate more than one chain.
//
// All calls belong to the device thread.
#ifndef EMBERVM_VIRTIO_QUEUE_H_
#define EMBERVM_VIRTIO_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/result.h"
#include "memory/guest_memory.h"
#include "virtio/abi.h"
#include "virtio/chain.h"

namespace embervm::virtio {

// What the driver wrote into the transport's registers, unchecked.
struct QueueConfig {
  std::uint16_t max_size = 0;
  std::uint16_t size = 0;
  bool ready = false;
  GuestAddr descriptor_table = 0;
  GuestAddr driver_ring = 0;
  GuestAddr device_ring = 0;
};

// Free-running ring positions: with QueueConfig, all that a snapshot has to keep.
struct QueuePosition {
  std::uint16_t next_avail = 0;
  std::uint16_t next_used = 0;
};

class Queue {
 public:
  // Checks that the queue is ready, its size is a power of two of at most the
  // maximum, and the three areas are aligned and wholly in RAM. `features` are the
  // negotiated ones. `memory` must outlive the queue.
  static Result<Queue> Create(const GuestMemory& memory, const QueueConfig& config,
                              std::uint64_t features, QueuePosition position = {});

  // The next available chain, or nothing. An error means that the ring itself makes
  // no sense (available index or head out of range): the device has to Fail().
  Result<std::optional<Chain>> Pop();
  // Gives the chain of the last Pop() back to the available ring.
  void UndoPop() { --position_.next_avail; }

  // Returns a head; the driver sees it after PublishUsed().
  void AddUsed(std::uint16_t head, std::uint32_t length);
  // Shows the driver everything added since the last call; true when it wants an
  // interrupt for it.
  [[nodiscard]] bool PublishUsed();

  // Asks the driver not to notify while the device is draining the queue anyway.
  void DisableNotifications();
  // Asks for a notification of the next available chain. True when one came in
  // meanwhile: its notification may be lost, so the caller drains again.
  [[nodiscard]] bool EnableNotifications();

  // Asks for a notification when the driver makes more available than it has so far,
  // also while the device leaves what there is. Returns AvailableIndex().
  std::uint16_t NotifyOfMore();
  // How many buffers the driver has made available since the start, modulo 2^16: its
  // own word, unchecked.
  [[nodiscard]] std::uint16_t AvailableIndex() const { return LoadAvailIndex(); }

  [[nodiscard]] std::uint16_t size() const { return size_; }
  [[nodiscard]] const QueuePosition& position() const { return position_; }
  // Chains that broke the rules; they were given back with length 0.
  [[nodiscard]] std::uint64_t malformed_chains() const { return malformed_chains_; }

 private:
  Queue(const GuestMemory& memory, const QueueConfig& config, std::uint64_t features,
        QueuePosition position);

  // False when the chain is malformed.
  bool Walk(Chain& chain) const;
  bool WalkIndirect(Chain& chain, const Descriptor& table) const;
  bool AppendDescriptor(Chain& chain, const Descriptor& descriptor) const;
  [[nodiscard]] std::uint16_t LoadAvailIndex() const;
  void NotifyFrom(std::uint16_t index);
  [[nodiscard]] std::size_t Slot(std::uint16_t index) const { return index & (size_ - 1U); }

  const GuestMemory* memory_;
  std::uint16_t size_;
  std::uint16_t max_size_;
  bool event_idx_;
  bool indirect_;
  // Host views of the three areas: whole, checked by Create().
  std::span<std::byte> descriptors_;
  std::span<std::byte> driver_ring_;
  std::span<std::byte> device_ring_;

  QueuePosition position_;
  // The used index that the driver has seen, and the one of the last interrupt decision.
  std::uint16_t published_used_;
  // The last available index that was read and checked.
  std::uint16_t avail_index_;
  std::uint64_t malformed_chains_ = 0;
};

}  // namespace embervm::virtio

#endif  // EMBERVM_VIRTIO_QUEUE_H_
