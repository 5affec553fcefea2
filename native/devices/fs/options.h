// FsOptions: how a directory of the host is shared.
#ifndef EMBERVM_DEVICES_FS_OPTIONS_H_
#define EMBERVM_DEVICES_FS_OPTIONS_H_

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

namespace embervm::devices {

// How long the guest may believe what it has read.
enum class FsCache : std::uint8_t {
  kNone,
  // For a second; file contents until the file has changed.
  kAuto,
  // As long as it likes: for a directory that nobody else writes to.
  kAlways,
};

struct FsOwner {
  uid_t uid = 0;
  gid_t gid = 0;
};

struct FsOptions {
  // What the guest mounts: 1 to 36 bytes.
  std::string tag;
  std::string path;
  // `path` is a regular file: the guest gets a directory with that file alone, by the name
  // "file". What else is beside it cannot be reached.
  bool single_file = false;
  bool read_only = false;
  FsCache cache = FsCache::kAuto;
  // The guest may keep writes back.
  bool writeback = false;
  // Directories in which something is mounted on the host can be entered.
  bool cross_mounts = false;
  // Locks are taken on the host's files, so that others see them; otherwise they hold
  // within the guest.
  bool host_locks = false;
  // Whose files all are, for the guest; on the host they are the process's own. Absent:
  // ids are the host's, which takes privilege.
  std::optional<FsOwner> squash = FsOwner{};
  // How much the directory and all below it may take on the disk; 0: as much as there is.
  // Files that are there already count, and who else writes there is noticed late.
  std::uint64_t quota_bytes = 0;
  // Descriptors that the guest can make us hold.
  std::uint32_t max_open_files = 65536;
};

}  // namespace embervm::devices

#endif  // EMBERVM_DEVICES_FS_OPTIONS_H_
