#include "machine/snapshot_store.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string_view>
#include <utility>

namespace embervm::machine {

namespace {

constexpr const char* kStateName = "state";
constexpr const char* kNewStateName = "state.tmp";
constexpr std::string_view kMemoryPrefix = "memory-";
constexpr std::size_t kMemoryIdDigits = 16;

// A guest's memory is for its owner's eyes.
constexpr mode_t kDirectoryMode = 0700;
constexpr mode_t kFileMode = 0600;

// A snapshot that is replaced while it is opened is there in another form at once.
constexpr int kOpenAttempts = 3;

Error WriteError(const char* syscall, int saved_errno, const std::string& what) {
  return Error::FromErrno("ERR_SNAPSHOT_WRITE", syscall, saved_errno, what);
}

Result<UniqueFd> OpenAt(int directory, const char* name, int flags) {
  while (true) {
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-vararg): openat is variadic.
    const int fd = ::openat(directory, name, flags | O_CLOEXEC | O_NOFOLLOW, kFileMode);
    if (fd >= 0) return UniqueFd(fd);
    if (errno != EINTR) {
      return std::unexpected(Error::FromErrno("ERR_SNAPSHOT_READ", "open", errno, name));
    }
  }
}

Result<std::vector<std::byte>> ReadState(int directory) {
  EMBERVM_TRY_ASSIGN(const UniqueFd file, OpenAt(directory, kStateName, O_RDONLY));
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) {
    return std::unexpected(Error::FromErrno("ERR_SNAPSHOT_READ", "fstat", errno, kStateName));
  }
  const auto size = static_cast<std::uint64_t>(std::max<off_t>(0, status.st_size));
  if (!S_ISREG(status.st_mode) || size > kMaxStateBytes) {
    return std::unexpected(
        Error("ERR_SNAPSHOT_INVALID", "the state file is not a file, or larger than any can be")
            .With("bytes", static_cast<std::int64_t>(size)));
  }
  std::vector<std::byte> bytes(size);
  std::size_t filled = 0;
  while (filled < bytes.size()) {
    const auto rest = std::span(bytes).subspan(filled);
    const ssize_t got = ::read(file.get(), rest.data(), rest.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return std::unexpected(Error::FromErrno("ERR_SNAPSHOT_READ", "read", errno, kStateName));
    }
    if (got == 0) break;
    filled += static_cast<std::size_t>(got);
  }
  bytes.resize(filled);
  return bytes;
}

std::string NewMemoryName() {
  std::uint64_t id = 0;
  // Cannot fail for so few bytes once the host has booted.
  while (::getrandom(&id, sizeof(id), 0) != sizeof(id)) {
  }
  constexpr unsigned kBitsPerDigit = 4;
  constexpr unsigned kDigitMask = 0xf;
  std::string name(kMemoryPrefix);
  for (std::size_t digit = 0; digit < kMemoryIdDigits; ++digit) {
    name.push_back("0123456789abcdef"[id >> (digit * kBitsPerDigit) & kDigitMask]);
  }
  return name;
}

bool IsMemoryName(std::string_view name) {
  if (!name.starts_with(kMemoryPrefix)) return false;
  name.remove_prefix(kMemoryPrefix.size());
  return name.size() == kMemoryIdDigits &&
         name.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

// Removes the memory files of nobody: of a replaced snapshot, or of a writer that was
// killed. Failing is no error: the next writer tries again.
void RemoveOthers(int directory, std::span<const std::string> keep) {
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-vararg): openat is variadic.
  const int copy = ::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (copy < 0) return;
  const auto close = [](DIR* open) { ::closedir(open); };
  const std::unique_ptr<DIR, decltype(close)> entries(::fdopendir(copy), close);
  if (entries == nullptr) {
    ::close(copy);
    return;
  }
  // NOLINTNEXTLINE(concurrency-mt-unsafe): the stream is this function's own.
  while (const dirent* const entry = ::readdir(entries.get())) {
    const std::string name(&entry->d_name[0]);
    if (IsMemoryName(name) && std::ranges::find(keep, name) == keep.end()) {
      ::unlinkat(directory, name.c_str(), 0);
    }
  }
}

std::vector<std::string> NamesOf(const Snapshot& snapshot) {
  std::vector<std::string> names;
  names.reserve(snapshot.memory.size());
  for (const MemoryLayer& layer : snapshot.memory) names.push_back(layer.name);
  return names;
}

Result<> WriteAll(int fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(fd, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return std::unexpected(WriteError("write", errno, "the state file"));
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
  return {};
}

}  // namespace

