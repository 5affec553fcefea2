#include "devices/fs/lock_table.h"

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>
#include <cstdlib>
#include <limits>

namespace embervm::devices::fs {

namespace {

constexpr auto kLastOffset = static_cast<std::uint64_t>(std::numeric_limits<off_t>::max());

// False for a range or type that makes no sense.
bool ToHost(const FileLock& lock, struct flock& host) {
  if (lock.start > lock.end || lock.end > kLastOffset) return false;
  if (lock.type != F_RDLCK && lock.type != F_WRLCK && lock.type != F_UNLCK) return false;
  host.l_type = static_cast<short>(lock.type);
  host.l_whence = SEEK_SET;
  host.l_start = static_cast<off_t>(lock.start);
  // 0 is "to the end, wherever that will be".
  host.l_len = lock.end == kLastOffset ? 0 : static_cast<off_t>(lock.end - lock.start + 1);
  return true;
}

}  // namespace

int LockTable::Find(std::uint64_t node, std::uint64_t owner) const {
  const auto file = files_.find({node, owner});
  return file == files_.end() ? -1 : file->second.get();
}

int LockTable::Add(std::uint64_t node, std::uint64_t owner, UniqueFd fd) {
  UniqueFd& place = files_[{node, owner}];
  place = std::move(fd);
  return place.get();
}

void LockTable::DropNode(std::uint64_t node) {
  const auto first = files_.lower_bound({node, 0});
  const auto last = files_.upper_bound({node, std::numeric_limits<std::uint64_t>::max()});
  files_.erase(first, last);
}

int LockTable::Set(int fd, const FileLock& lock) {
  struct flock host{};
  if (!ToHost(lock, host)) return EINVAL;
  if (::fcntl(fd, F_OFD_SETLK, &host) == 0) return 0;
  return errno == EACCES ? EAGAIN : errno;
}

int LockTable::Test(int fd, FileLock& lock) {
  struct flock host{};
  if (!ToHost(lock, host) || lock.type == F_UNLCK) return EINVAL;
  if (::fcntl(fd, F_OFD_GETLK, &host) != 0) return errno;
  lock.type = static_cast<std::uint32_t>(host.l_type);
  lock.pid = 0;
  if (host.l_type == F_UNLCK) return 0;
  lock.start = static_cast<std::uint64_t>(host.l_start);
  lock.end = host.l_len == 0 ? kLastOffset
                             : static_cast<std::uint64_t>(host.l_start) +
                                   static_cast<std::uint64_t>(host.l_len) - 1;
  return 0;
}

int LockTable::Flock(int fd, std::uint32_t type) {
  int operation = LOCK_NB;
  switch (type) {
    case F_RDLCK:
      operation |= LOCK_SH;
      break;
    case F_WRLCK:
      operation |= LOCK_EX;
      break;
    case F_UNLCK:
      operation |= LOCK_UN;
      break;
    default:
      return EINVAL;
  }
  return ::flock(fd, operation) == 0 ? 0 : errno;
}

bool LockTable::CoversAll(const FileLock& lock) {
  return lock.start == 0 && lock.end == kLastOffset;
}

}  // namespace embervm::devices::fs
