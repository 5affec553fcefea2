#include "devices/fs/server.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string_view>
#include <utility>

#include "devices/fs/limits.h"

namespace embervm::devices::fs {

namespace {

// A second for the guest to see what others have changed; a day is as good as for ever.
constexpr std::uint32_t kAutoValidSeconds = 1;
constexpr std::uint32_t kAlwaysValidSeconds = 86400;
constexpr std::uint16_t kMaxBackground = 64;
constexpr std::uint16_t kCongestion = 48;

std::string_view CodeForOpen(int error) {
  switch (error) {
    case ENOENT:
      return "ERR_SHARED_DIR_NOT_FOUND";
    case EACCES:
    case EPERM:
      return "ERR_SHARED_DIR_ACCESS";
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return "ERR_RESOURCE_LIMIT";
    default:
      // Not a directory, a loop of links, …
      return "ERR_SHARED_DIR_INVALID";
  }
}

// Half of what the process may have: the rest is for the program that we live in.
std::size_t DescriptorLimit(const FsOptions& options) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return options.max_open_files;
  return std::min<std::size_t>(options.max_open_files, limit.rlim_cur / 2);
}

}  // namespace

Result<std::unique_ptr<Server>> Server::Open(const FsOptions& options) {
  if (options.tag.empty() || options.tag.size() > kTagBytes ||
      options.tag.find('\0') != std::string::npos) {
    return std::unexpected(Error("ERR_SHARED_DIR_INVALID",
                                 "the tag of a shared directory has 1 to 36 bytes: " + options.tag)
                               .With("tag", options.tag));
  }
  const int kind = options.single_file ? 0 : O_DIRECTORY;
  UniqueFd root(::open(options.path.c_str(), O_PATH | kind | O_CLOEXEC));
  struct stat status{};
  if (!root.valid() || ::fstat(root.get(), &status) != 0) {
    const int error = errno;
    return std::unexpected(
        Error::FromErrno(CodeForOpen(error), "open", error, "shared directory " + options.path)
            .With("path", options.path));
  }
  if (options.single_file && !S_ISREG(status.st_mode)) {
    return std::unexpected(
        Error("ERR_SHARED_DIR_INVALID", "what is shared as a single file is none: " + options.path)
            .With("path", options.path));
  }
  // Files are opened through /proc: better to know now than at the guest's first read.
  const UniqueFd again(::open(ProcPath(root.get()).c_str(), O_RDONLY | kind | O_CLOEXEC));
  if (!again.valid()) {
    const int error = errno;
    return std::unexpected(
        Error::FromErrno(error == ENOENT ? "ERR_SHARED_DIR_INVALID" : CodeForOpen(error), "open",
                         error, "shared directory " + options.path + " by way of /proc/self/fd")
            .With("path", options.path));
  }
  std::unique_ptr<Server> server(new Server(options, DescriptorLimit(options)));
  if (options.single_file) {
    server->single_file_ = std::move(root);
  } else {
    server->nodes_.SetRoot(std::move(root), status);
  }
  return server;
}

Server::Server(FsOptions options, std::size_t max_open_files)
    : options_(std::move(options)), max_open_files_(max_open_files) {
  if (options_.cache == FsCache::kAuto) valid_seconds_ = kAutoValidSeconds;
  if (options_.cache == FsCache::kAlways) valid_seconds_ = kAlwaysValidSeconds;
}