Result<SnapshotWriter> SnapshotWriter::Open(const std::string& directory) {
  if (::mkdir(directory.c_str(), kDirectoryMode) != 0 && errno != EEXIST) {
    return std::unexpected(WriteError("mkdir", errno, directory));
  }
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-vararg): open is variadic.
  UniqueFd handle(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!handle.valid()) return std::unexpected(WriteError("open", errno, directory));
  if (::flock(handle.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return std::unexpected(WriteError("flock", errno, directory));
    return std::unexpected(
        Error("ERR_SNAPSHOT_BUSY", "another snapshot is being written to " + directory)
            .With("directory", directory));
  }
  // Only what is known to belong to nobody: an unreadable state may name any of them.
  if (const auto state = ReadState(handle.get()); state.has_value()) {
    const auto current = DecodeSnapshot(*state);
    if (current.has_value()) RemoveOthers(handle.get(), NamesOf(*current));
  } else if (state.error().errno_value() == ENOENT) {
    RemoveOthers(handle.get(), {});
  }
  std::string name = NewMemoryName();
  auto memory = OpenAt(handle.get(), name.c_str(), O_RDWR | O_CREAT | O_EXCL);
  if (!memory.has_value()) {
    return std::unexpected(WriteError("open", memory.error().errno_value(), directory));
  }
  return SnapshotWriter(std::move(handle), std::move(memory).value(), std::move(name));
}

SnapshotWriter::~SnapshotWriter() {
  // Moved from, or done.
  if (!directory_.valid() || committed_) return;
  ::unlinkat(directory_.get(), memory_name_.c_str(), 0);
  ::unlinkat(directory_.get(), kNewStateName, 0);
}

bool SnapshotWriter::Adopt(const std::string& name, int file) {
  const std::string path = "/proc/self/fd/" + std::to_string(file);
  if (::linkat(AT_FDCWD, path.c_str(), directory_.get(), name.c_str(), AT_SYMLINK_FOLLOW) != 0) {
    struct stat there{};
    struct stat wanted{};
    const bool same = errno == EEXIST &&
                      ::fstatat(directory_.get(), name.c_str(), &there, AT_SYMLINK_NOFOLLOW) == 0 &&
                      ::fstat(file, &wanted) == 0 && there.st_dev == wanted.st_dev &&
                      there.st_ino == wanted.st_ino;
    if (!same) return false;
  }
  adopted_.push_back(name);
  return true;
}

Result<> SnapshotWriter::Commit(std::span<const std::byte> state) {
  if (::fsync(memory_.get()) != 0) {
    return std::unexpected(WriteError("fsync", errno, "the memory file"));
  }
  auto file = OpenAt(directory_.get(), kNewStateName, O_WRONLY | O_CREAT | O_TRUNC);
  if (!file.has_value()) {
    return std::unexpected(WriteError("open", file.error().errno_value(), "the state file"));
  }
  EMBERVM_TRY(WriteAll(file->get(), state));
  if (::fsync(file->get()) != 0) {
    return std::unexpected(WriteError("fsync", errno, "the state file"));
  }
  if (::renameat(directory_.get(), kNewStateName, directory_.get(), kStateName) != 0) {
    return std::unexpected(WriteError("rename", errno, "the state file"));
  }
  committed_ = true;
  if (::fsync(directory_.get()) != 0) {
    return std::unexpected(WriteError("fsync", errno, "the snapshot's directory"));
  }
  std::vector<std::string> keep = std::move(adopted_);
  keep.push_back(memory_name_);
  RemoveOthers(directory_.get(), keep);
  return {};
}

Result<OpenedSnapshot> OpenSnapshot(const std::string& directory) {
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-vararg): open is variadic.
  const UniqueFd handle(::open(directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  const auto not_found = [&](int saved_errno) {
    return Error::FromErrno("ERR_SNAPSHOT_NOT_FOUND", "open", saved_errno,
                            "there is no snapshot in " + directory)
        .With("directory", directory);
  };
  if (!handle.valid()) {
    if (errno == ENOENT || errno == ENOTDIR) return std::unexpected(not_found(errno));
    return std::unexpected(Error::FromErrno("ERR_SNAPSHOT_READ", "open", errno, directory));
  }
  for (int attempt = 1;; ++attempt) {
    auto state = ReadState(handle.get());
    if (!state.has_value()) {
      if (state.error().errno_value() == ENOENT) return std::unexpected(not_found(ENOENT));
      return std::unexpected(std::move(state).error());
    }
    OpenedSnapshot opened;
    EMBERVM_TRY_ASSIGN(opened.snapshot, DecodeSnapshot(*state));
    bool replaced = false;
    for (const MemoryLayer& layer : opened.snapshot.memory) {
      auto file = OpenAt(handle.get(), layer.name.c_str(), O_RDONLY);
      if (file.has_value()) {
        opened.memory.push_back({.file = std::move(file).value(), .extents = layer.extents});
        continue;
      }
      replaced = file.error().errno_value() == ENOENT;
      if (replaced && attempt < kOpenAttempts) break;
      if (!replaced) return std::unexpected(std::move(file).error());
      return std::unexpected(
          Error("ERR_SNAPSHOT_INVALID", "the snapshot's memory file is missing: " + layer.name)
              .With("file", layer.name));
    }
    if (!replaced) return opened;
  }
}

}  // namespace embervm::machine
