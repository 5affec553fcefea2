#include "virtio/queue.h"

#include <atomic>
#include <bit>
#include <cstring>
#include <string_view>

#include "base/checked.h"

namespace embervm::virtio {

namespace {

// Alignments and sizes of the three areas: virtio 1.2 §2.7.
constexpr std::uint64_t kDescriptorAlignment = 16;
constexpr std::uint64_t kDriverRingAlignment = 2;
constexpr std::uint64_t kDeviceRingAlignment = 4;
constexpr std::size_t kRingFlags = 0;
constexpr std::size_t kRingIndex = 2;
constexpr std::size_t kRingEntries = 4;
constexpr std::size_t kEventIndexBytes = 2;

constexpr std::size_t DriverRingBytes(std::size_t size) {
  return kRingEntries + size * sizeof(std::uint16_t) + kEventIndexBytes;
}

constexpr std::size_t DeviceRingBytes(std::size_t size) {
  return kRingEntries + size * sizeof(UsedElement) + kEventIndexBytes;
}

std::atomic_ref<std::uint16_t> Word16(std::span<std::byte> ring, std::size_t offset) {
  // Aligned: Create() checked the ring, and all offsets are even.
  return std::atomic_ref(*reinterpret_cast<std::uint16_t*>(ring.subspan(offset, 2).data()));
}

Descriptor LoadDescriptor(std::span<const std::byte> table, std::size_t index) {
  Descriptor descriptor;
  std::memcpy(&descriptor, table.subspan(index * sizeof(Descriptor), sizeof(Descriptor)).data(),
              sizeof(descriptor));
  // Read once: all checks and uses are of this copy (see CopyFrom).
  std::atomic_signal_fence(std::memory_order_seq_cst);
  return descriptor;
}

// virtio 1.2 §2.7.7.1 and §2.7.10: whether `event` lies in [old_index, new_index).
bool EventPassed(std::uint16_t event, std::uint16_t new_index, std::uint16_t old_index) {
  return static_cast<std::uint16_t>(new_index - event - 1) <
         static_cast<std::uint16_t>(new_index - old_index);
}

Error BadQueue(const char* problem, std::uint64_t value) {
  return Error("ERR_VIRTIO_QUEUE", std::string("the driver set up a bad queue: ") + problem)
      .With("value", static_cast<std::int64_t>(value));
}

Result<std::span<std::byte>> CheckArea(const GuestMemory& memory, GuestAddr addr,
                                       std::uint64_t length, std::uint64_t alignment,
                                       const char* name) {
  if (addr % alignment != 0) {
    return std::unexpected(BadQueue((std::string(name) + " is not aligned").c_str(), addr));
  }
  const auto slice = memory.Slice(addr, length);
  if (!slice) {
    return std::unexpected(BadQueue((std::string(name) + " is not in RAM").c_str(), addr));
  }
  return *slice;
}

}  // namespace

bool Chain::Append(std::span<std::byte> bytes, bool writable) {
  // virtio 1.2 §2.7.4.2: all readable descriptors come before the writable ones.
  if (!writable && readable_count_ != segments_.size()) return false;
  if (bytes.empty()) return true;
  // Only the sum of both parts is bounded by §2.7.4; so each part is, too.
  const std::uint64_t total = std::uint64_t{readable_bytes_} + writable_bytes_ + bytes.size();
  if (total > UINT32_MAX) return false;
  segments_.push_back({.iov_base = bytes.data(), .iov_len = bytes.size()});
  if (writable) {
    writable_bytes_ += static_cast<std::uint32_t>(bytes.size());
  } else {
    readable_bytes_ += static_cast<std::uint32_t>(bytes.size());
    ++readable_count_;
  }
  return true;
}

void Chain::MarkMalformed() {
  *this = Chain(head_);
  malformed_ = true;
}

Result<Queue> Queue::Create(const GuestMemory& memory, const QueueConfig& config,
                            std::uint64_t features, QueuePosition position) {
  if (!config.ready) return std::unexpected(BadQueue("it is not ready", 0));
  if (config.size == 0 || config.size > config.max_size || !std::has_single_bit(config.size)) {
    return std::unexpected(
        BadQueue("its size is not a power of two of at most the maximum", config.size));
  }
  Queue queue(memory, config, features, position);
  EMBERVM_TRY_ASSIGN(queue.descriptors_, CheckArea(memory, config.descriptor_table,
                                                   std::uint64_t{config.size} * sizeof(Descriptor),
                                                   kDescriptorAlignment, "its descriptor table"));
  EMBERVM_TRY_ASSIGN(queue.driver_ring_,
                     CheckArea(memory, config.driver_ring, DriverRingBytes(config.size),
                               kDriverRingAlignment, "its available ring"));
  EMBERVM_TRY_ASSIGN(queue.device_ring_,
                     CheckArea(memory, config.device_ring, DeviceRingBytes(config.size),
                               kDeviceRingAlignment, "its used ring"));
  return queue;
}

Queue::Queue(const GuestMemory& memory, const QueueConfig& config, std::uint64_t features,
             QueuePosition position)
    : memory_(&memory),
      size_(config.size),
      max_size_(config.max_size),
      event_idx_((features & kFeatureEventIdx) != 0),
      indirect_((features & kFeatureIndirectDesc) != 0),
      position_(position),
      published_used_(position.next_used),
      avail_index_(position.next_avail) {}

std::uint16_t Queue::LoadAvailIndex() const {
  // Pairs with the driver's write barrier between filling the ring entry and storing
  // the index (virtio 1.2 §2.7.13.3.1).
  return Word16(driver_ring_, kRingIndex).load(std::memory_order_acquire);
}

Result<std::optional<Chain>> Queue::Pop() {
  if (position_.next_avail == avail_index_) {
    const std::uint16_t index = LoadAvailIndex();
    const auto available = static_cast<std::uint16_t>(index - position_.next_avail);
    if (available > size_) {
      return std::unexpected(
          Error("ERR_VIRTIO_QUEUE", "the driver's available index is further ahead than the size")
              .With("available", available)
              .With("size", size_));
    }
    avail_index_ = index;
    if (available == 0) return std::nullopt;
  }
  const std::size_t entry = kRingEntries + Slot(position_.next_avail) * sizeof(std::uint16_t);
  const std::uint16_t head = Word16(driver_ring_, entry).load(std::memory_order_relaxed);
  if (head >= size_) {
    return std::unexpected(
        Error("ERR_VIRTIO_QUEUE", "the driver's available ring names a descriptor past the table")
            .With("head", head)
            .With("size", size_));
  }
  ++position_.next_avail;
  Chain chain(head);
  if (!Walk(chain)) {
    chain.MarkMalformed();
    ++malformed_chains_;
  }
  return chain;
}

bool Queue::Walk(Chain& chain) const {
  std::uint16_t index = chain.head();
  // A chain visits each descriptor at most once; one that goes on is a loop.
  for (std::uint16_t left = size_; left > 0; --left) {
    const Descriptor descriptor = LoadDescriptor(descriptors_, index);
    if ((descriptor.flags & kDescIndirect) != 0) return WalkIndirect(chain, descriptor);
    if (!AppendDescriptor(chain, descriptor)) return false;
    if ((descriptor.flags & kDescNext) == 0) return true;
    if (descriptor.next >= size_) return false;
    index = descriptor.next;
  }
  return false;
}

bool Queue::WalkIndirect(Chain& chain, const Descriptor& table) const {
  // virtio 1.2 §2.7.5.3.1: only when negotiated, never with NEXT, never nested, and no
  // longer than a chain may be.
  if (!indirect_ || (table.flags & kDescNext) != 0) return false;
  if (table.len == 0 || table.len % sizeof(Descriptor) != 0) return false;
  const std::uint32_t count = table.len / sizeof(Descriptor);
  if (count > max_size_) return false;
  const auto descriptors = memory_->Slice(table.addr, table.len);
  if (!descriptors) return false;

  std::uint32_t index = 0;
  for (std::uint32_t left = count; left > 0; --left) {
    const Descriptor descriptor = LoadDescriptor(*descriptors, index);
    if ((descriptor.flags & kDescIndirect) != 0) return false;
    if (!AppendDescriptor(chain, descriptor)) return false;
    if ((descriptor.flags & kDescNext) == 0) return true;
    if (descriptor.next >= count) return false;
    index = descriptor.next;
  }
  return false;
}

bool Queue::AppendDescriptor(Chain& chain, const Descriptor& descriptor) const {
  const auto bytes = memory_->Slice(descriptor.addr, descriptor.len);
  return bytes && chain.Append(*bytes, (descriptor.flags & kDescWrite) != 0);
}

void Queue::AddUsed(std::uint16_t head, std::uint32_t length) {
  const UsedElement element{.id = head, .len = length};
  const std::size_t offset = kRingEntries + Slot(position_.next_used) * sizeof(UsedElement);
  std::memcpy(device_ring_.subspan(offset, sizeof(element)).data(), &element, sizeof(element));
  ++position_.next_used;
}

bool Queue::PublishUsed() {
  if (position_.next_used == published_used_) return false;
  const std::uint16_t old_index = published_used_;
  published_used_ = position_.next_used;
  // Pairs with the driver's read barrier between the index and the elements.
  Word16(device_ring_, kRingIndex).store(published_used_, std::memory_order_release);
  // Pairs with the driver's full barrier between writing used_event (or the flags) and
  // re-reading the used index: one of the two sides sees the other (§2.7.7.1).
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (event_idx_) {
    const std::size_t used_event = DriverRingBytes(size_) - kEventIndexBytes;
    return EventPassed(Word16(driver_ring_, used_event).load(std::memory_order_relaxed),
                       published_used_, old_index);
  }
  const std::uint16_t flags = Word16(driver_ring_, kRingFlags).load(std::memory_order_relaxed);
  return (flags & kAvailNoInterrupt) == 0;
}

void Queue::DisableNotifications() {
  // With EVENT_IDX there is nothing to write: avail_event stays behind the index.
  if (!event_idx_) {
    Word16(device_ring_, kRingFlags).store(kUsedNoNotify, std::memory_order_relaxed);
  }
}

void Queue::NotifyFrom(std::uint16_t index) {
  if (event_idx_) {
    const std::size_t avail_event = DeviceRingBytes(size_) - kEventIndexBytes;
    Word16(device_ring_, avail_event).store(index, std::memory_order_relaxed);
  } else {
    Word16(device_ring_, kRingFlags).store(0, std::memory_order_relaxed);
  }
}

std::uint16_t Queue::NotifyOfMore() {
  const std::uint16_t index = LoadAvailIndex();
  NotifyFrom(index);
  return index;
}

bool Queue::EnableNotifications() {
  NotifyFrom(position_.next_avail);
  // Pairs with the driver's full barrier between storing the available index and reading
  // avail_event (or the flags): either it notifies, or we see its index (§2.7.10).
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return LoadAvailIndex() != position_.next_avail;
}

}  // namespace embervm::virtio
