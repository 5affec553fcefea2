// How much a directory takes on the disk, with all that is below it: what a quota counts.
#ifndef EMBERVM_DEVICES_FS_USAGE_H_
#define EMBERVM_DEVICES_FS_USAGE_H_

#include <sys/stat.h>
#include <sys/types.h>

#include <cstdint>
#include <set>
#include <utility>

namespace embervm::devices::fs {

class UsageCount {
 public:
  // Each file counts once, whatever its number of names.
  void Add(const struct stat& status);
  // Of a directory that others may change meanwhile: never through a link, never out of it.
  void AddTree(int root, bool cross_mounts);

  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }
  // False where a part could not be looked at.
  [[nodiscard]] bool complete() const { return complete_; }

 private:
  std::uint64_t bytes_ = 0;
  bool complete_ = true;
  // Of those that have several names.
  std::set<std::pair<dev_t, ino_t>> seen_;
};

}  // namespace embervm::devices::fs

#endif  // EMBERVM_DEVICES_FS_USAGE_H_
