// FsServer: what is known of a file, and changing that.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <limits>
#include <utility>

#include "devices/fs/limits.h"
#include "devices/fs/server.h"

namespace embervm::devices::fs {

namespace {

constexpr std::uint32_t kNanoseconds = 1'000'000'000;

// As the driver decodes it: 12 bits of the major number between two parts of the minor.
std::uint32_t EncodeDevice(dev_t device) {
  constexpr unsigned kLowMinor = 0xff;
  const unsigned minor_number = minor(device);
  return (minor_number & kLowMinor) | (major(device) << 8U) | ((minor_number & ~kLowMinor) << 12U);
}

int StatNode(const Node& node, struct stat& status) {
  return ::fstatat(node.fd.get(), "", &status, AT_EMPTY_PATH) == 0 ? 0 : errno;
}

// What the driver sends, or errno: values beyond a second have meanings of their own.
int ToTime(std::uint32_t valid, std::uint32_t set, std::uint32_t now, std::uint64_t seconds,
           std::uint32_t nanoseconds, timespec& out) {
  out = {.tv_sec = 0, .tv_nsec = UTIME_OMIT};
  if ((valid & now) != 0) {
    out.tv_nsec = UTIME_NOW;
  } else if ((valid & set) != 0) {
    if (nanoseconds >= kNanoseconds) return EINVAL;
    out = {.tv_sec = static_cast<time_t>(seconds), .tv_nsec = nanoseconds};
  }
  return 0;
}

}  // namespace

Attributes Server::ToAttributes(const struct stat& status) const {
  Attributes out{};
  out.inode = status.st_ino;
  out.size = static_cast<std::uint64_t>(status.st_size);
  out.blocks = static_cast<std::uint64_t>(status.st_blocks);
  out.atime = static_cast<std::uint64_t>(status.st_atim.tv_sec);
  out.mtime = static_cast<std::uint64_t>(status.st_mtim.tv_sec);
  out.ctime = static_cast<std::uint64_t>(status.st_ctim.tv_sec);
  out.atime_ns = static_cast<std::uint32_t>(status.st_atim.tv_nsec);
  out.mtime_ns = static_cast<std::uint32_t>(status.st_mtim.tv_nsec);
  out.ctime_ns = static_cast<std::uint32_t>(status.st_ctim.tv_nsec);
  out.mode = status.st_mode;
  out.links = static_cast<std::uint32_t>(status.st_nlink);
  out.uid = options_.squash.has_value() ? options_.squash->uid : status.st_uid;
  out.gid = options_.squash.has_value() ? options_.squash->gid : status.st_gid;
  out.device = EncodeDevice(status.st_rdev);
  out.block_size = static_cast<std::uint32_t>(status.st_blksize);
  return out;
}

Answer<EntryOut> Server::MakeEntry(int directory, const char* name) {
  Answer<UniqueFd> fd = OpenBelow(directory, name, O_PATH);
  if (!fd.has_value()) return std::unexpected(fd.error());
  return MakeEntry(*std::move(fd));
}

Answer<EntryOut> Server::MakeEntry(UniqueFd fd) {
  struct stat status{};
  if (::fstatat(fd.get(), "", &status, AT_EMPTY_PATH) != 0) return std::unexpected(errno);
  EntryOut entry{};
  entry.nodeid = nodes_.FindAgain(status);
  if (entry.nodeid == 0) {
    if (!HasRoom()) return std::unexpected(ENFILE);
    entry.nodeid = nodes_.Add(std::move(fd), status);
  }
  entry.entry_valid = valid_seconds_;
  entry.attr_valid = valid_seconds_;
  entry.attributes = ToAttributes(status);
  return entry;
}

int Server::ReplyEntry(Request& request, int directory, const char* name) {
  const Answer<EntryOut> entry = MakeEntry(directory, name);
  if (!entry.has_value()) return entry.error();
  request.reply.Put(*entry);
  return 0;
}

int Server::Lookup(Request& request) {
  const Answer<Node*> directory = FindDirectory(request.header.nodeid);
  if (!directory.has_value()) return directory.error();
  const Answer<std::string> name = request.body.TakeName();
  if (!name.has_value()) return name.error();
  if (!request.body.empty()) return EINVAL;
  return ReplyEntry(request, (*directory)->fd.get(), name->c_str());
}

void Server::ForgetNode(std::uint64_t id, std::uint64_t lookups) {
  if (!nodes_.Forget(id, lookups)) return;
  locks_.DropNode(id);
  usage_.changed = true;
}

void Server::Forget(Request& request) {
  ForgetIn in{};
  if (request.body.Take(in)) ForgetNode(request.header.nodeid, in.lookups);
}

void Server::BatchForget(Request& request) {
  BatchForgetIn in{};
  if (!request.body.Take(in)) return;
  // As many as there are, whatever the count says.
  ForgetOne one{};
  for (std::uint32_t left = in.count; left > 0 && request.body.Take(one); --left) {
    ForgetNode(one.nodeid, one.lookups);
  }
}

int Server::Getattr(Request& request) {
  const Node* const node = nodes_.Find(request.header.nodeid);
  if (node == nullptr) return ESTALE;
  struct stat status{};
  if (const int error = StatNode(*node, status); error != 0) return error;
  AttributesOut out{};
  out.valid = valid_seconds_;
  out.attributes = ToAttributes(status);
  request.reply.Put(out);
  return 0;
}

int Server::ChangeOwner(const Node& node, const SetattrIn& change) const {
  const bool uid = (change.valid & kSetUid) != 0;
  const bool gid = (change.valid & kSetGid) != 0;
  if (!uid && !gid) return 0;
  if (options_.squash.has_value()) {
    // All files are the one owner's: only that can be asked for.
    const bool same = (!uid || change.uid == options_.squash->uid) &&
                      (!gid || change.gid == options_.squash->gid);
    return same ? 0 : EPERM;
  }
  constexpr auto kUnchanged = static_cast<uid_t>(-1);
  const int result = ::fchownat(node.fd.get(), "", uid ? change.uid : kUnchanged,
                                gid ? change.gid : kUnchanged, AT_EMPTY_PATH);
  return result == 0 ? 0 : errno;
}

int Server::ChangeSize(const Node& node, std::uint64_t node_id, const SetattrIn& change) {
  if ((change.valid & kSetSize) == 0) return 0;
  usage_.changed = true;
  if (change.size > static_cast<std::uint64_t>(std::numeric_limits<off_t>::max())) return EFBIG;
  const auto size = static_cast<off_t>(change.size);
  if ((change.valid & kSetHandle) != 0) {
    const Answer<OpenFile*> file = FindFile(change.handle, node_id);
    if (!file.has_value()) return file.error();
    return ::ftruncate((*file)->fd.get(), size) == 0 ? 0 : errno;
  }
  const Answer<UniqueFd> file = OpenNode(node, O_WRONLY);
  if (!file.has_value()) return file.error();
  return ::ftruncate(file->get(), size) == 0 ? 0 : errno;
}

int Server::ChangeTimes(const Node& node, const SetattrIn& change) {
  constexpr std::uint32_t kTimes = kSetAtime | kSetMtime | kSetAtimeNow | kSetMtimeNow;
  if ((change.valid & kTimes) == 0) return 0;
  std::array<timespec, 2> times{};
  if (const int error =
          ToTime(change.valid, kSetAtime, kSetAtimeNow, change.atime, change.atime_ns, times[0]);
      error != 0) {
    return error;
  }
  if (const int error =
          ToTime(change.valid, kSetMtime, kSetMtimeNow, change.mtime, change.mtime_ns, times[1]);
      error != 0) {
    return error;
  }
  return ::utimensat(AT_FDCWD, ProcPath(node.fd.get()).c_str(), times.data(), 0) == 0 ? 0 : errno;
}

int Server::Setattr(Request& request) {
  SetattrIn in{};
  if (!request.body.Take(in)) return EINVAL;
  const Node* const node = nodes_.Find(request.header.nodeid);
  if (node == nullptr) return ESTALE;
  // Its owner first: that drops set-user-id bits, which the mode may bring back.
  if (const int error = ChangeOwner(*node, in); error != 0) return error;
  if ((in.valid & kSetMode) != 0) {
    const mode_t mode = AllowedMode(in.mode, node->IsDirectory());
    if (::chmod(ProcPath(node->fd.get()).c_str(), mode) != 0) return errno;
  }
  if (const int error = ChangeSize(*node, request.header.nodeid, in); error != 0) return error;
  if (const int error = ChangeTimes(*node, in); error != 0) return error;
  return Getattr(request);
}

int Server::Readlink(Request& request) {
  const Node* const node = nodes_.Find(request.header.nodeid);
  if (node == nullptr) return ESTALE;
  if (!S_ISLNK(node->kind)) return EINVAL;
  std::array<char, kMaxLinkTarget + 1> target{};
  const ssize_t length = ::readlinkat(node->fd.get(), "", target.data(), target.size());
  if (length < 0) return errno;
  const auto bytes = std::as_bytes(std::span(target).first(static_cast<std::size_t>(length)));
  if (bytes.size() > request.reply.room()) return ENAMETOOLONG;
  request.reply.PutBytes(bytes);
  return 0;
}

int Server::Statfs(Request& request) {
  const Node* const node = nodes_.Find(request.header.nodeid);
  return node == nullptr ? ESTALE : ReplyStatfs(request, node->fd.get());
}

int Server::ReplyStatfs(Request& request, int fd) {
  struct statfs status{};
  if (::fstatfs(fd, &status) != 0) return errno;
  StatfsOut out{};
  out.blocks = status.f_blocks;
  out.blocks_free = status.f_bfree;
  out.blocks_available = status.f_bavail;
  out.files = status.f_files;
  out.files_free = status.f_ffree;
  out.block_size = static_cast<std::uint32_t>(status.f_bsize);
  out.name_length = kMaxName;
  out.fragment_size = static_cast<std::uint32_t>(status.f_frsize);
  LimitStatfs(out);
  request.reply.Put(out);
  return 0;
}

int Server::Access(Request& request) {
  AccessIn in{};
  if (!request.body.Take(in)) return EINVAL;
  const Node* const node = nodes_.Find(request.header.nodeid);
  if (node == nullptr) return ESTALE;
  if ((in.mask & ~static_cast<std::uint32_t>(R_OK | W_OK | X_OK)) != 0) return EINVAL;
  if ((in.mask & W_OK) != 0 && options_.read_only) return EROFS;
  const int result =
      ::faccessat(node->fd.get(), "", static_cast<int>(in.mask), AT_EMPTY_PATH | AT_EACCESS);
  return result == 0 ? 0 : errno;
}

}  // namespace embervm::devices::fs
