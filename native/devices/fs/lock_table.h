// LockTable: POSIX locks of the guest's processes on the host's files. Each owner has an
// open file description of its own per file, which is what OFD locks belong to.
#ifndef EMBERVM_DEVICES_FS_LOCK_TABLE_H_
#define EMBERVM_DEVICES_FS_LOCK_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>

#include "base/unique_fd.h"
#include "devices/fs/message.h"
#include "devices/fs/protocol.h"

namespace embervm::devices::fs {

class LockTable {
 public:
  // -1 when the owner has no lock on the file.
  [[nodiscard]] int Find(std::uint64_t node, std::uint64_t owner) const;
  int Add(std::uint64_t node, std::uint64_t owner, UniqueFd fd);
  // Closing the description drops its locks.
  void Drop(std::uint64_t node, std::uint64_t owner) { files_.erase({node, owner}); }
  void DropNode(std::uint64_t node);
  void Clear() { files_.clear(); }
  [[nodiscard]] std::size_t size() const { return files_.size(); }

  // Never waits: EAGAIN when another owner has the lock.
  static int Set(int fd, const FileLock& lock);
  static int Test(int fd, FileLock& lock);
  static int Flock(int fd, std::uint32_t type);
  [[nodiscard]] static bool CoversAll(const FileLock& lock);

 private:
  std::map<std::pair<std::uint64_t, std::uint64_t>, UniqueFd> files_;
};

}  // namespace embervm::devices::fs

#endif  // EMBERVM_DEVICES_FS_LOCK_TABLE_H_
