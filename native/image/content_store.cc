#include "image/content_store.h"

#include <algorithm>

#include "image/erofs_format.h"
#include "image/failure.h"

namespace embervm::image {

namespace {

using erofs::kBlockBytes;

// A longer end would leave much of the block behind its inode empty, and one of a large file
// saves little: a read of it would touch two places.
constexpr std::uint64_t kMaxTail = kBlockBytes / 2;
constexpr std::uint64_t kMaxFileWithTail = 16 * kBlockBytes;

}  // namespace

Result<> ContentStore::Begin(Inode& inode) {
  total_bytes_ += inode.size;  // The size of each is limited: this cannot wrap.
  if (total_bytes_ > limits_.max_total_bytes) {
    return OverLimit("the files of the image are too large", limits_.max_total_bytes);
  }
  const std::uint64_t tail = inode.size % kBlockBytes;
  std::uint64_t xattr_bytes = 0;
  for (const auto& [name, value] : inode.attributes.xattrs) {
    xattr_bytes += name.size() + value.size();
  }
  const bool inlined =
      tail > 0 && tail <= kMaxTail && inode.size <= kMaxFileWithTail && xattr_bytes <= kMaxTail / 2;
  if (inlined) {
    inode.tail_bytes = static_cast<std::uint32_t>(tail);
    inode.tail_offset = tails_end_;
    tails_end_ += tail;
  }
  inode.blocks = inode.size / kBlockBytes + (tail > 0 && !inlined ? 1 : 0);
  if (inode.blocks == 0) return {};
  EMBERVM_TRY_ASSIGN(inode.first_block, Allocate(inode.blocks));
  return {};
}

Result<> ContentStore::Write(const Inode& inode, std::uint64_t offset,
                             std::span<const std::byte> bytes) {
  const std::uint64_t in_blocks = inode.blocks * kBlockBytes;
  if (offset < in_blocks) {
    const std::size_t count = std::min<std::uint64_t>(bytes.size(), in_blocks - offset);
    EMBERVM_TRY(image_.Write(inode.first_block * kBlockBytes + offset, bytes.first(count)));
    bytes = bytes.subspan(count);
    offset += count;
  }
  if (bytes.empty()) return {};
  return tails_.Write(inode.tail_offset + offset - in_blocks, bytes);
}

Result<std::uint64_t> ContentStore::Allocate(std::uint64_t blocks) {
  const std::uint64_t most = std::min(limits_.max_image_bytes / kBlockBytes, erofs::kMaxBlocks - 1);
  if (blocks > most || next_block_ > most - blocks) {
    return OverLimit("the image is too large", most * kBlockBytes);
  }
  const std::uint64_t first = next_block_;
  next_block_ += blocks;
  return first;
}

Result<> ContentStore::ClearOthers(std::span<const BlockRange> live) {
  std::uint64_t at = 1;
  const auto clear_to = [this, &at](std::uint64_t block) -> Result<> {
    if (block <= at) return {};
    return image_.Clear(at * kBlockBytes, (block - at) * kBlockBytes);
  };
  for (const BlockRange& range : live) {
    EMBERVM_TRY(clear_to(range.first));
    at = range.first + range.count;
  }
  return clear_to(next_block_);
}

Result<> ContentStore::ReadTail(const Inode& inode, std::span<std::byte> bytes) {
  return tails_.Read(inode.tail_offset, bytes);
}

}  // namespace embervm::image
