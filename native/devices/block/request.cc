#include "devices/block/request.h"

#include <algorithm>
#include <span>

#include "base/checked.h"
#include "devices/block/limits.h"

namespace embervm::devices {

using block::Status;

namespace {

// The range of a request in bytes, or nothing when it is not wholly on the disk.
bool RangeOnDisk(const Disk& disk, std::uint64_t sector, std::uint64_t bytes) {
  return RangeFits(sector, bytes / block::kSectorSize, disk.size() / block::kSectorSize);
}

// For who uses the list up.
std::vector<virtio::Segment> Copy(virtio::Segments segments) {
  return {segments.begin(), segments.end()};
}

}  // namespace

BlockRequest::BlockRequest(virtio::Chain& chain) {
  // virtio 1.2 §5.2.6: any split into descriptors is fine. The header is the first 16
  // readable bytes, the status the last writable byte.
  has_header_ = virtio::ReadStruct(chain.readable(), 0, header_);
  output_begin_ = chain.readable().size();
  segments_ = chain.TakeSegments();
  if (segments_.size() > output_begin_) {
    virtio::Segment& last = segments_.back();
    --last.iov_len;
    status_ = static_cast<std::byte*>(last.iov_base) + last.iov_len;
    output_bytes_ = chain.writable_bytes() - 1;
    if (last.iov_len == 0) segments_.pop_back();
  }
  // Without a header nothing looks at the input.
  for (std::size_t left = has_header_ ? sizeof(header_) : 0; left > 0;) {
    virtio::Segment& first = segments_[input_begin_];
    const std::size_t part = std::min(left, first.iov_len);
    first.iov_base = static_cast<std::byte*>(first.iov_base) + part;
    first.iov_len -= part;
    left -= part;
    if (first.iov_len == 0) ++input_begin_;
  }
}

std::uint64_t BlockRequest::DataBytes() const {
  if (!has_header_) return 0;
  if (header_.type == block::kTypeIn) return output_bytes_;
  return header_.type == block::kTypeOut ? virtio::TotalBytes(Input()) : 0;
}

bool BlockRequest::NeedsNoWait(const Disk& disk, bool durable) const {
  if (status_ == nullptr || !has_header_) return true;
  switch (header_.type) {
    case block::kTypeOut:
      return !durable && disk.writes_to_memory();
    case block::kTypeIn:
    case block::kTypeFlush:
    case block::kTypeDiscard:
    case block::kTypeWriteZeroes:
      return false;
    default:
      return true;
  }
}

std::optional<BlockResult> BlockRequest::ExecuteAtHand(const Disk& disk, const BlockId& id,
                                                       bool durable) {
  if (NeedsNoWait(disk, durable)) return Execute(disk, id, durable);
  if (header_.type != block::kTypeIn) return std::nullopt;
  const auto offset = DataOffset(disk, Output());
  if (!offset) return Finish(Status::kIoError, 0, 0);
  if (!disk.ReadAtHand(Output(), *offset)) return std::nullopt;
  return Finish(Status::kOk, output_bytes_, output_bytes_);
}

BlockResult BlockRequest::Execute(const Disk& disk, const BlockId& id, bool durable) {
  // Without a place for the status nothing is done: the driver could not know.
  if (status_ == nullptr) return {.type = header_.type};
  if (!has_header_) return Finish(Status::kIoError, 0, 0);
  Status status = Status::kUnsupported;
  std::uint64_t transferred = 0;
  std::uint64_t written = 0;
  switch (header_.type) {
    case block::kTypeIn:
      status = Read(disk, transferred);
      written = transferred;
      break;
    case block::kTypeOut:
      status = Write(disk, durable, transferred);
      break;
    case block::kTypeFlush:
      status = Flush(disk);
      break;
    case block::kTypeGetId:
      status = GetId(id, written);
      break;
    case block::kTypeDiscard:
    case block::kTypeWriteZeroes:
      status = Ranges(disk);
      if (durable && status == Status::kOk) status = Flush(disk);
      break;
    default:
      break;
  }
  return Finish(status, transferred, written);
}

BlockResult BlockRequest::Finish(Status status, std::uint64_t transferred, std::uint64_t written) {
  *status_ = static_cast<std::byte>(status);
  // §2.7.8.2: a length that is too short is safe, one that is too long is not. The
  // status byte counts only when all before it was written.
  const std::uint64_t used = written == output_bytes_ ? written + 1 : written;
  return {.status = status,
          .type = header_.type,
          .transferred = transferred,
          .used_length = static_cast<std::uint32_t>(used)};
}

std::optional<std::uint64_t> BlockRequest::DataOffset(const Disk& disk,
                                                      virtio::Segments data) const {
  const std::uint64_t bytes = virtio::TotalBytes(data);
  if (bytes % block::kSectorSize != 0 || !RangeOnDisk(disk, header_.sector, bytes)) {
    return std::nullopt;
  }
  return header_.sector * block::kSectorSize;
}

Status BlockRequest::Read(const Disk& disk, std::uint64_t& transferred) {
  const auto offset = DataOffset(disk, Output());
  const bool done = offset && disk.Read(Copy(Output()), *offset, transferred);
  return done ? Status::kOk : Status::kIoError;
}

Status BlockRequest::Write(const Disk& disk, bool durable, std::uint64_t& transferred) {
  if (disk.read_only()) return Status::kIoError;
  const auto offset = DataOffset(disk, Input());
  const bool done = offset && disk.Write(Copy(Input()), *offset, durable, transferred);
  return done ? Status::kOk : Status::kIoError;
}

Status BlockRequest::Flush(const Disk& disk) const {
  return disk.Flush() ? Status::kOk : Status::kIoError;
}

Status BlockRequest::GetId(const BlockId& id, std::uint64_t& written) const {
  if (virtio::TotalBytes(Output()) < id.size()) return Status::kIoError;
  written = virtio::CopyTo(Output(), 0, id);
  return Status::kOk;
}

Status BlockRequest::Ranges(const Disk& disk) const {
  if (disk.read_only()) return Status::kIoError;
  const bool discard = header_.type == block::kTypeDiscard;
  const std::uint64_t bytes = virtio::TotalBytes(Input());
  const std::uint32_t max_segments =
      discard ? block::kMaxDiscardSegments : block::kMaxWriteZeroesSegments;
  const std::uint32_t max_sectors =
      discard ? block::kMaxDiscardSectors : block::kMaxWriteZeroesSectors;
  if (bytes == 0 || bytes % sizeof(block::RangeSegment) != 0 ||
      bytes / sizeof(block::RangeSegment) > max_segments) {
    return Status::kIoError;
  }
  for (std::uint64_t position = 0; position < bytes; position += sizeof(block::RangeSegment)) {
    block::RangeSegment range{};
    if (!virtio::ReadStruct(Input(), position, range)) return Status::kIoError;
    // §5.2.6.2: reserved flags, and UNMAP on a discard, are unsupported.
    const std::uint32_t allowed = discard ? 0 : block::kRangeUnmap;
    if ((range.flags & ~allowed) != 0) return Status::kUnsupported;
    const std::uint64_t length = std::uint64_t{range.sector_count} * block::kSectorSize;
    if (range.sector_count > max_sectors || !RangeOnDisk(disk, range.sector, length)) {
      return Status::kIoError;
    }
    const std::uint64_t offset = range.sector * block::kSectorSize;
    const bool done =
        discard ? disk.Discard(offset, length)
                : disk.WriteZeroes(offset, length, (range.flags & block::kRangeUnmap) != 0);
    if (!done) return Status::kIoError;
  }
  return Status::kOk;
}

}  // namespace embervm::devices