const Server::Operation* Server::FindOperation(std::uint32_t opcode) {
  static constexpr std::array kOperations{
      Operation{Opcode::kLookup, &Server::Lookup, sizeof(EntryOut), false},
      Operation{Opcode::kGetattr, &Server::Getattr, sizeof(AttributesOut), false},
      Operation{Opcode::kSetattr, &Server::Setattr, sizeof(AttributesOut), true},
      Operation{Opcode::kReadlink, &Server::Readlink, 0, false},
      Operation{Opcode::kSymlink, &Server::Symlink, sizeof(EntryOut), true},
      Operation{Opcode::kMknod, &Server::Mknod, sizeof(EntryOut), true},
      Operation{Opcode::kMkdir, &Server::Mkdir, sizeof(EntryOut), true},
      Operation{Opcode::kUnlink, &Server::Unlink, 0, true},
      Operation{Opcode::kRmdir, &Server::Rmdir, 0, true},
      Operation{Opcode::kRename, &Server::Rename, 0, true},
      Operation{Opcode::kLink, &Server::Link, sizeof(EntryOut), true},
      Operation{Opcode::kOpen, &Server::OpenRegular, sizeof(OpenOut), false},
      Operation{Opcode::kRead, &Server::Read, 0, false},
      Operation{Opcode::kWrite, &Server::Write, sizeof(WriteOut), true},
      Operation{Opcode::kStatfs, &Server::Statfs, sizeof(StatfsOut), false},
      Operation{Opcode::kRelease, &Server::Release, 0, false},
      Operation{Opcode::kFsync, &Server::Fsync, 0, false},
      Operation{Opcode::kSetxattr, &Server::Setxattr, 0, true},
      Operation{Opcode::kGetxattr, &Server::Getxattr, 0, false},
      Operation{Opcode::kListxattr, &Server::Listxattr, 0, false},
      Operation{Opcode::kRemovexattr, &Server::Removexattr, 0, true},
      Operation{Opcode::kFlush, &Server::Flush, 0, false},
      Operation{Opcode::kInit, &Server::Init, sizeof(InitOut), false},
      Operation{Opcode::kOpendir, &Server::Opendir, sizeof(OpenOut), false},
      Operation{Opcode::kReaddir, &Server::Readdir, 0, false},
      Operation{Opcode::kReleasedir, &Server::Releasedir, 0, false},
      Operation{Opcode::kFsyncdir, &Server::Fsyncdir, 0, false},
      Operation{Opcode::kGetlk, &Server::Getlk, sizeof(LockOut), false},
      Operation{Opcode::kSetlk, &Server::Setlk, 0, false},
      Operation{Opcode::kSetlkw, &Server::Setlkw, 0, false},
      Operation{Opcode::kAccess, &Server::Access, 0, false},
      Operation{Opcode::kCreate, &Server::Create, sizeof(EntryOut) + sizeof(OpenOut), true},
      Operation{Opcode::kDestroy, &Server::Destroy, 0, false},
      Operation{Opcode::kFallocate, &Server::Fallocate, 0, true},
      Operation{Opcode::kReaddirplus, &Server::Readdirplus, 0, false},
      Operation{Opcode::kRename2, &Server::Rename2, 0, true},
      Operation{Opcode::kLseek, &Server::Lseek, sizeof(LseekOut), false},
      Operation{Opcode::kCopyFileRange, &Server::CopyFileRange, sizeof(WriteOut), true},
      Operation{Opcode::kSyncfs, &Server::Syncfs, 0, false},
  };
  const auto* const operation =
      std::ranges::find(kOperations, static_cast<Opcode>(opcode), &Operation::opcode);
  return operation == kOperations.end() ? nullptr : operation;
}

Server::Outcome Server::Handle(virtio::Segments readable, virtio::Segments writable) {
  requests_.fetch_add(1, std::memory_order_relaxed);
  Request request{.header = {}, .body = Body({}), .data = {}, .reply = Reply(writable)};
  const std::uint64_t length = virtio::TotalBytes(readable);
  int error = 0;
  bool has_reply = true;
  waits_.reset();
  if (!virtio::ReadStruct(readable, 0, request.header) || request.header.len != length) {
    error = EINVAL;
  } else {
    std::uint64_t rest = length - sizeof(InHeader);
    // The data of a write stay where they are.
    if (request.header.opcode == static_cast<std::uint32_t>(Opcode::kWrite)) {
      const std::uint64_t before = sizeof(InHeader) + sizeof(WriteIn);
      if (length > before) request.data = virtio::Subrange(readable, before, length - before);
      rest = std::min<std::uint64_t>(rest, sizeof(WriteIn));
    }
    if (rest > kMaxBody) {
      error = E2BIG;
    } else {
      body_.resize(static_cast<std::size_t>(rest));
      virtio::CopyFrom(readable, sizeof(InHeader), body_);
      request.body = Body(body_);
      error = Dispatch(request, has_reply);
    }
  }
  open_files_.store(nodes_.size() + files_.size() + locks_.size(), std::memory_order_relaxed);
  if (waits_.has_value()) return {.used_length = 0, .waiting = waits_};
  if (error != 0) errors_.fetch_add(1, std::memory_order_relaxed);
  const std::uint32_t used = has_reply ? request.reply.Finish(request.header.unique, error) : 0;
  return {.used_length = used, .waiting = std::nullopt};
}

