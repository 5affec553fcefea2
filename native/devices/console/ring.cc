#include "devices/console/ring.h"

#include <sys/mman.h>

#include <algorithm>
#include <iterator>
#include <utility>

namespace embervm::devices {

Result<std::unique_ptr<ConsoleRing>> ConsoleRing::Create(std::size_t capacity,
                                                         OverflowHandler on_overflow) {
  if (capacity == 0) {
    return std::unexpected(
        Error("ERR_INVALID_CONFIG", "the console ring needs a capacity of at least 1 byte"));
  }
  // A mapping, not a vector: a guest that prints little costs little.
  EMBERVM_TRY_ASSIGN(Mapping storage,
                     Mapping::Create(capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                                     -1, 0, "console ring"));
  return std::unique_ptr<ConsoleRing>(
      new ConsoleRing(std::move(storage), capacity, std::move(on_overflow)));
}

ConsoleRing::ConsoleRing(Mapping storage, std::size_t capacity, OverflowHandler on_overflow)
    : storage_(std::move(storage)), capacity_(capacity), on_overflow_(std::move(on_overflow)) {}

void ConsoleRing::Store(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const std::span<std::byte> room = storage_.bytes().subspan(total_ % capacity_);
    const std::size_t length = std::min(bytes.size(), room.size());
    std::ranges::copy(bytes.first(length), room.begin());
    total_ += length;
    bytes = bytes.subspan(length);
  }
}

void ConsoleRing::Append(virtio::Segments segments) {
  const std::uint64_t length = virtio::TotalBytes(segments);
  std::uint64_t overflow = 0;
  {
    const std::lock_guard lock(mutex_);
    // One chain may name 4 GiB by naming the same page a million times: only what can
    // stay is copied.
    std::uint64_t skip = length > capacity_ ? length - capacity_ : 0;
    total_ += skip;
    for (const virtio::Segment& segment : segments) {
      const auto skipped = std::min<std::uint64_t>(skip, segment.iov_len);
      skip -= skipped;
      Store(std::span(static_cast<const std::byte*>(segment.iov_base), segment.iov_len)
                .subspan(skipped));
    }
    if (total_ > capacity_ && !overflow_reported_) {
      overflow_reported_ = true;
      overflow = total_ - capacity_;
    }
  }
  if (overflow > 0 && on_overflow_) on_overflow_(overflow);
}

void ConsoleRing::Append(std::byte byte) {
  const virtio::Segment segment{.iov_base = &byte, .iov_len = 1};
  Append(virtio::Segments(&segment, 1));
}

std::vector<std::byte> ConsoleRing::Tail(std::size_t max_bytes) const {
  const std::lock_guard lock(mutex_);
  const auto length = std::min<std::uint64_t>({total_, capacity_, max_bytes});
  std::vector<std::byte> tail;
  tail.reserve(length);
  const std::size_t begin = (total_ - length) % capacity_;
  const std::size_t until_wrap = std::min(length, capacity_ - begin);
  const std::span<const std::byte> ring = storage_.bytes();
  std::ranges::copy(ring.subspan(begin, until_wrap), std::back_inserter(tail));
  std::ranges::copy(ring.first(length - until_wrap), std::back_inserter(tail));
  return tail;
}

ConsoleRing::Counters ConsoleRing::counters() const {
  const std::lock_guard lock(mutex_);
  return {.bytes = total_, .dropped_bytes = total_ > capacity_ ? total_ - capacity_ : 0};
}

}  // namespace embervm::devices
