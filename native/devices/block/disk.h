// Disk: a raw image file or host block device with checked ranges. Knows nothing of
// virtio; its calls block, so they can move to worker threads (all are const and safe
// side by side).
#ifndef EMBERVM_DEVICES_BLOCK_DISK_H_
#define EMBERVM_DEVICES_BLOCK_DISK_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "virtio/segments.h"

namespace embervm::devices {

class Disk {
 public:
  // Locks the file: shared when read-only, else exclusive, against every other open of
  // it, also in this process. Errors: ERR_DRIVE_NOT_FOUND, ERR_DRIVE_INVALID,
  // ERR_DRIVE_ACCESS, ERR_DRIVE_BUSY, ERR_RESOURCE_LIMIT.
  static Result<Disk> Open(const std::string& path, bool read_only);

  [[nodiscard]] std::uint64_t size() const { return size_; }
  [[nodiscard]] bool read_only() const { return read_only_; }
  // Looks at the size of the file again. On an error it is as it was: ERR_DRIVE_INVALID.
  Result<> RefreshSize();

  // Whole transfers; `transferred` tells how far an unfinished one came. False: an I/O
  // error or the end of the file. The caller checked the range against size().
  bool Read(std::vector<virtio::Segment> segments, std::uint64_t offset,
            std::uint64_t& transferred) const;
  // `durable`: all of it is on the disk when the call returns.
  bool Write(std::vector<virtio::Segment> segments, std::uint64_t offset, bool durable,
             std::uint64_t& transferred) const;
  [[nodiscard]] bool Flush() const;
  // A hint: a file system that cannot punch holes is no error.
  [[nodiscard]] bool Discard(std::uint64_t offset, std::uint64_t length) const;
  [[nodiscard]] bool WriteZeroes(std::uint64_t offset, std::uint64_t length, bool may_unmap) const;

 private:
  Disk(UniqueFd fd, std::string path, std::uint64_t size, bool read_only)
      : fd_(std::move(fd)), path_(std::move(path)), size_(size), read_only_(read_only) {}

  UniqueFd fd_;
  // For messages.
  std::string path_;
  std::uint64_t size_;
  bool read_only_;
};

}  // namespace embervm::devices

#endif  // EMBERVM_DEVICES_BLOCK_DISK_H_
