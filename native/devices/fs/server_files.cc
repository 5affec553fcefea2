// FsServer: open files.
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <limits>
#include <utility>

#include "base/checked.h"
#include "devices/fs/limits.h"
#include "devices/fs/server.h"

namespace embervm::devices::fs {

namespace {

constexpr auto kLastOffset = static_cast<std::uint64_t>(std::numeric_limits<off_t>::max());

bool OffsetFits(std::uint64_t offset, std::uint64_t length) {
  return RangeFits(offset, length, kLastOffset);
}

int ListLength(const std::vector<virtio::Segment>& segments) {
  return static_cast<int>(std::min<std::size_t>(segments.size(), IOV_MAX));
}

}  // namespace

std::uint32_t Server::OpenFlags() const {
  switch (options_.cache) {
    case FsCache::kNone:
      return kOpenDirectIo;
    case FsCache::kAuto:
      return 0;
    case FsCache::kAlways:
      return kOpenKeepCache;
  }
  return 0;
}

int Server::StatusFlags(std::uint32_t guest_flags) const {
  // O_DIRECT keeps the guest's page cache out of it, not the host's; and with writeback the
  // guest's kernel knows where the end is.
  constexpr std::uint32_t kKept = O_SYNC | O_DSYNC;
  std::uint32_t flags = guest_flags & kKept;
  if (!writeback_) flags |= guest_flags & O_APPEND;
  return static_cast<int>(flags);
}

Answer<UniqueFd> Server::OpenNode(const Node& node, std::uint32_t guest_flags) const {
  // To open a FIFO would wait for its other end, to open a device would do things: both are
  // the guest's own, which its kernel does not ask us for.
  if (node.IsDirectory()) return std::unexpected(EISDIR);
  if (!node.IsRegular()) return std::unexpected(S_ISLNK(node.kind) ? ELOOP : EACCES);
  std::uint32_t access = guest_flags & O_ACCMODE;
  if (access == O_ACCMODE) return std::unexpected(EINVAL);
  const bool truncates = (guest_flags & O_TRUNC) != 0;
  if (options_.read_only && (access != O_RDONLY || truncates)) return std::unexpected(EROFS);
  // With writeback the guest's kernel reads pages that it writes a part of.
  if (writeback_ && access == O_WRONLY) access = O_RDWR;
  int flags =
      static_cast<int>(access) | StatusFlags(guest_flags) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
  if (truncates) flags |= O_TRUNC;
  UniqueFd fd(::open(ProcPath(node.fd.get()).c_str(), flags));
  if (!fd.valid()) return std::unexpected(errno);
  return fd;
}

int Server::OpenRegular(Request& request) {
  OpenIn in{};
  if (!request.body.Take(in)) return EINVAL;
  const Node* const node = nodes_.Find(request.header.nodeid);
  if (node == nullptr) return ESTALE;
  if (!HasRoom()) return ENFILE;
  if ((in.flags & O_TRUNC) != 0) usage_.changed = true;
  Answer<UniqueFd> fd = OpenNode(*node, in.flags);
  if (!fd.has_value()) return fd.error();
  const std::uint64_t handle = AddFile({.fd = std::move(*fd), .node = request.header.nodeid});
  request.reply.Put(OpenOut{.handle = handle, .open_flags = OpenFlags(), .padding = 0});
  return 0;
}

int Server::Read(Request& request) {
  ReadIn in{};
  if (!request.body.Take(in)) return EINVAL;
  const Answer<OpenFile*> file = FindFile(in.handle, request.header.nodeid);
  if (!file.has_value()) return file.error();
  if (in.size > kMaxTransfer || in.size > request.reply.room()) return EINVAL;
  if (!OffsetFits(in.offset, in.size)) return EINVAL;
  const std::vector<virtio::Segment> room = request.reply.Next(in.size);
  for (;;) {
    const ssize_t got =
        ::preadv((*file)->fd.get(), room.data(), ListLength(room), static_cast<off_t>(in.offset));
    if (got >= 0) {
      request.reply.Filled(static_cast<std::uint64_t>(got));
      read_bytes_.fetch_add(static_cast<std::uint64_t>(got), std::memory_order_relaxed);
      return 0;
    }
    if (errno != EINTR) return errno;
  }
}

int Server::Write(Request& request) {
  WriteIn in{};
  if (!request.body.Take(in)) return EINVAL;
  const Answer<OpenFile*> file = FindFile(in.handle, request.header.nodeid);
  if (!file.has_value()) return file.error();
  if (in.size > kMaxTransfer || in.size != virtio::TotalBytes(request.data)) return EINVAL;
  if (!OffsetFits(in.offset, in.size)) return EFBIG;
  if (const int error = ReserveWrite((*file)->fd.get(), in.offset, in.size); error != 0) {
    return error;
  }
  for (;;) {
    const ssize_t done = ::pwritev((*file)->fd.get(), request.data.data(), ListLength(request.data),
                                   static_cast<off_t>(in.offset));
    if (done >= 0) {
      request.reply.Put(WriteOut{.size = static_cast<std::uint32_t>(done), .padding = 0});
      written_bytes_.fetch_add(static_cast<std::uint64_t>(done), std::memory_order_relaxed);
      return 0;
    }
    if (errno != EINTR) return errno;
  }
}

int Server::Release(Request& request) {
  ReleaseIn in{};
  if (!request.body.Take(in)) return EINVAL;
  const Answer<OpenFile*> file = FindFile(in.handle, request.header.nodeid);
  if (!file.has_value()) return file.error();
  // Its flock(2) goes with the description; POSIX locks are dropped by Flush().
  files_.erase(in.handle);
  usage_.changed = true;
  return 0;
}

int Server::Fsync(Request& request) {
  FsyncIn in{};
  if (!request.body.Take(in)) return EINVAL;
  const Answer<OpenFile*> file = FindFile(in.handle, request.header.nodeid);
  if (!file.has_value()) return file.error();
  const int fd = (*file)->fd.get();
  const int result = (in.flags & kFsyncDataOnly) != 0 ? ::fdatasync(fd) : ::fsync(fd);
  return result == 0 ? 0 : errno;
}

int Server::Flush(Request& request) {
  FlushIn in{};
  if (!request.body.Take(in)) return EINVAL;
  const Answer<OpenFile*> file = FindFile(in.handle, request.header.nodeid);
  if (!file.has_value()) return file.error();
  // POSIX: to close any descriptor of a file drops all of the process's locks on it.
  if (options_.host_locks) locks_.Drop(request.header.nodeid, in.lock_owner);
  // Some file systems report at a close that a write failed.
  const int copy = ::fcntl((*file)->fd.get(), F_DUPFD_CLOEXEC, 0);
  if (copy < 0) return errno;
  return ::close(copy) == 0 ? 0 : errno;
}

int Server::Fallocate(Request& request) {
  constexpr std::array<std::uint32_t, 5> kModes{
      0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE,
      FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE};
  FallocateIn in{};
  if (!request.body.Take(in)) return EINVAL;
  const Answer<OpenFile*> file = FindFile(in.handle, request.header.nodeid);
  if (!file.has_value()) return file.error();
  if (std::ranges::find(kModes, in.mode) == kModes.end()) return EOPNOTSUPP;
  if (!OffsetFits(in.offset, in.length)) return EFBIG;
  if ((in.mode & FALLOC_FL_PUNCH_HOLE) != 0) {
    usage_.changed = true;
  } else if (const int error = Reserve(in.length); error != 0) {
    return error;
  }
  for (;;) {
    if (::fallocate((*file)->fd.get(), static_cast<int>(in.mode), static_cast<off_t>(in.offset),
                    static_cast<off_t>(in.length)) == 0) {
      return 0;
    }
    if (errno != EINTR) return errno;
  }
}

int Server::Lseek(Request& request) {
  LseekIn in{};
  if (!request.body.Take(in)) return EINVAL;
  const Answer<OpenFile*> file = FindFile(in.handle, request.header.nodeid);
  if (!file.has_value()) return file.error();
  // The others are the driver's own.
  if (in.whence != SEEK_DATA && in.whence != SEEK_HOLE) return EINVAL;
  if (in.offset > kLastOffset) return ENXIO;
  const off_t offset =
      ::lseek((*file)->fd.get(), static_cast<off_t>(in.offset), static_cast<int>(in.whence));
  if (offset < 0) return errno;
  request.reply.Put(LseekOut{.offset = static_cast<std::uint64_t>(offset)});
  return 0;
}

int Server::CopyFileRange(Request& request) {
  CopyFileRangeIn in{};
  if (!request.body.Take(in)) return EINVAL;
  const Answer<OpenFile*> from = FindFile(in.in_handle, request.header.nodeid);
  if (!from.has_value()) return from.error();
  const Answer<OpenFile*> target = FindFile(in.out_handle, in.out_nodeid);
  if (!target.has_value()) return target.error();
  if (in.flags != 0) return EINVAL;
  const std::uint64_t length = std::min(in.length, kMaxCopy);
  if (!OffsetFits(in.in_offset, length) || !OffsetFits(in.out_offset, length)) return EFBIG;
  if (options_.quota_bytes != 0) {
    struct stat status{};
    if (::fstat((*from)->fd.get(), &status) != 0) return errno;
    const auto size = static_cast<std::uint64_t>(status.st_size);
    const std::uint64_t there = size - std::min(size, in.in_offset);
    const int error = ReserveWrite((*target)->fd.get(), in.out_offset, std::min(length, there));
    if (error != 0) return error;
  }
  auto in_offset = static_cast<off_t>(in.in_offset);
  auto out_offset = static_cast<off_t>(in.out_offset);
  const ssize_t copied = ::copy_file_range((*from)->fd.get(), &in_offset, (*target)->fd.get(),
                                           &out_offset, static_cast<std::size_t>(length), 0);
  if (copied < 0) return errno;
  request.reply.Put(WriteOut{.size = static_cast<std::uint32_t>(copied), .padding = 0});
  return 0;
}

}  // namespace embervm::devices::fs
