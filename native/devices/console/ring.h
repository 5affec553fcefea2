// ConsoleRing: the last output of a guest, bounded. Written by the console device and
// the serial port, read by the JS thread; every method is safe on any thread.
#ifndef EMBERVM_DEVICES_CONSOLE_RING_H_
#define EMBERVM_DEVICES_CONSOLE_RING_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/mapping.h"
#include "base/result.h"
#include "virtio/segments.h"

namespace embervm::devices {

class ConsoleRing {
 public:
  // Called once, without a lock held, when output is dropped for the first time.
  using OverflowHandler = std::function<void(std::uint64_t dropped_bytes)>;

  struct Counters {
    std::uint64_t bytes = 0;          // Written by the guest since the start.
    std::uint64_t dropped_bytes = 0;  // Of those, no longer in the ring.
  };

  // Memory is committed as it fills. `capacity` is at least 1.
  static Result<std::unique_ptr<ConsoleRing>> Create(std::size_t capacity,
                                                     OverflowHandler on_overflow);
  ConsoleRing(const ConsoleRing&) = delete;
  ConsoleRing& operator=(const ConsoleRing&) = delete;
  ~ConsoleRing() = default;

  void Append(virtio::Segments segments);
  void Append(std::byte byte);

  // The last output, at most `max_bytes` of it.
  [[nodiscard]] std::vector<std::byte> Tail(std::size_t max_bytes) const;
  [[nodiscard]] Counters counters() const;

 private:
  ConsoleRing(Mapping storage, std::size_t capacity, OverflowHandler on_overflow);
  void Store(std::span<const std::byte> bytes);

  const Mapping storage_;
  const std::size_t capacity_;
  const OverflowHandler on_overflow_;

  mutable std::mutex mutex_;
  // Guarded by mutex_. The next byte goes to total_ % capacity_.
  std::uint64_t total_ = 0;
  bool overflow_reported_ = false;
};

}  // namespace embervm::devices

#endif  // EMBERVM_DEVICES_CONSOLE_RING_H_
