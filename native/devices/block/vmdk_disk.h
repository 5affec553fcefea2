// VmdkDisk: a flat VMDK image: a descriptor, and beside it the files that are the disk's content.
#ifndef EMBERVM_DEVICES_BLOCK_VMDK_DISK_H_
#define EMBERVM_DEVICES_BLOCK_VMDK_DISK_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "devices/block/disk.h"
#include "devices/block/image_file.h"
#include "virtio/segments.h"

namespace embervm::devices {

class VmdkDisk final : public Disk {
 public:
  // For errors and `direct` see ImageFile::Open, of the descriptor and of each file;
  // ERR_DRIVE_INVALID also for a descriptor that is none, of another kind, or not true of the
  // files. To write, all extents must be files that may be written.
  static Result<std::unique_ptr<Disk>> Open(const std::string& path, bool read_only, bool direct);

  [[nodiscard]] std::uint64_t size() const override { return size_; }
  [[nodiscard]] bool read_only() const override { return descriptor_.read_only(); }
  // It has the size that its descriptor says.
  Result<> RefreshSize() override { return {}; }
  [[nodiscard]] unsigned concurrency() const override { return 4; }
  [[nodiscard]] bool ReadAtHand(virtio::Segments segments, std::uint64_t offset) const override;
  [[nodiscard]] bool writes_to_memory() const override { return !direct_; }
  bool Read(std::vector<virtio::Segment> segments, std::uint64_t offset,
            std::uint64_t& transferred) const override;
  bool Write(std::vector<virtio::Segment> segments, std::uint64_t offset, bool durable,
             std::uint64_t& transferred) const override;
  [[nodiscard]] bool Flush() const override;
  [[nodiscard]] bool Discard(std::uint64_t offset, std::uint64_t length) const override;
  [[nodiscard]] bool WriteZeroes(std::uint64_t offset, std::uint64_t length,
                                 bool may_unmap) const override;

 private:
  // In bytes.
  struct Extent {
    std::uint64_t begin;
    std::uint64_t end;
    // Absent: it reads as zeroes.
    std::optional<ImageFile> file;
    std::uint64_t file_offset;
  };
  // What of a range lies in one extent.
  struct Part {
    const Extent* extent;
    // From the start of the range.
    std::uint64_t skip;
    std::uint64_t length;
    std::uint64_t file_offset;
  };

  VmdkDisk(ImageFile descriptor, std::vector<Extent> extents, bool direct)
      : descriptor_(std::move(descriptor)),
        extents_(std::move(extents)),
        size_(extents_.back().end),
        direct_(direct) {}
  // The caller of Disk checked the range.
  [[nodiscard]] std::vector<Part> PartsOf(std::uint64_t offset, std::uint64_t length) const;

  // Only its lock is used.
  ImageFile descriptor_;
  // In their order, without gaps, and never none.
  std::vector<Extent> extents_;
  std::uint64_t size_;
  bool direct_;
};

}  // namespace embervm::devices

#endif  // EMBERVM_DEVICES_BLOCK_VMDK_DISK_H_
