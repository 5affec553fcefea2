#include "devices/block/vmdk_disk.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>
#include <system_error>

#include "base/checked.h"
#include "devices/block/protocol.h"
#include "devices/block/vmdk_descriptor.h"

namespace embervm::devices {

namespace {

constexpr std::size_t kZeroChunk = 65536;
constexpr std::array<std::byte, kZeroChunk> kZeroes{};

Result<VmdkDescriptor> ReadDescriptor(const ImageFile& file) {
  EMBERVM_TRY_ASSIGN(const std::uint64_t size, file.Size());
  // One byte more than there may be: Parse() refuses it.
  std::string text(std::min<std::uint64_t>(size, VmdkDescriptor::kMaxBytes + 1), '\0');
  if (!file.ReadAt(0, std::as_writable_bytes(std::span(text)))) {
    return std::unexpected(file.Invalid("it cannot be read"));
  }
  auto descriptor = VmdkDescriptor::Parse(text);
  if (!descriptor) return std::unexpected(file.Invalid(descriptor.error()));
  return *std::move(descriptor);
}

// A link could lead anywhere on the host.
bool IsNoLink(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::symlink_status(path, ignored).type() !=
         std::filesystem::file_type::symlink;
}

void FillWithZeroes(virtio::Segments segments, std::uint64_t offset, std::uint64_t length) {
  while (length > 0) {
    const std::size_t chunk = std::min<std::uint64_t>(length, kZeroes.size());
    virtio::CopyTo(segments, offset, std::span(kZeroes).first(chunk));
    offset += chunk;
    length -= chunk;
  }
}

}  // namespace

Result<std::unique_ptr<Disk>> VmdkDisk::Open(const std::string& path, bool read_only, bool direct) {
  EMBERVM_TRY_ASSIGN(ImageFile descriptor_file, ImageFile::Open(path, read_only, false));
  EMBERVM_TRY_ASSIGN(const VmdkDescriptor descriptor, ReadDescriptor(descriptor_file));
  const std::filesystem::path directory = std::filesystem::path(path).parent_path();
  std::vector<Extent> extents;
  std::uint64_t begin = 0;
  for (const VmdkExtent& described : descriptor.extents) {
    if (!read_only && (!described.writable || described.file.empty())) {
      return std::unexpected(descriptor_file.Invalid(
          "an extent of it cannot be written; use the drive with readOnly"));
    }
    const std::uint64_t length = described.sectors * block::kSectorSize;
    Extent extent{.begin = begin,
                  .end = begin + length,
                  .file = std::nullopt,
                  .file_offset = described.offset * block::kSectorSize};
    begin = extent.end;
    if (!described.file.empty()) {
      const std::filesystem::path file_path = directory / described.file;
      if (!IsNoLink(file_path)) {
        return std::unexpected(descriptor_file.Invalid("the file of an extent is a link"));
      }
      EMBERVM_TRY_ASSIGN(ImageFile file, ImageFile::Open(file_path.string(), read_only, direct));
      EMBERVM_TRY_ASSIGN(const std::uint64_t file_size, file.Size());
      if (!RangeFits(extent.file_offset, length, file_size)) {
        return std::unexpected(
            file.Invalid("it is shorter than the descriptor of its VMDK says")
                .With("bytes", static_cast<std::int64_t>(file_size))
                .With("expectedBytes", static_cast<std::int64_t>(extent.file_offset + length)));
      }
      extent.file = std::move(file);
    }
    extents.push_back(std::move(extent));
  }
  return std::unique_ptr<Disk>(
      new VmdkDisk(std::move(descriptor_file), std::move(extents), direct));
}

std::vector<VmdkDisk::Part> VmdkDisk::PartsOf(std::uint64_t offset, std::uint64_t length) const {
  std::vector<Part> parts;
  auto extent = std::ranges::upper_bound(extents_, offset, {}, &Extent::end);
  for (std::uint64_t skip = 0; skip < length && extent != extents_.end(); ++extent) {
    const std::uint64_t inside = offset + skip - extent->begin;
    const std::uint64_t part = std::min(length - skip, extent->end - extent->begin - inside);
    parts.push_back({.extent = &*extent,
                     .skip = skip,
                     .length = part,
                     .file_offset = extent->file_offset + inside});
    skip += part;
  }
  return parts;
}

bool VmdkDisk::ReadAtHand(virtio::Segments segments, std::uint64_t offset) const {
  const std::vector<Part> parts = PartsOf(offset, virtio::TotalBytes(segments));
  return parts.size() == 1 && parts.front().extent->file &&
         parts.front().extent->file->ReadAtHand(segments, parts.front().file_offset);
}

bool VmdkDisk::Read(std::vector<virtio::Segment> segments, std::uint64_t offset,
                    std::uint64_t& transferred) const {
  transferred = 0;
  for (const Part& part : PartsOf(offset, virtio::TotalBytes(segments))) {
    std::uint64_t done = part.length;
    bool whole = true;
    if (part.extent->file) {
      whole = part.extent->file->Read(virtio::Subrange(segments, part.skip, part.length),
                                      part.file_offset, done);
    } else {
      FillWithZeroes(segments, part.skip, part.length);
    }
    transferred += done;
    if (!whole) return false;
  }
  return true;
}

bool VmdkDisk::Write(std::vector<virtio::Segment> segments, std::uint64_t offset, bool durable,
                     std::uint64_t& transferred) const {
  transferred = 0;
  // A disk that is written has a file for each extent.
  for (const Part& part : PartsOf(offset, virtio::TotalBytes(segments))) {
    std::uint64_t done = 0;
    const bool whole = part.extent->file->Write(virtio::Subrange(segments, part.skip, part.length),
                                                part.file_offset, durable, done);
    transferred += done;
    if (!whole) return false;
  }
  return true;
}

bool VmdkDisk::Flush() const {
  return std::ranges::all_of(
      extents_, [](const Extent& extent) { return !extent.file || extent.file->Flush(); });
}

bool VmdkDisk::Discard(std::uint64_t offset, std::uint64_t length) const {
  return std::ranges::all_of(PartsOf(offset, length), [](const Part& part) {
    return part.extent->file->Discard(part.file_offset, part.length);
  });
}

bool VmdkDisk::WriteZeroes(std::uint64_t offset, std::uint64_t length, bool may_unmap) const {
  return std::ranges::all_of(PartsOf(offset, length), [may_unmap](const Part& part) {
    return part.extent->file->WriteZeroes(part.file_offset, part.length, may_unmap);
  });
}

}  // namespace embervm::devices
