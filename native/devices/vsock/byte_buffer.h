// ByteBuffer: a FIFO of bytes that gives its memory back when it is empty.
#ifndef EMBERVM_DEVICES_VSOCK_BYTE_BUFFER_H_
#define EMBERVM_DEVICES_VSOCK_BYTE_BUFFER_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "virtio/segments.h"

namespace embervm::devices {

class ByteBuffer {
 public:
  [[nodiscard]] bool empty() const { return size() == 0; }
  [[nodiscard]] std::size_t size() const { return bytes_.size() - consumed_; }
  [[nodiscard]] std::span<const std::byte> bytes() const {
    return std::span(bytes_).subspan(consumed_);
  }

  // Appends the part of the list that begins `offset` bytes into it.
  void Append(virtio::Segments segments, std::uint64_t offset, std::size_t length) {
    // Moved to the front when at least half is consumed: the vector never holds more
    // than twice the credit that the peer was given, and few bytes move often.
    if (consumed_ >= bytes_.size() / 2) {
      bytes_.erase(bytes_.begin(), bytes_.begin() + static_cast<std::ptrdiff_t>(consumed_));
      consumed_ = 0;
    }
    const std::size_t old_size = bytes_.size();
    bytes_.resize(old_size + length);
    virtio::CopyFrom(segments, offset, std::span(bytes_).subspan(old_size));
  }

  void Consume(std::size_t length) {
    consumed_ += length;
    if (consumed_ == bytes_.size()) {
      bytes_ = {};
      consumed_ = 0;
    }
  }

 private:
  std::vector<std::byte> bytes_;
  std::size_t consumed_ = 0;
};

}  // namespace embervm::devices

#endif  // EMBERVM_DEVICES_VSOCK_BYTE_BUFFER_H_
