// DriverQueue: the driver side of a split virtqueue in real guest memory. Lays out the
// rings, adds chains, reads the used ring, and can be told to lie.
#ifndef EMBERVM_TEST_SUPPORT_DRIVER_QUEUE_H_
#define EMBERVM_TEST_SUPPORT_DRIVER_QUEUE_H_

#include <atomic>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "memory/guest_memory.h"
#include "virtio/abi.h"
#include "virtio/queue.h"

namespace embervm::test {

// One descriptor's worth of a chain.
struct DriverBuffer {
  GuestAddr addr;
  std::uint32_t len;
  bool writable;
};

// Hands out guest memory, never twice.
class GuestArena {
 public:
  GuestArena(const GuestMemory& memory, GuestAddr base) : memory_(memory), next_(base) {}

  GuestAddr Allocate(std::uint64_t length, std::uint64_t alignment = 16) {
    next_ = (next_ + alignment - 1) / alignment * alignment;
    const GuestAddr addr = next_;
    next_ += length;
    return addr;
  }
  [[nodiscard]] const GuestMemory& memory() const { return memory_; }

 private:
  const GuestMemory& memory_;
  GuestAddr next_;
};

class DriverQueue {
 public:
  DriverQueue(GuestArena& arena, std::uint16_t size, std::uint64_t features)
      : arena_(&arena),
        size_(size),
        event_idx_((features & virtio::kFeatureEventIdx) != 0),
        descriptors_(arena.Allocate(std::uint64_t{size} * sizeof(virtio::Descriptor), 16)),
        driver_ring_(arena.Allocate(kRingHeader + size * 2U + 2, 2)),
        device_ring_(arena.Allocate(kRingHeader + size * 8U + 2, 4)),
        chains_(size) {
    for (std::uint16_t index = 0; index < size; ++index) free_.push_back(index);
  }

  [[nodiscard]] virtio::QueueConfig Config(std::uint16_t max_size) const {
    return {.max_size = max_size,
            .size = size_,
            .ready = true,
            .descriptor_table = descriptors_,
            .driver_ring = driver_ring_,
            .device_ring = device_ring_};
  }

  [[nodiscard]] std::uint16_t size() const { return size_; }
  [[nodiscard]] std::size_t free_descriptors() const { return free_.size(); }
  [[nodiscard]] GuestAddr descriptors() const { return descriptors_; }
  [[nodiscard]] GuestAddr driver_ring() const { return driver_ring_; }
  [[nodiscard]] GuestAddr device_ring() const { return device_ring_; }

  // Adds a chain of direct descriptors and makes it available. Returns its head.
  std::uint16_t Add(std::span<const DriverBuffer> buffers) {
    std::vector<std::uint16_t> indices(free_.end() - static_cast<std::ptrdiff_t>(buffers.size()),
                                       free_.end());
    free_.resize(free_.size() - buffers.size());
    for (std::size_t i = 0; i < buffers.size(); ++i) {
      const bool last = i + 1 == buffers.size();
      SetDescriptor(indices[i], ToDescriptor(buffers[i], last ? 0 : indices[i + 1], !last));
    }
    const std::uint16_t head = indices.front();
    chains_[head] = std::move(indices);
    MakeAvailable(head);
    return head;
  }
  std::uint16_t Add(std::initializer_list<DriverBuffer> buffers) {
    return Add(std::span(buffers.begin(), buffers.size()));
  }

  // Adds a chain through one indirect table.
  std::uint16_t AddIndirect(std::span<const DriverBuffer> buffers) {
    const auto count = static_cast<std::uint32_t>(buffers.size());
    const GuestAddr table = arena_->Allocate(count * sizeof(virtio::Descriptor));
    for (std::uint32_t i = 0; i < count; ++i) {
      const bool last = i + 1 == count;
      const auto next = static_cast<std::uint16_t>(last ? 0 : i + 1);
      Store(table + i * sizeof(virtio::Descriptor), ToDescriptor(buffers[i], next, !last));
    }
    const std::uint16_t head = free_.back();
    free_.pop_back();
    SetDescriptor(head, {.addr = table,
                         .len = static_cast<std::uint32_t>(count * sizeof(virtio::Descriptor)),
                         .flags = virtio::kDescIndirect,
                         .next = 0});
    chains_[head] = {head};
    MakeAvailable(head);
    return head;
  }

