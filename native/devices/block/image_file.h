// ImageFile: the file or host block device that holds a disk, whatever its format.
#ifndef EMBERVM_DEVICES_BLOCK_IMAGE_FILE_H_
#define EMBERVM_DEVICES_BLOCK_IMAGE_FILE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "virtio/segments.h"

namespace embervm::devices {

class ImageFile {
 public:
  // Locks the file: shared when read-only, else exclusive, against every other open of
  // it, also in this process. Errors: ERR_DRIVE_NOT_FOUND, ERR_DRIVE_INVALID,
  // ERR_DRIVE_ACCESS, ERR_DRIVE_BUSY, ERR_RESOURCE_LIMIT. `direct`: past the host's page cache,
  // but for requests that are not aligned to the disk's blocks.
  static Result<ImageFile> Open(const std::string& path, bool read_only, bool direct);

  // In bytes, never 0: ERR_DRIVE_INVALID.
  [[nodiscard]] Result<std::uint64_t> Size() const;
  [[nodiscard]] bool read_only() const { return read_only_; }
  [[nodiscard]] bool direct() const { return direct_.valid(); }
  // ERR_DRIVE_INVALID for this file.
  [[nodiscard]] Error Invalid(const std::string& problem) const;

  // What Disk says of them. Nothing checks a range: what is behind the end is an error to read,
  // and makes the file longer when it is written.
  [[nodiscard]] bool ReadAtHand(virtio::Segments segments, std::uint64_t offset) const;
  bool Read(std::vector<virtio::Segment> segments, std::uint64_t offset,
            std::uint64_t& transferred) const;
  bool Write(std::vector<virtio::Segment> segments, std::uint64_t offset, bool durable,
             std::uint64_t& transferred) const;
  [[nodiscard]] bool Flush() const;
  [[nodiscard]] bool Discard(std::uint64_t offset, std::uint64_t length) const;
  [[nodiscard]] bool WriteZeroes(std::uint64_t offset, std::uint64_t length, bool may_unmap) const;

  // Of a regular file. What it gains reads as zeroes.
  [[nodiscard]] bool SetLength(std::uint64_t length) const;
  [[nodiscard]] bool ReadAt(std::uint64_t offset, std::span<std::byte> bytes) const;
  [[nodiscard]] bool WriteAt(std::uint64_t offset, std::span<const std::byte> bytes) const;

 private:
  ImageFile(UniqueFd fd, std::string path, bool read_only)
      : fd_(std::move(fd)), path_(std::move(path)), read_only_(read_only) {}
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
  bool read_only_;
};

}  // namespace embervm::devices

#endif  // EMBERVM_DEVICES_BLOCK_IMAGE_FILE_H_
