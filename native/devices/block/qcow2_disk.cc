#include "devices/block/qcow2_disk.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <utility>

namespace embervm::devices {

namespace {

void Zero(virtio::Segments segments) {
  for (const virtio::Segment& segment : segments) {
    std::memset(segment.iov_base, 0, segment.iov_len);
  }
}

}  // namespace

Result<std::unique_ptr<Disk>> Qcow2Disk::Open(const std::string& path, bool read_only,
                                              bool direct) {
  EMBERVM_TRY_ASSIGN(ImageFile file, ImageFile::Open(path, read_only, direct));
  EMBERVM_TRY_ASSIGN(const std::uint64_t bytes, file.Size());
  // The file grows, which a block device cannot.
  if (!read_only && !file.SetLength(bytes)) {
    return std::unexpected(file.Invalid("a qcow2 image that is written to has to be a file"));
  }
  EMBERVM_TRY_ASSIGN(const Qcow2Header header, Qcow2Header::Read(file, bytes));
  std::unique_ptr<Qcow2Disk> disk(new Qcow2Disk(std::move(file), header, bytes));
  EMBERVM_TRY(disk->Load());
  return disk;
}

Qcow2Disk::Qcow2Disk(ImageFile file, const Qcow2Header& header, std::uint64_t file_bytes)
    : file_(std::move(file)),
      header_(header),
      clusters_(file_, header_, file_bytes),
      tables_(file_, header_, clusters_) {}

Qcow2Disk::~Qcow2Disk() {
  if (!read_only()) [[maybe_unused]]
    const bool flushed = Flush();
}

Result<> Qcow2Disk::Load() {
  EMBERVM_TRY(tables_.Load());
  EMBERVM_TRY(clusters_.Load(tables_.l2_tables()));
  if (read_only() || header_.autoclear == 0) return {};
  // They are about additions, such as dirty bitmaps, that do not learn of what is written here.
  constexpr std::array<std::byte, 8> kNone{};
  if (file_.WriteAt(qcow2::kAutoclearOffset, kNone)) return {};
  return std::unexpected(file_.Invalid("its header cannot be written"));
}

template <class Each>
bool Qcow2Disk::ForEachPart(std::uint64_t offset, std::uint64_t length, Each each) const {
  for (std::uint64_t done = 0; done < length;) {
    const std::uint64_t within = (offset + done) & (header_.cluster_bytes() - 1);
    const Part part{.cluster = (offset + done) >> header_.cluster_bits,
                    .within = within,
                    .length = std::min(length - done, header_.cluster_bytes() - within)};
    if (!each(part, done)) return false;
    done += part.length;
  }
  return true;
}

bool Qcow2Disk::Read(std::vector<virtio::Segment> segments, std::uint64_t offset,
                     std::uint64_t& transferred) const {
  transferred = 0;
  return ForEachPart(offset, virtio::TotalBytes(segments),
                     [&](const Part& part, std::uint64_t before) {
                       if (!ReadPart(part, virtio::Subrange(segments, before, part.length)))
                         return false;
                       transferred += part.length;
                       return true;
                     });
}

bool Qcow2Disk::ReadPart(const Part& part, std::vector<virtio::Segment> segments) const {
  const auto place = tables_.Find(part.cluster);
  if (!place) return false;
  if (place->zero) {
    Zero(segments);
    return true;
  }
  const std::uint64_t from = place->offset + part.within;
  // The last cluster of a file need not be whole.
  const std::uint64_t there = from < clusters_.file_bytes() ? clusters_.file_bytes() - from : 0;
  if (there < part.length) {
    Zero(virtio::Subrange(segments, there, part.length - there));
    segments = virtio::Subrange(segments, 0, there);
  }
  std::uint64_t transferred = 0;
  return file_.Read(std::move(segments), from, transferred);
}

bool Qcow2Disk::Write(std::vector<virtio::Segment> segments, std::uint64_t offset, bool durable,
                      std::uint64_t& transferred) const {
  transferred = 0;
  const bool written = ForEachPart(
      offset, virtio::TotalBytes(segments), [&](const Part& part, std::uint64_t before) {
        if (!WritePart(part, virtio::Subrange(segments, before, part.length))) return false;
        transferred += part.length;
        return true;
      });
  return written && (!durable || Flush());
}

bool Qcow2Disk::IsWritable(const Qcow2Tables::Place& place) const {
  return place.own || clusters_.HasOneUser(place.offset);
}

bool Qcow2Disk::WritePart(const Part& part, std::vector<virtio::Segment> segments) const {
  const auto place = tables_.Find(part.cluster);
  if (!place) return false;
  if (place->offset == 0) return WriteNew(part, std::move(segments));
  if (!IsWritable(*place)) return false;
  std::uint64_t transferred = 0;
  if (!place->zero) {
    return file_.Write(std::move(segments), place->offset + part.within, false, transferred);
  }
  // What is there has not been the disk's until now.
  if (!tables_.Prepare(part.cluster) ||
      !file_.WriteZeroes(place->offset, header_.cluster_bytes(), true) ||
      !file_.Write(std::move(segments), place->offset + part.within, false, transferred)) {
    return false;
  }
  tables_.Set(part.cluster, place->offset);
  return true;
}

bool Qcow2Disk::WriteNew(const Part& part, std::vector<virtio::Segment> segments) const {
  if (!tables_.Prepare(part.cluster)) return false;
  const auto offset = clusters_.Allocate(Qcow2Clusters::Use::kData);
  if (!offset) return false;
  std::uint64_t transferred = 0;
  if (!file_.Write(std::move(segments), *offset + part.within, false, transferred)) {
    clusters_.GiveBack(*offset);
    return false;
  }
  tables_.Set(part.cluster, *offset);
  return true;
}

bool Qcow2Disk::Flush() const { return tables_.Flush(); }

template <class Each>
bool Qcow2Disk::ForEachStored(std::uint64_t offset, std::uint64_t length, Each each) const {
  return ForEachPart(offset, length, [&](const Part& part, std::uint64_t) {
    const auto place = tables_.Find(part.cluster);
    if (!place) return false;
    if (place->zero) return true;
    return IsWritable(*place) && each(place->offset + part.within, part.length);
  });
}

bool Qcow2Disk::Discard(std::uint64_t offset, std::uint64_t length) const {
  return ForEachStored(offset, length, [this](std::uint64_t where, std::uint64_t bytes) {
    return file_.Discard(where, bytes);
  });
}

bool Qcow2Disk::WriteZeroes(std::uint64_t offset, std::uint64_t length, bool may_unmap) const {
  return ForEachStored(offset, length, [this, may_unmap](std::uint64_t where, std::uint64_t bytes) {
    return file_.WriteZeroes(where, bytes, may_unmap);
  });
}

}  // namespace embervm::devices
