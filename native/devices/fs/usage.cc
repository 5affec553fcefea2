#include "devices/fs/usage.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/unique_fd.h"
#include "devices/fs/limits.h"

namespace embervm::devices::fs {

namespace {

// stat(2): st_blocks counts these, whatever the block size.
constexpr std::uint64_t kStatBlock = 512;
// What a guest can make us remember.
constexpr std::size_t kMaxPendingBytes = std::size_t{64} << 20U;
constexpr std::size_t kMaxSeen = std::size_t{1} << 20U;
constexpr std::size_t kMaxPath = 4095;

struct CloseDirectory {
  void operator()(DIR* directory) const { ::closedir(directory); }
};

}  // namespace

void UsageCount::Add(const struct stat& status) {
  if (status.st_nlink > 1 && !S_ISDIR(status.st_mode)) {
    if (seen_.contains({status.st_dev, status.st_ino})) return;
    if (seen_.size() < kMaxSeen) seen_.emplace(status.st_dev, status.st_ino);
  }
  bytes_ += static_cast<std::uint64_t>(status.st_blocks) * kStatBlock + kInodeBytes;
}

void UsageCount::AddTree(int root, bool cross_mounts) {
  open_how how{};
  how.flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  if (!cross_mounts) how.resolve |= RESOLVE_NO_XDEV;
  // By their paths, so that a deep tree takes memory and no descriptors.
  std::vector<std::string> pending{"."};
  std::size_t pending_bytes = 0;
  while (!pending.empty()) {
    const std::string path = std::move(pending.back());
    pending.pop_back();
    pending_bytes -= pending_bytes < path.size() ? pending_bytes : path.size();
    UniqueFd fd(static_cast<int>(::syscall(SYS_openat2, root, path.c_str(), &how, sizeof(how))));
    if (!fd.valid()) {
      // What is gone takes nothing, and what is another file system is not counted.
      if (errno != ENOENT && errno != ENOTDIR && errno != EXDEV) complete_ = false;
      continue;
    }
    const int descriptor = fd.get();
    const std::unique_ptr<DIR, CloseDirectory> directory(::fdopendir(descriptor));
    if (directory == nullptr) {
      complete_ = false;
      continue;
    }
    static_cast<void>(fd.Release());
    while (const dirent* const entry = ::readdir(directory.get())) {
      const std::string_view name = &entry->d_name[0];
      if (name == "." || name == "..") continue;
      struct stat status{};
      if (::fstatat(descriptor, &entry->d_name[0], &status, AT_SYMLINK_NOFOLLOW) != 0) continue;
      Add(status);
      if (!S_ISDIR(status.st_mode)) continue;
      std::string below = path + "/" + std::string(name);
      if (below.size() > kMaxPath || pending_bytes + below.size() > kMaxPendingBytes) {
        complete_ = false;
        continue;
      }
      pending_bytes += below.size();
      pending.push_back(std::move(below));
    }
  }
}

}  // namespace embervm::devices::fs
