// A FUSE message and its answer. What the guest wrote is copied out of its memory once, and
// every length in it is checked against what is there.
#ifndef EMBERVM_DEVICES_FS_MESSAGE_H_
#define EMBERVM_DEVICES_FS_MESSAGE_H_

#include <cstddef>
#include <cstdint>
#include <expected>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "base/bytes.h"
#include "devices/fs/protocol.h"
#include "virtio/segments.h"

namespace embervm::devices::fs {

// A value, or the errno that the guest is answered.
template <class T>
using Answer = std::expected<T, int>;

// What follows the header.
class Body {
 public:
  explicit Body(std::span<const std::byte> bytes) : rest_(bytes) {}

  template <class T>
    requires std::is_trivially_copyable_v<T>
  [[nodiscard]] bool Take(T& out) {
    if (rest_.size() < sizeof(T)) return false;
    out = LoadLe<T>(rest_);
    rest_ = rest_.subspan(sizeof(T));
    return true;
  }
  // Everything up to a NUL, which has to be there; empty text is none.
  [[nodiscard]] std::optional<std::string> TakeText(std::size_t max_length);
  // One component of a path: EINVAL for what is none, ENAMETOOLONG.
  [[nodiscard]] Answer<std::string> TakeName();
  [[nodiscard]] std::span<const std::byte> TakeBytes(std::size_t length);

  [[nodiscard]] std::size_t size() const { return rest_.size(); }
  [[nodiscard]] bool empty() const { return rest_.empty(); }

 private:
  std::span<const std::byte> rest_;
};

// Room in the guest's memory for the answer: first its header, written last.
class Reply {
 public:
  explicit Reply(virtio::Segments writable);

  // For what comes after the header.
  [[nodiscard]] std::uint64_t room() const { return room_ - size_; }
  template <class T>
    requires std::is_trivially_copyable_v<T>
  void Put(const T& value) {
    PutBytes(AsBytes(value));
  }
  // What has no room is cut off: callers look at room() first.
  void PutBytes(std::span<const std::byte> bytes);
  // The part of the guest's memory that is next, for a system call to fill; then how much
  // of it was filled.
  [[nodiscard]] std::vector<virtio::Segment> Next(std::uint64_t length) const;
  void Filled(std::uint64_t length) { size_ += length; }

  // Returns the length for the used ring.
  std::uint32_t Finish(std::uint64_t unique, int error);

 private:
  virtio::Segments writable_;
  bool has_header_;
  std::uint64_t room_;
  std::uint64_t size_ = 0;
};

struct Request {
  InHeader header;
  Body body;
  // Of a WRITE: the guest's memory itself.
  std::vector<virtio::Segment> data;
  Reply reply;
};

}  // namespace embervm::devices::fs

#endif  // EMBERVM_DEVICES_FS_MESSAGE_H_
