// Copies of disks and memory files: shared extents where the file system has them
// (ioctl_ficlone(2)), else only the data between the holes (lseek(2), SEEK_DATA).
#ifndef EMBERVM_BASE_SPARSE_COPY_H_
#define EMBERVM_BASE_SPARSE_COPY_H_

#include <cstdint>
#include <optional>
#include <string>

#include "base/result.h"

namespace embervm {

// `to` must not exist; it belongs to its owner alone, and is gone again after a failure. With
// `durable` its content is on the disk before this returns. Error: ERR_STATE_DIR.
[[nodiscard]] Result<> CopySparse(const std::string& from, const std::string& to, bool durable);

// What a file has between two holes.
struct DataRange {
  std::uint64_t begin;
  std::uint64_t end;
};

// The first data of a file of `size` bytes at or after `from`; nothing when there are only holes.
// A file system that does not tell has data everywhere.
[[nodiscard]] std::optional<DataRange> NextData(int fd, std::uint64_t from, std::uint64_t size);

}  // namespace embervm

#endif  // EMBERVM_BASE_SPARSE_COPY_H_
