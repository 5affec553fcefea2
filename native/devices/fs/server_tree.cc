// FsServer: making, naming and removing files.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <optional>
#include <string>
#include <utility>

#include "devices/fs/limits.h"
#include "devices/fs/server.h"

namespace embervm::devices::fs {

namespace {

constexpr mode_t kModeBits = 07777;
constexpr mode_t kPrivilegeBits = S_ISUID | S_ISGID;
// What a file has until it has its owner.
constexpr mode_t kFirstMode = S_IRUSR | S_IWUSR;

bool IsSameFile(int fd, const Node& node) {
  struct stat status{};
  return ::fstat(fd, &status) == 0 && status.st_dev == node.device && status.st_ino == node.inode;
}

}  // namespace

// Where the process's own ids stand for all of the guest's, a program that the guest made
// must not run on the host with those ids.
mode_t Server::AllowedMode(mode_t mode, bool directory) const {
  mode &= kModeBits;
  if (options_.squash.has_value() && !directory) mode &= ~kPrivilegeBits;
  return mode;
}

int Server::Adopt(int directory, const std::string& name, const InHeader& header,
                  mode_t mode) const {
  const Answer<UniqueFd> fd = OpenBelow(directory, name.c_str(), O_PATH);
  if (!fd.has_value()) return fd.error();
  struct stat parent{};
  struct stat status{};
  if (::fstatat(directory, "", &parent, AT_EMPTY_PATH) != 0 ||
      ::fstatat(fd->get(), "", &status, AT_EMPTY_PATH) != 0) {
    return errno;
  }
  // Somebody on the host may have put another file in its place.
  if ((status.st_mode & S_IFMT) != (mode & S_IFMT)) return EEXIST;
  const bool inherits_group = (parent.st_mode & S_ISGID) != 0;
  if (!options_.squash.has_value()) {
    constexpr auto kUnchanged = static_cast<gid_t>(-1);
    if (::fchownat(fd->get(), "", header.uid, inherits_group ? kUnchanged : header.gid,
                   AT_EMPTY_PATH) != 0) {
      return errno;
    }
  }
  if (S_ISLNK(mode)) return 0;
  mode_t bits = AllowedMode(mode, S_ISDIR(mode));
  if (S_ISDIR(mode) && inherits_group) bits |= S_ISGID;
  return ::chmod(ProcPath(fd->get()).c_str(), bits) == 0 ? 0 : errno;
}

int Server::Mknod(Request& request) {
  MknodIn in{};
  if (!request.body.Take(in)) return EINVAL;
  const Answer<Node*> directory = FindDirectory(request.header.nodeid);
  if (!directory.has_value()) return directory.error();
  const Answer<std::string> name = request.body.TakeName();
  if (!name.has_value()) return name.error();
  if (!HasRoom()) return ENFILE;
  if (const int error = ReserveFile(); error != 0) return error;
  // A device node would be one of the host's devices, for whoever is on the host.
  const mode_t kind = in.mode & S_IFMT;
  if (S_ISCHR(kind) || S_ISBLK(kind)) return EPERM;
  if (!S_ISREG(kind) && !S_ISFIFO(kind) && !S_ISSOCK(kind)) return EINVAL;
  const int fd = (*directory)->fd.get();
  if (::mknodat(fd, name->c_str(), kind | kFirstMode, 0) != 0) return errno;
  if (const int error = Adopt(fd, *name, request.header, in.mode); error != 0) {
    ::unlinkat(fd, name->c_str(), 0);
    return error;
  }
  return ReplyEntry(request, fd, name->c_str());
}

int Server::Mkdir(Request& request) {
  MkdirIn in{};
  if (!request.body.Take(in)) return EINVAL;
  const Answer<Node*> directory = FindDirectory(request.header.nodeid);
  if (!directory.has_value()) return directory.error();
  const Answer<std::string> name = request.body.TakeName();
  if (!name.has_value()) return name.error();
  if (!HasRoom()) return ENFILE;
  if (const int error = ReserveFile(); error != 0) return error;
  const int fd = (*directory)->fd.get();
  if (::mkdirat(fd, name->c_str(), kFirstMode | S_IXUSR) != 0) return errno;
  const mode_t mode = (in.mode & kModeBits) | S_IFDIR;
  if (const int error = Adopt(fd, *name, request.header, mode); error != 0) {
    ::unlinkat(fd, name->c_str(), AT_REMOVEDIR);
    return error;
  }
  return ReplyEntry(request, fd, name->c_str());
}

int Server::Symlink(Request& request) {
  const Answer<Node*> directory = FindDirectory(request.header.nodeid);
  if (!directory.has_value()) return directory.error();
  const Answer<std::string> name = request.body.TakeName();
  if (!name.has_value()) return name.error();
  const std::optional<std::string> target = request.body.TakeText(kMaxLinkTarget);
  if (!target.has_value()) return EINVAL;
  if (!HasRoom()) return ENFILE;
  if (const int error = ReserveFile(); error != 0) return error;
  const int fd = (*directory)->fd.get();
  if (::symlinkat(target->c_str(), fd, name->c_str()) != 0) return errno;
  if (const int error = Adopt(fd, *name, request.header, S_IFLNK); error != 0) {
    ::unlinkat(fd, name->c_str(), 0);
    return error;
  }
  return ReplyEntry(request, fd, name->c_str());
}

int Server::Link(Request& request) {
  LinkIn in{};
  if (!request.body.Take(in)) return EINVAL;
  const Answer<Node*> directory = FindDirectory(request.header.nodeid);
  if (!directory.has_value()) return directory.error();
  const Node* const node = nodes_.Find(in.old_nodeid);
  if (node == nullptr) return ESTALE;
  if (node->IsDirectory()) return EPERM;
  const Answer<std::string> name = request.body.TakeName();
  if (!name.has_value()) return name.error();
  const int fd = (*directory)->fd.get();
  // AT_EMPTY_PATH would take privilege. The flag follows the link of /proc, and where that
  // leads to a symbolic link, it ends there.
  if (::linkat(AT_FDCWD, ProcPath(node->fd.get()).c_str(), fd, name->c_str(), AT_SYMLINK_FOLLOW) !=
      0) {
    return errno;
  }
  return ReplyEntry(request, fd, name->c_str());
}

int Server::Unlink(Request& request) {
  usage_.changed = true;
  const Answer<Node*> directory = FindDirectory(request.header.nodeid);
  if (!directory.has_value()) return directory.error();
  const Answer<std::string> name = request.body.TakeName();
  if (!name.has_value()) return name.error();
  return ::unlinkat((*directory)->fd.get(), name->c_str(), 0) == 0 ? 0 : errno;
}

int Server::Rmdir(Request& request) {
  usage_.changed = true;
  const Answer<Node*> directory = FindDirectory(request.header.nodeid);
  if (!directory.has_value()) return directory.error();
  const Answer<std::string> name = request.body.TakeName();
  if (!name.has_value()) return name.error();
  return ::unlinkat((*directory)->fd.get(), name->c_str(), AT_REMOVEDIR) == 0 ? 0 : errno;
}

int Server::RenameTo(Request& request, std::uint64_t new_directory, std::uint32_t flags) {
  usage_.changed = true;
  // Without RENAME_WHITEOUT, which makes a device node.
  if ((flags & ~static_cast<std::uint32_t>(RENAME_NOREPLACE | RENAME_EXCHANGE)) != 0) {
    return EINVAL;
  }
  const Answer<Node*> from = FindDirectory(request.header.nodeid);
  if (!from.has_value()) return from.error();
  const Answer<Node*> target = FindDirectory(new_directory);
  if (!target.has_value()) return target.error();
  const Answer<std::string> old_name = request.body.TakeName();
  if (!old_name.has_value()) return old_name.error();
  const Answer<std::string> new_name = request.body.TakeName();
  if (!new_name.has_value()) return new_name.error();
  const int result = ::renameat2((*from)->fd.get(), old_name->c_str(), (*target)->fd.get(),
                                 new_name->c_str(), flags);
  return result == 0 ? 0 : errno;
}

int Server::Rename(Request& request) {
  RenameIn in{};
  if (!request.body.Take(in)) return EINVAL;
  return RenameTo(request, in.new_directory, 0);
}

int Server::Rename2(Request& request) {
  Rename2In in{};
  if (!request.body.Take(in)) return EINVAL;
  return RenameTo(request, in.new_directory, in.flags);
}

int Server::Create(Request& request) {
  CreateIn in{};
  if (!request.body.Take(in)) return EINVAL;
  const Answer<Node*> directory = FindDirectory(request.header.nodeid);
  if (!directory.has_value()) return directory.error();
  const Answer<std::string> name = request.body.TakeName();
  if (!name.has_value()) return name.error();
  if (!HasRoom()) return ENFILE;
  const int fd = (*directory)->fd.get();
  // For a file that was just made, the mode says nothing about this first descriptor (POSIX,
  // open()): one of mode 0444 is written to through it.
  constexpr int kFlags = O_RDWR | O_CREAT | O_EXCL | O_NONBLOCK | O_NOCTTY;
  Answer<UniqueFd> file = OpenBelow(fd, name->c_str(), kFlags | StatusFlags(in.flags), kFirstMode);
  if ((in.flags & O_TRUNC) != 0) usage_.changed = true;
  const bool made = file.has_value();
  if (made) {
    const mode_t mode = (in.mode & kModeBits) | S_IFREG;
    int error = ReserveFile();
    if (error == 0) error = Adopt(fd, *name, request.header, mode);
    if (error != 0) {
      ::unlinkat(fd, name->c_str(), 0);
      return error;
    }
  } else if (file.error() != EEXIST || (in.flags & O_EXCL) != 0) {
    return file.error();
  }
  const Answer<EntryOut> entry = MakeEntry(fd, name->c_str());
  if (!entry.has_value()) return entry.error();
  const Node& node = *nodes_.Find(entry->nodeid);
  if (!made) file = OpenNode(node, in.flags);
  if (made && !IsSameFile(file->get(), node)) file = std::unexpected(ESTALE);
  if (file.has_value() && !HasRoom()) file = std::unexpected(ENFILE);
  if (!file.has_value()) {
    ForgetNode(entry->nodeid, 1);
    return file.error();
  }
  const std::uint64_t handle = AddFile({.fd = std::move(*file), .node = entry->nodeid});
  request.reply.Put(*entry);
  request.reply.Put(OpenOut{.handle = handle, .open_flags = OpenFlags(), .padding = 0});
  return 0;
}

}  // namespace embervm::devices::fs
