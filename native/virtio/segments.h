// Scatter-gather lists over checked guest memory. A segment is an iovec so that a
// chain goes to preadv, pwritev or sendmsg as it is, without a copy.
#ifndef EMBERVM_VIRTIO_SEGMENTS_H_
#define EMBERVM_VIRTIO_SEGMENTS_H_

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

namespace embervm::virtio {

using Segment = iovec;
using Segments = std::span<const Segment>;

[[nodiscard]] std::uint64_t TotalBytes(Segments segments);

// Copies from or to the list, beginning `offset` bytes into it; returns the bytes
// copied, which is less than asked for when the list ends first. What the guest
// wrote is read exactly once, so a value in `out` cannot change after a check.
std::size_t CopyFrom(Segments segments, std::uint64_t offset, std::span<std::byte> out);
std::size_t CopyTo(Segments segments, std::uint64_t offset, std::span<const std::byte> in);

// The part [offset, offset + length) of the list, clipped to its end.
[[nodiscard]] std::vector<Segment> Subrange(Segments segments, std::uint64_t offset,
                                            std::uint64_t length);

// Reads a protocol header; false when the list is too short.
template <class T>
  requires std::is_trivially_copyable_v<T>
[[nodiscard]] bool ReadStruct(Segments segments, std::uint64_t offset, T& out) {
  return CopyFrom(segments, offset, std::as_writable_bytes(std::span<T, 1>(&out, 1))) == sizeof(T);
}

template <class T>
  requires std::is_trivially_copyable_v<T>
[[nodiscard]] bool WriteStruct(Segments segments, std::uint64_t offset, const T& in) {
  return CopyTo(segments, offset, std::as_bytes(std::span<const T, 1>(&in, 1))) == sizeof(T);
}

}  // namespace embervm::virtio

#endif  // EMBERVM_VIRTIO_SEGMENTS_H_