  // Writes the head into the ring and moves the index. True when the device asked for a
  // notification of it.
  bool MakeAvailable(std::uint16_t head) {
    Word(driver_ring_ + kRingHeader + (avail_index_ % size_) * 2U)
        .store(head, std::memory_order_relaxed);
    const std::uint16_t old_index = avail_index_++;
    Word(driver_ring_ + 2).store(avail_index_, std::memory_order_release);
    // Pairs with the fence in Queue::EnableNotifications.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    bool notify = false;
    if (event_idx_) {
      notify = avail_event() == old_index;
    } else {
      notify = (Word(device_ring_).load() & virtio::kUsedNoNotify) == 0;
    }
    needs_kick_ = needs_kick_ || notify;
    return notify;
  }
  // Whether a notification was asked for since the last call.
  bool TakeKick() { return std::exchange(needs_kick_, false); }

  std::optional<virtio::UsedElement> PopUsed() {
    const std::uint16_t index = used_index();
    if (index == next_used_) return std::nullopt;
    const auto element = Load<virtio::UsedElement>(
        device_ring_ + kRingHeader + (next_used_ % size_) * sizeof(virtio::UsedElement));
    ++next_used_;
    auto& chain = chains_.at(element.id % size_);
    free_.insert(free_.end(), chain.begin(), chain.end());
    chain.clear();
    return element;
  }

  // Asks for an interrupt when the next unseen element is used. True when one is there
  // already.
  bool EnableInterrupts() {
    if (event_idx_) {
      SetUsedEvent(next_used_);
    } else {
      Word(driver_ring_).store(0);
    }
    // Pairs with the fence in Queue::PublishUsed.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    return used_index() != next_used_;
  }
  void DisableInterrupts() {
    if (!event_idx_) Word(driver_ring_).store(virtio::kAvailNoInterrupt);
  }

  [[nodiscard]] std::uint16_t used_index() const {
    return Word(device_ring_ + 2).load(std::memory_order_acquire);
  }
  // How far PopUsed() came.
  [[nodiscard]] std::uint16_t next_used() const { return next_used_; }
  [[nodiscard]] std::uint16_t avail_event() const {
    return Word(device_ring_ + kRingHeader + size_ * 8U).load();
  }
  [[nodiscard]] std::uint16_t avail_index() const { return avail_index_; }

  // The ways to lie.
  void SetDescriptor(std::uint16_t index, const virtio::Descriptor& descriptor) {
    Store(descriptors_ + index * sizeof(virtio::Descriptor), descriptor);
  }
  void SetAvailIndex(std::uint16_t index) {
    avail_index_ = index;
    Word(driver_ring_ + 2).store(index, std::memory_order_release);
  }
  void SetUsedEvent(std::uint16_t index) {
    Word(driver_ring_ + kRingHeader + size_ * 2U).store(index);
  }
  // Continues at ring positions other than zero.
  void SetPosition(std::uint16_t index) {
    next_used_ = index;
    SetAvailIndex(index);
    Word(device_ring_ + 2).store(index);
  }

 private:
  static constexpr std::uint64_t kRingHeader = 4;

  static virtio::Descriptor ToDescriptor(const DriverBuffer& buffer, std::uint16_t next,
                                         bool has_next) {
    std::uint16_t flags = 0;
    if (has_next) flags |= virtio::kDescNext;
    if (buffer.writable) flags |= virtio::kDescWrite;
    return {.addr = buffer.addr, .len = buffer.len, .flags = flags, .next = next};
  }

  [[nodiscard]] std::atomic_ref<std::uint16_t> Word(GuestAddr addr) const {
    return std::atomic_ref(
        *reinterpret_cast<std::uint16_t*>(arena_->memory().Slice(addr, 2).value().data()));
  }
  template <class T>
  void Store(GuestAddr addr, const T& value) {
    StoreLe(arena_->memory().Slice(addr, sizeof(T)).value(), 0, value);
  }
  template <class T>
  [[nodiscard]] T Load(GuestAddr addr) const {
    return LoadLe<T>(arena_->memory().Slice(addr, sizeof(T)).value());
  }

  GuestArena* arena_;
  std::uint16_t size_;
  bool event_idx_;
  GuestAddr descriptors_;
  GuestAddr driver_ring_;
  GuestAddr device_ring_;
  std::uint16_t avail_index_ = 0;
  std::uint16_t next_used_ = 0;
  bool needs_kick_ = false;
  std::vector<std::uint16_t> free_;
  // The descriptors of each chain in flight, by head.
  std::vector<std::vector<std::uint16_t>> chains_;
};

}  // namespace embervm::test

#endif  // EMBERVM_TEST_SUPPORT_DRIVER_QUEUE_H_