int Server::Dispatch(Request& request, bool& has_reply) {
  switch (static_cast<Opcode>(request.header.opcode)) {
    case Opcode::kForget:
      has_reply = false;
      Forget(request);
      return 0;
    case Opcode::kBatchForget:
      has_reply = false;
      BatchForget(request);
      return 0;
    case Opcode::kInterrupt:
      has_reply = false;
      Interrupt(request);
      return 0;
    default:
      break;
  }
  const Operation* const operation = FindOperation(request.header.opcode);
  if (operation == nullptr) return ENOSYS;
  if (!initialized_ && operation->opcode != Opcode::kInit) return ENOTCONN;
  if (request.reply.room() < operation->reply_bytes) return EINVAL;
  if (operation->changes && options_.read_only) return EROFS;
  const bool begins = operation->opcode == Opcode::kInit || operation->opcode == Opcode::kDestroy;
  if (options_.single_file && request.header.nodeid == kRootId && !begins) {
    return DispatchSingle(request, operation->opcode);
  }
  return (this->*operation->handler)(request);
}

int Server::Init(Request& request) {
  InitIn in{};
  if (!request.body.Take(in)) return EINVAL;
  // A mount after another: the one before is over, whether it said so or not.
  Reset();
  InitOut out{};
  out.major = kMajor;
  out.minor = kMinor;
  if (in.major > kMajor) {
    // The driver asks again with a version of ours.
    request.reply.Put(out);
    return 0;
  }
  if (in.major < kMajor || in.minor < kMinMinor) return EPROTO;
  std::uint32_t offered = kInitAsyncRead | kInitAtomicTruncate | kInitBigWrites | kInitReaddirplus |
                          kInitReaddirplusAuto | kInitAsyncDirectIo | kInitParallelDirops |
                          kInitMaxPages;
  if (options_.host_locks) offered |= kInitPosixLocks | kInitFlockLocks;
  if (options_.writeback && !options_.read_only) offered |= kInitWriteback;
  if (options_.cache == FsCache::kAuto) offered |= kInitAutoInvalidate;
  if (options_.cache == FsCache::kAlways) offered |= kInitCacheSymlinks;
  out.minor = std::min(in.minor, kMinor);
  out.flags = in.flags & offered;
  out.max_readahead = std::min(in.max_readahead, kMaxTransfer);
  out.max_background = kMaxBackground;
  out.congestion_threshold = kCongestion;
  out.max_write = kMaxTransfer;
  out.max_pages = kMaxPages;
  out.time_granularity = 1;
  writeback_ = (out.flags & kInitWriteback) != 0;
  initialized_ = true;
  request.reply.Put(out);
  return 0;
}

int Server::Destroy(Request& /*request*/) {
  Reset();
  return 0;
}

void Server::Reset() {
  initialized_ = false;
  writeback_ = false;
  waiting_.clear();
  locks_.Clear();
  files_.clear();
  nodes_.Clear();
  usage_ = {};
  open_files_.store(nodes_.size(), std::memory_order_relaxed);
}

Server::Counters Server::counters() const {
  const auto load = [](const std::atomic<std::uint64_t>& counter) {
    return counter.load(std::memory_order_relaxed);
  };
  return {.requests = load(requests_),
          .errors = load(errors_),
          .read_bytes = load(read_bytes_),
          .written_bytes = load(written_bytes_),
          .open_files = load(open_files_)};
}

bool Server::HasRoom() const {
  return nodes_.size() + files_.size() + locks_.size() < max_open_files_;
}

Answer<Node*> Server::FindDirectory(std::uint64_t id) {
  Node* const node = nodes_.Find(id);
  if (node == nullptr) return std::unexpected(ESTALE);
  if (!node->IsDirectory()) return std::unexpected(ENOTDIR);
  return node;
}

Answer<Server::OpenFile*> Server::FindFile(std::uint64_t handle, std::uint64_t node,
                                           bool directory) {
  const auto file = files_.find(handle);
  if (file == files_.end() || file->second.node != node || file->second.directory != directory) {
    return std::unexpected(EBADF);
  }
  return &file->second;
}

std::uint64_t Server::AddFile(OpenFile file) {
  const std::uint64_t handle = next_handle_++;
  files_.emplace(handle, std::move(file));
  return handle;
}

Answer<UniqueFd> Server::OpenBelow(int directory, const char* name, int flags, mode_t mode) const {
  open_how how{};
  how.flags = static_cast<std::uint64_t>(flags) | O_NOFOLLOW | O_CLOEXEC;
  how.mode = mode;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS;
  // A link is to be had as itself: O_PATH with O_NOFOLLOW, which the other flag refuses.
  if ((flags & O_PATH) != 0) how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  if (!options_.cross_mounts) how.resolve |= RESOLVE_NO_XDEV;
  // EAGAIN: something was renamed meanwhile, and the kernel cannot tell.
  constexpr int kAttempts = 16;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    UniqueFd fd(static_cast<int>(::syscall(SYS_openat2, directory, name, &how, sizeof(how))));
    if (fd.valid()) return fd;
    if (errno != EAGAIN && errno != EINTR) break;
  }
  return std::unexpected(errno);
}

