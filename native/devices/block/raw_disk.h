// RawDisk: a raw image file or host block device.
#ifndef EMBERVM_DEVICES_BLOCK_RAW_DISK_H_
#define EMBERVM_DEVICES_BLOCK_RAW_DISK_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "devices/block/disk.h"
#include "virtio/segments.h"

namespace embervm::devices {

class RawDisk final : public Disk {
 public:
  // Locks the file: shared when read-only, else exclusive, against every other open of
  // it, also in this process. Errors: ERR_DRIVE_NOT_FOUND, ERR_DRIVE_INVALID,
  // ERR_DRIVE_ACCESS, ERR_DRIVE_BUSY, ERR_RESOURCE_LIMIT. `direct`: past the host's page cache,
  // but for requests that are not aligned to the disk's blocks.
  static Result<std::unique_ptr<Disk>> Open(const std::string& path, bool read_only, bool direct);

  [[nodiscard]] std::uint64_t size() const override { return size_; }
  [[nodiscard]] bool read_only() const override { return read_only_; }
  Result<> RefreshSize() override;
  [[nodiscard]] unsigned concurrency() const override { return 4; }
  [[nodiscard]] bool ReadAtHand(virtio::Segments segments, std::uint64_t offset) const override;
  [[nodiscard]] bool writes_to_memory() const override { return !direct_.valid(); }
  bool Read(std::vector<virtio::Segment> segments, std::uint64_t offset,
            std::uint64_t& transferred) const override;
  bool Write(std::vector<virtio::Segment> segments, std::uint64_t offset, bool durable,
             std::uint64_t& transferred) const override;
  [[nodiscard]] bool Flush() const override;
  [[nodiscard]] bool Discard(std::uint64_t offset, std::uint64_t length) const override;
  [[nodiscard]] bool WriteZeroes(std::uint64_t offset, std::uint64_t length,
                                 bool may_unmap) const override;

 private:
  RawDisk(UniqueFd fd, std::string path, std::uint64_t size, bool read_only)
      : fd_(std::move(fd)), path_(std::move(path)), size_(size), read_only_(read_only) {}
  Result<> OpenDirect();
  // The descriptor for a transfer.
  [[nodiscard]] int FdFor(virtio::Segments segments, std::uint64_t offset) const;

  UniqueFd fd_;
  // The same file with O_DIRECT, where that was asked for.
  UniqueFd direct_;
  // What O_DIRECT wants addresses and offsets to be multiples of.
  std::uint32_t memory_alignment_ = 1;
  std::uint32_t offset_alignment_ = 1;
  // For messages.
  std::string path_;
  std::uint64_t size_;
  bool read_only_;
};

}  // namespace embervm::devices

#endif  // EMBERVM_DEVICES_BLOCK_RAW_DISK_H_
