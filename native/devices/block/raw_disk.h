// RawDisk: a raw image file or host block device.
#ifndef EMBERVM_DEVICES_BLOCK_RAW_DISK_H_
#define EMBERVM_DEVICES_BLOCK_RAW_DISK_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "devices/block/disk.h"
#include "devices/block/image_file.h"
#include "virtio/segments.h"

namespace embervm::devices {

class RawDisk final : public Disk {
 public:
  // For errors and `direct` see ImageFile::Open; ERR_DRIVE_INVALID also for a size that is no
  // multiple of 512 bytes.
  static Result<std::unique_ptr<Disk>> Open(const std::string& path, bool read_only, bool direct);

  [[nodiscard]] std::uint64_t size() const override { return size_; }
  [[nodiscard]] bool read_only() const override { return file_.read_only(); }
  Result<> RefreshSize() override;
  [[nodiscard]] unsigned concurrency() const override { return 4; }
  [[nodiscard]] bool ReadAtHand(virtio::Segments segments, std::uint64_t offset) const override;
  [[nodiscard]] bool writes_to_memory() const override { return !file_.direct(); }
  bool Read(std::vector<virtio::Segment> segments, std::uint64_t offset,
            std::uint64_t& transferred) const override;
  bool Write(std::vector<virtio::Segment> segments, std::uint64_t offset, bool durable,
             std::uint64_t& transferred) const override;
  [[nodiscard]] bool Flush() const override;
  [[nodiscard]] bool Discard(std::uint64_t offset, std::uint64_t length) const override;
  [[nodiscard]] bool WriteZeroes(std::uint64_t offset, std::uint64_t length,
                                 bool may_unmap) const override;

 private:
  RawDisk(ImageFile file, std::uint64_t size) : file_(std::move(file)), size_(size) {}

  ImageFile file_;
  std::uint64_t size_;
};

}  // namespace embervm::devices

#endif  // EMBERVM_DEVICES_BLOCK_RAW_DISK_H_