// ─── locks ──────────────────────────────────────────────────────────────────────────────

Answer<int> Server::LockFile(std::uint64_t node_id, const LockIn& lock) {
  const int known = locks_.Find(node_id, lock.owner);
  if (known >= 0) return known;
  const Node* const node = nodes_.Find(node_id);
  if (node == nullptr) return std::unexpected(ESTALE);
  if (!node->IsRegular()) return std::unexpected(EINVAL);
  if (!HasRoom()) return std::unexpected(ENOLCK);
  const ProcPath path(node->fd.get());
  constexpr int kFlags = O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
  UniqueFd fd;
  if (!options_.read_only) fd.Reset(::open(path.c_str(), O_RDWR | kFlags));
  // Enough for a shared lock.
  if (!fd.valid()) fd.Reset(::open(path.c_str(), O_RDONLY | kFlags));
  if (!fd.valid()) return std::unexpected(errno);
  return locks_.Add(node_id, lock.owner, std::move(fd));
}

int Server::TryLock(std::uint64_t node_id, const LockIn& lock) {
  if ((lock.flags & kLockFlock) != 0) {
    const Answer<OpenFile*> file = FindFile(lock.handle, node_id);
    return file.has_value() ? LockTable::Flock((*file)->fd.get(), lock.lock.type) : file.error();
  }
  const bool unlock = lock.lock.type == F_UNLCK;
  if (unlock && locks_.Find(node_id, lock.owner) < 0) return 0;
  const Answer<int> fd = LockFile(node_id, lock);
  if (!fd.has_value()) return fd.error();
  const int error = LockTable::Set(*fd, lock.lock);
  if (error == 0 && unlock && LockTable::CoversAll(lock.lock)) locks_.Drop(node_id, lock.owner);
  return error;
}

int Server::Getlk(Request& request) {
  LockIn in{};
  if (!options_.host_locks) return ENOSYS;
  if (!request.body.Take(in)) return EINVAL;
  const Answer<int> fd = LockFile(request.header.nodeid, in);
  if (!fd.has_value()) return fd.error();
  LockOut out{.lock = in.lock};
  const int error = LockTable::Test(*fd, out.lock);
  if (error == 0) request.reply.Put(out);
  return error;
}

int Server::Setlk(Request& request) {
  LockIn in{};
  if (!options_.host_locks) return ENOSYS;
  if (!request.body.Take(in)) return EINVAL;
  return TryLock(request.header.nodeid, in);
}

int Server::Setlkw(Request& request) {
  LockIn in{};
  if (!options_.host_locks) return ENOSYS;
  if (!request.body.Take(in)) return EINVAL;
  const int error = TryLock(request.header.nodeid, in);
  if (error != EAGAIN && error != EWOULDBLOCK) return error;
  // Whoever has it may be another process of the guest, whose release comes through the
  // same queue: this one waits beside it.
  if (waiting_.size() >= kMaxWaitingLocks) return ENOLCK;
  waits_ = next_waiting_++;
  waiting_[*waits_] =
      WaitingLock{.unique = request.header.unique, .node = request.header.nodeid, .lock = in};
  return 0;
}

std::optional<std::uint32_t> Server::Retry(std::uint64_t waiting, virtio::Segments writable) {
  const auto lock = waiting_.find(waiting);
  int error = ENOTCONN;
  std::uint64_t unique = 0;
  if (lock != waiting_.end()) {
    unique = lock->second.unique;
    error = lock->second.interrupted ? EINTR : TryLock(lock->second.node, lock->second.lock);
    if (error == EAGAIN || error == EWOULDBLOCK) return std::nullopt;
    waiting_.erase(lock);
  }
  if (error != 0) errors_.fetch_add(1, std::memory_order_relaxed);
  return Reply(writable).Finish(unique, error);
}

void Server::Interrupt(Request& request) {
  InterruptIn in{};
  if (!request.body.Take(in)) return;
  for (auto& [id, lock] : waiting_) {
    if (lock.unique == in.unique) lock.interrupted = true;
  }
}

}  // namespace embervm::devices::fs
