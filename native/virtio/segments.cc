#include "virtio/segments.h"

#include <algorithm>
#include <atomic>
#include <cstring>

namespace embervm::virtio {

namespace {

// Calls `copy(segment part, position)` for the parts of the list that make up
// [offset, offset + length); returns the bytes covered.
template <class Copy>
std::size_t ForEachPart(Segments segments, std::uint64_t offset, std::size_t length, Copy copy) {
  std::size_t done = 0;
  for (const Segment& segment : segments) {
    if (done == length) break;
    if (offset >= segment.iov_len) {
      offset -= segment.iov_len;
      continue;
    }
    const std::size_t part = std::min<std::size_t>(segment.iov_len - offset, length - done);
    copy(static_cast<std::byte*>(segment.iov_base) + offset, part, done);
    done += part;
    offset = 0;
  }
  return done;
}

}  // namespace

std::uint64_t TotalBytes(Segments segments) {
  std::uint64_t total = 0;
  for (const Segment& segment : segments) total += segment.iov_len;
  return total;
}

std::size_t CopyFrom(Segments segments, std::uint64_t offset, std::span<std::byte> out) {
  const std::size_t copied =
      ForEachPart(segments, offset, out.size(),
                  [out](const std::byte* part, std::size_t length, std::size_t position) {
                    std::memcpy(out.subspan(position).data(), part, length);
                  });
  // Another vCPU may change the source at any moment: the compiler must not fetch it a
  // second time in place of the copy.
  std::atomic_signal_fence(std::memory_order_seq_cst);
  return copied;
}

std::size_t CopyTo(Segments segments, std::uint64_t offset, std::span<const std::byte> in) {
  return ForEachPart(segments, offset, in.size(),
                     [in](std::byte* part, std::size_t length, std::size_t position) {
                       std::memcpy(part, in.subspan(position).data(), length);
                     });
}

std::vector<Segment> Subrange(Segments segments, std::uint64_t offset, std::uint64_t length) {
  std::vector<Segment> parts;
  parts.reserve(segments.size());
  ForEachPart(segments, offset, length,
              [&parts](std::byte* part, std::size_t part_length, std::size_t) {
                parts.push_back({.iov_base = part, .iov_len = part_length});
              });
  return parts;
}

}  // namespace embervm::virtio
