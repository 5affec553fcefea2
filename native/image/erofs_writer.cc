#include "image/erofs_writer.h"

#include <sys/stat.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "base/bytes.h"
#include "base/crc64.h"
#include "image/erofs_encode.h"
#include "image/erofs_format.h"
#include "image/failure.h"

namespace embervm::image {

namespace {

using erofs::kBlockBytes;
using erofs::kInodeSlot;

constexpr std::uint64_t RoundUp(std::uint64_t value, std::uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

std::uint32_t FormatBits(FileType type) {
  switch (type) {
    case FileType::kRegular:
      return S_IFREG;
    case FileType::kDirectory:
      return S_IFDIR;
    case FileType::kSymlink:
      return S_IFLNK;
    case FileType::kCharDevice:
      return S_IFCHR;
    case FileType::kBlockDevice:
      return S_IFBLK;
    case FileType::kFifo:
      break;
  }
  return S_IFIFO;
}

bool IsDevice(FileType type) {
  return type == FileType::kCharDevice || type == FileType::kBlockDevice;
}

// new_encode_dev() of Linux.
std::uint32_t EncodeDevice(const Inode& inode) {
  const std::uint32_t low = inode.device_minor & 0xffU;
  return low | inode.device_major << 8U | (inode.device_minor & ~0xffU) << 12U;
}

}  // namespace

Result<ErofsReport> ErofsWriter::Write() {
  Collect();
  FindBuildTime();
  EMBERVM_TRY(ClearUnused());
  EMBERVM_TRY(PlaceContent());
  EMBERVM_TRY(PlaceInodes());
  for (const Item& item : items_) EMBERVM_TRY(WriteItem(item));
  const std::uint64_t meta_blocks = RoundUp(meta_bytes_, kBlockBytes) / kBlockBytes;
  const std::uint64_t blocks = meta_block_ + meta_blocks;
  EMBERVM_TRY(WriteSuperBlock(blocks));
  EMBERVM_TRY(content_.image().Resize(blocks * kBlockBytes));
  return ErofsReport{.image_bytes = blocks * kBlockBytes, .inodes = items_.size()};
}

// Breadth first: the inodes of the files of one directory lie together.
void ErofsWriter::Collect() {
  Inode* const root = tree_.root().get();
  items_.push_back({.inode = root, .parent = root});
  root->number = 1;
  root->links = 2;
  for (std::size_t i = 0; i < items_.size(); ++i) {
    Inode* const directory = items_[i].inode;
    if (directory->type != FileType::kDirectory) continue;
    for (auto& [name, entry] : directory->children) {
      Inode& inode = *entry.inode;
      if (inode.type == FileType::kDirectory) {
        inode.links = 2;
        ++directory->links;
      } else if (++inode.links > 1) {
        continue;
      }
      items_.push_back({.inode = &inode, .parent = directory});
      inode.number = static_cast<std::uint32_t>(items_.size());
    }
  }
}

void ErofsWriter::FindBuildTime() {
  // Inodes of this very time need not say it.
  build_time_ = std::numeric_limits<std::int64_t>::min();
  for (const Item& item : items_) {
    const Attributes& attributes = item.inode->attributes;
    const std::pair time(attributes.mtime, attributes.mtime_nsec);
    if (time > std::pair(build_time_, build_time_nsec_)) {
      std::tie(build_time_, build_time_nsec_) = time;
    }
  }
}

Result<> ErofsWriter::ClearUnused() {
  std::vector<BlockRange> live;
  for (const Item& item : items_) {
    if (item.inode->blocks > 0) {
      live.push_back({.first = item.inode->first_block, .count = item.inode->blocks});
    }
  }
  std::ranges::sort(live, {}, &BlockRange::first);
  return content_.ClearOthers(live);
}

Result<> ErofsWriter::PlaceContent() {
  for (Item& item : items_) {
    const Inode& inode = *item.inode;
    item.xattr_bytes =
        static_cast<std::uint32_t>(erofs::EncodeXattrs(inode.attributes.xattrs).size());
    if (inode.type == FileType::kRegular) {
      item.size = inode.size;
      item.first_block = inode.first_block;
      item.tail_bytes = inode.tail_bytes;
      continue;
    }
    if (inode.type == FileType::kDirectory) {
      item.size = erofs::DirectoryBytes(erofs::ListDirectory(inode, *item.parent));
    } else {
      item.size = inode.link.size();
    }
    const std::uint64_t tail = item.size % kBlockBytes;
    // The end of the content must be in one block with the inode.
    const bool inlined = tail > 0 && erofs::kExtendedBytes + item.xattr_bytes + tail <= kBlockBytes;
    item.tail_bytes = inlined ? static_cast<std::uint32_t>(tail) : 0;
    item.own_blocks = RoundUp(item.size - item.tail_bytes, kBlockBytes) / kBlockBytes;
    if (item.own_blocks > 0) {
      EMBERVM_TRY_ASSIGN(item.first_block, content_.Allocate(item.own_blocks));
    }
  }
  return {};
}

bool ErofsWriter::FitsCompact(const Item& item) const {
  constexpr std::uint64_t kMost16 = 0xffff;
  constexpr std::uint64_t kMost32 = 0xffffffff;
  const Attributes& attributes = item.inode->attributes;
  return attributes.mtime == build_time_ && attributes.mtime_nsec == build_time_nsec_ &&
         attributes.uid <= kMost16 && attributes.gid <= kMost16 && item.inode->links <= kMost16 &&
         item.size <= kMost32;
}

Result<> ErofsWriter::PlaceInodes() {
  // No inode is number 0: some programs take that for a removed entry.
  std::uint64_t at = erofs::kExtendedBytes;
  for (Item& item : items_) {
    item.header_bytes = static_cast<std::uint32_t>(FitsCompact(item) ? erofs::kCompactBytes
                                                                     : erofs::kExtendedBytes);
    const std::uint64_t bytes = std::uint64_t{item.header_bytes} + item.xattr_bytes;
    const std::uint64_t all = bytes + item.tail_bytes;
    if (item.tail_bytes > 0 && at % kBlockBytes + all > kBlockBytes) at = RoundUp(at, kBlockBytes);
    item.position = at;
    item.inode->nid = at / kInodeSlot;
    at = RoundUp(at + all, kInodeSlot);
  }
  meta_bytes_ = at;
  EMBERVM_TRY_ASSIGN(meta_block_, content_.Allocate(RoundUp(at, kBlockBytes) / kBlockBytes));
  return {};
}

Result<> ErofsWriter::WriteItem(const Item& item) {
  const Inode& inode = *item.inode;
  const Attributes& attributes = inode.attributes;
  const bool compact = item.header_bytes == erofs::kCompactBytes;
  const std::vector<std::byte> xattrs = erofs::EncodeXattrs(attributes.xattrs);
  const auto layout = item.tail_bytes > 0 ? erofs::kFlatInline : erofs::kFlatPlain;
  const auto mode = static_cast<std::uint16_t>(FormatBits(inode.type) | attributes.mode);
  // The header counts as one, and the rest in units of four bytes.
  const auto xattr_count = static_cast<std::uint16_t>(
      xattrs.empty() ? 0 : 1 + (xattrs.size() - erofs::kXattrHeaderBytes) / erofs::kXattrAlign);
  const auto block_or_device =
      IsDevice(inode.type) ? EncodeDevice(inode) : static_cast<std::uint32_t>(item.first_block);

  scratch_.clear();
  const auto append = [this](std::span<const std::byte> bytes) {
    scratch_.insert(scratch_.end(), bytes.begin(), bytes.end());
  };
  if (compact) {
    append(AsBytes(erofs::CompactInode{.format = layout,
                                       .xattr_count = xattr_count,
                                       .mode = mode,
                                       .links = static_cast<std::uint16_t>(inode.links),
                                       .size = static_cast<std::uint32_t>(item.size),
                                       .block_or_device = block_or_device,
                                       .number = inode.number,
                                       .uid = static_cast<std::uint16_t>(attributes.uid),
                                       .gid = static_cast<std::uint16_t>(attributes.gid)}));
  } else {
    append(AsBytes(
        erofs::ExtendedInode{.format = static_cast<std::uint16_t>(layout | erofs::kExtendedBit),
                             .xattr_count = xattr_count,
                             .mode = mode,
                             .size = item.size,
                             .block_or_device = block_or_device,
                             .number = inode.number,
                             .uid = attributes.uid,
                             .gid = attributes.gid,
                             .mtime = static_cast<std::uint64_t>(attributes.mtime),
                             .mtime_nsec = attributes.mtime_nsec,
                             .links = inode.links}));
  }
  append(xattrs);
  Digest(scratch_);
  const std::uint64_t at = meta_block_ * kBlockBytes + item.position;
  EMBERVM_TRY(content_.image().Write(at, scratch_));
  return WriteContent(item, at + scratch_.size());
}

Result<> ErofsWriter::WriteContent(const Item& item, std::uint64_t tail_at) {
  if (item.inode->type == FileType::kRegular) {
    if (item.tail_bytes == 0) return {};
    scratch_.resize(item.tail_bytes);
    EMBERVM_TRY(content_.ReadTail(*item.inode, scratch_));
    return content_.image().Write(tail_at, scratch_);
  }
  if (item.size == 0) return {};
  if (item.inode->type == FileType::kDirectory) {
    scratch_ = erofs::EncodeDirectory(erofs::ListDirectory(*item.inode, *item.parent));
  } else {
    const auto link = std::as_bytes(std::span(item.inode->link));
    scratch_.assign(link.begin(), link.end());
  }
  Digest(scratch_);
  const std::span<const std::byte> bytes(scratch_);
  const std::size_t in_blocks = bytes.size() - item.tail_bytes;
  if (in_blocks > 0) {
    EMBERVM_TRY(content_.image().Write(item.first_block * kBlockBytes, bytes.first(in_blocks)));
  }
  if (item.tail_bytes == 0) return {};
  return content_.image().Write(tail_at, bytes.subspan(in_blocks));
}

Result<> ErofsWriter::WriteSuperBlock(std::uint64_t blocks) {
  const erofs::SuperBlock super{
      .root_nid = static_cast<std::uint16_t>(items_.front().inode->nid),
      .inodes = items_.size(),
      .build_time = static_cast<std::uint64_t>(build_time_),
      .build_time_nsec = build_time_nsec_,
      .blocks = static_cast<std::uint32_t>(blocks),
      .meta_block = static_cast<std::uint32_t>(meta_block_),
      .uuid = MakeUuid(),
  };
  return content_.image().Write(erofs::kSuperOffset, AsBytes(super));
}

void ErofsWriter::Digest(std::span<const std::byte> bytes) {
  // Each depends on all that came before.
  digest_[0] = Crc64(AsBytes(std::array{digest_[0], digest_[1], Crc64(bytes)}));
  digest_[1] = Crc64(AsBytes(std::array{digest_[1], digest_[0]}));
}

// Version 8 of RFC 9562: made by rules of our own.
std::array<std::uint8_t, 16> ErofsWriter::MakeUuid() const {
  std::array<std::uint8_t, 16> uuid{};
  std::memcpy(uuid.data(), digest_.data(), sizeof(digest_));
  uuid[6] = static_cast<std::uint8_t>(0x80U | (uuid[6] & 0x0fU));
  uuid[8] = static_cast<std::uint8_t>(0x80U | (uuid[8] & 0x3fU));
  return uuid;
}

}  // namespace embervm::image
