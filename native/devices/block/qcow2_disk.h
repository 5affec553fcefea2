// Qcow2Disk: a disk in a qcow2 image, without a backing file. Everything in the file but its
// header and tables may be what the guest wrote, and those may be what somebody forged: an entry
// that lies is an I/O error.
#ifndef EMBERVM_DEVICES_BLOCK_QCOW2_DISK_H_
#define EMBERVM_DEVICES_BLOCK_QCOW2_DISK_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "devices/block/disk.h"
#include "devices/block/image_file.h"
#include "devices/block/qcow2_clusters.h"
#include "devices/block/qcow2_header.h"
#include "devices/block/qcow2_tables.h"

namespace embervm::devices {

class Qcow2Disk final : public Disk {
 public:
  // For errors and `direct` see ImageFile::Open; ERR_DRIVE_INVALID also, with the reason, for an
  // image that is damaged or has what is not supported.
  static Result<std::unique_ptr<Disk>> Open(const std::string& path, bool read_only, bool direct);
  // Writes out what is only in memory.
  ~Qcow2Disk() override;

  [[nodiscard]] std::uint64_t size() const override { return header_.size; }
  [[nodiscard]] bool read_only() const override { return file_.read_only(); }
  // It does not change while it is in use here.
  Result<> RefreshSize() override { return {}; }
  bool Read(std::vector<virtio::Segment> segments, std::uint64_t offset,
            std::uint64_t& transferred) const override;
  bool Write(std::vector<virtio::Segment> segments, std::uint64_t offset, bool durable,
             std::uint64_t& transferred) const override;
  [[nodiscard]] bool Flush() const override;
  // Both have the file system take back what is in the clusters; they stay the disk's.
  [[nodiscard]] bool Discard(std::uint64_t offset, std::uint64_t length) const override;
  [[nodiscard]] bool WriteZeroes(std::uint64_t offset, std::uint64_t length,
                                 bool may_unmap) const override;

 private:
  // A part of one cluster.
  struct Part {
    std::uint64_t cluster;
    std::uint64_t within;
    std::uint64_t length;
  };

  Qcow2Disk(ImageFile file, const Qcow2Header& header, std::uint64_t file_bytes);
  Result<> Load();
  // `each` of the parts in order, with the bytes before it, until one returns false.
  template <class Each>
  bool ForEachPart(std::uint64_t offset, std::uint64_t length, Each each) const;
  // `each` of the parts that are in the file and not all zeroes, with where.
  template <class Each>
  bool ForEachStored(std::uint64_t offset, std::uint64_t length, Each each) const;
  bool ReadPart(const Part& part, std::vector<virtio::Segment> segments) const;
  bool WritePart(const Part& part, std::vector<virtio::Segment> segments) const;
  bool WriteNew(const Part& part, std::vector<virtio::Segment> segments) const;
  [[nodiscard]] bool IsWritable(const Qcow2Tables::Place& place) const;

  const ImageFile file_;
  const Qcow2Header header_;
  // A disk's calls are const, for it is what lies below that changes; they come one at a time.
  mutable Qcow2Clusters clusters_;
  mutable Qcow2Tables tables_;
};

}  // namespace embervm::devices

#endif  // EMBERVM_DEVICES_BLOCK_QCOW2_DISK_H_
