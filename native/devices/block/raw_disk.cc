#include "devices/block/raw_disk.h"

#include <utility>

#include "devices/block/protocol.h"

namespace embervm::devices {

namespace {

Result<std::uint64_t> SizeOf(const ImageFile& file) {
  EMBERVM_TRY_ASSIGN(const std::uint64_t size, file.Size());
  if (size % block::kSectorSize == 0) return size;
  return std::unexpected(file.Invalid("its size is not a multiple of 512 bytes")
                             .With("bytes", static_cast<std::int64_t>(size)));
}

}  // namespace

Result<std::unique_ptr<Disk>> RawDisk::Open(const std::string& path, bool read_only, bool direct) {
  EMBERVM_TRY_ASSIGN(ImageFile file, ImageFile::Open(path, read_only, direct));
  EMBERVM_TRY_ASSIGN(const std::uint64_t size, SizeOf(file));
  return std::unique_ptr<Disk>(new RawDisk(std::move(file), size));
}

Result<> RawDisk::RefreshSize() {
  EMBERVM_TRY_ASSIGN(size_, SizeOf(file_));
  return {};
}

bool RawDisk::ReadAtHand(virtio::Segments segments, std::uint64_t offset) const {
  return file_.ReadAtHand(segments, offset);
}

bool RawDisk::Read(std::vector<virtio::Segment> segments, std::uint64_t offset,
                   std::uint64_t& transferred) const {
  return file_.Read(std::move(segments), offset, transferred);
}

bool RawDisk::Write(std::vector<virtio::Segment> segments, std::uint64_t offset, bool durable,
                    std::uint64_t& transferred) const {
  return file_.Write(std::move(segments), offset, durable, transferred);
}

bool RawDisk::Flush() const { return file_.Flush(); }

bool RawDisk::Discard(std::uint64_t offset, std::uint64_t length) const {
  return file_.Discard(offset, length);
}

bool RawDisk::WriteZeroes(std::uint64_t offset, std::uint64_t length, bool may_unmap) const {
  return file_.WriteZeroes(offset, length, may_unmap);
}

}  // namespace embervm::devices
