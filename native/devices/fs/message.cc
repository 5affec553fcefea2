#include "devices/fs/message.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "devices/fs/limits.h"

namespace embervm::devices::fs {

std::optional<std::string> Body::TakeText(std::size_t max_length) {
  const auto end = std::ranges::find(rest_, std::byte{0});
  const auto length = static_cast<std::size_t>(end - rest_.begin());
  if (end == rest_.end() || length == 0 || length > max_length) return std::nullopt;
  std::string text(length, '\0');
  std::memcpy(text.data(), rest_.data(), length);
  rest_ = rest_.subspan(length + 1);
  return text;
}

Answer<std::string> Body::TakeName() {
  std::optional<std::string> name = TakeText(kMaxLinkTarget);
  if (!name.has_value()) return std::unexpected(EINVAL);
  if (name->size() > kMaxName) return std::unexpected(ENAMETOOLONG);
  // Either would leave the directory that the name is looked up in.
  if (*name == "." || *name == ".." || name->find('/') != std::string::npos) {
    return std::unexpected(EINVAL);
  }
  return *std::move(name);
}

std::span<const std::byte> Body::TakeBytes(std::size_t length) {
  const auto bytes = rest_.first(std::min(length, rest_.size()));
  rest_ = rest_.subspan(bytes.size());
  return bytes;
}

Reply::Reply(virtio::Segments writable) : writable_(writable) {
  const std::uint64_t total = virtio::TotalBytes(writable);
  has_header_ = total >= sizeof(OutHeader);
  room_ = has_header_ ? total - sizeof(OutHeader) : 0;
}

void Reply::PutBytes(std::span<const std::byte> bytes) {
  const auto part = bytes.first(std::min<std::uint64_t>(bytes.size(), room()));
  virtio::CopyTo(writable_, sizeof(OutHeader) + size_, part);
  size_ += part.size();
}

std::vector<virtio::Segment> Reply::Next(std::uint64_t length) const {
  return virtio::Subrange(writable_, sizeof(OutHeader) + size_, std::min(length, room()));
}

std::uint32_t Reply::Finish(std::uint64_t unique, int error) {
  if (!has_header_) return 0;
  if (error != 0) size_ = 0;
  // A chain has fewer than 2^32 bytes.
  const auto length = static_cast<std::uint32_t>(sizeof(OutHeader) + size_);
  const OutHeader header{.len = length, .error = -error, .unique = unique};
  virtio::CopyTo(writable_, 0, AsBytes(header));
  return length;
}

}  // namespace embervm::devices::fs
