// Disk: what a block device reads and writes, whatever file format keeps it. Knows nothing
// of virtio's requests.
#ifndef EMBERVM_DEVICES_BLOCK_DISK_H_
#define EMBERVM_DEVICES_BLOCK_DISK_H_

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "virtio/segments.h"

namespace embervm::devices {

class Disk {
 public:
  Disk() = default;
  Disk(const Disk&) = delete;
  Disk& operator=(const Disk&) = delete;
  virtual ~Disk() = default;

  // In bytes: a multiple of 512, never 0.
  [[nodiscard]] virtual std::uint64_t size() const = 0;
  [[nodiscard]] virtual bool read_only() const = 0;
  // Looks at the size again. On an error it is as it was: ERR_DRIVE_INVALID.
  virtual Result<> RefreshSize() = 0;

  // How many of the calls below may go on at once, from as many threads.
  [[nodiscard]] virtual unsigned concurrency() const { return 1; }

  // Read() of what is in memory, which never waits for the disk. False: it may have begun, and
  // Read() is to do it all.
  [[nodiscard]] virtual bool ReadAtHand(virtio::Segments /*segments*/,
                                        std::uint64_t /*offset*/) const {
    return false;
  }
  // Whether Write() that need not be durable only copies, so that it need not wait.
  [[nodiscard]] virtual bool writes_to_memory() const { return false; }

  // All below may wait for the disk.
  // Whole transfers to or from guest memory; `transferred` tells how far an unfinished one
  // came. False: an I/O error or the end of the file. The caller checked the range against
  // size(), and that a disk it changes is not read-only.
  virtual bool Read(std::vector<virtio::Segment> segments, std::uint64_t offset,
                    std::uint64_t& transferred) const = 0;
  // `durable`: all of it is on the disk when the call returns.
  virtual bool Write(std::vector<virtio::Segment> segments, std::uint64_t offset, bool durable,
                     std::uint64_t& transferred) const = 0;
  // All that was written before is on the host's disk when it returns true.
  [[nodiscard]] virtual bool Flush() const = 0;
  // A hint: a disk that cannot give space back is no error.
  [[nodiscard]] virtual bool Discard(std::uint64_t offset, std::uint64_t length) const = 0;
  [[nodiscard]] virtual bool WriteZeroes(std::uint64_t offset, std::uint64_t length,
                                         bool may_unmap) const = 0;
};

}  // namespace embervm::devices

#endif  // EMBERVM_DEVICES_BLOCK_DISK_H_
