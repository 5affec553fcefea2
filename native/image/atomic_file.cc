#include "image/atomic_file.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <utility>

namespace embervm::image {

namespace {

// An image is read-only and holds what anybody may pull: the directory keeps others out.
constexpr mode_t kFileMode = 0644;

std::unexpected<Error> Failed(const char* syscall, const std::string& path) {
  return std::unexpected(
      Error::FromErrno("ERR_IMAGE_WRITE", syscall, errno, path).With("path", path));
}

int Open(const std::string& path, int flags) {
  int fd = -1;
  do {
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-vararg): open is variadic.
    fd = ::open(path.c_str(), flags | O_CLOEXEC, kFileMode);
  } while (fd < 0 && errno == EINTR);
  return fd;
}

Result<std::string> TemporaryPath(const std::string& path) {
  std::uint64_t number = 0;
  if (::getrandom(&number, sizeof(number), 0) != static_cast<ssize_t>(sizeof(number))) {
    return Failed("getrandom", path);
  }
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string name = path + ".tmp-";
  for (int i = 0; i < 16; ++i, number >>= 4U) name += kHex[number & 0xfU];
  return name;
}

std::string DirectoryOf(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return path.substr(0, slash == 0 ? 1 : slash);
}

}  // namespace

Result<AtomicFile> AtomicFile::Create(const std::string& path) {
  EMBERVM_TRY_ASSIGN(std::string temporary, TemporaryPath(path));
  UniqueFd fd(Open(temporary, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW));
  if (!fd.valid()) return Failed("open", temporary);
  return AtomicFile(std::move(fd), path, std::move(temporary));
}

Result<UniqueFd> AtomicFile::CreateScratch(const std::string& path) {
  UniqueFd fd(Open(DirectoryOf(path), O_RDWR | O_TMPFILE));
  if (fd.valid()) return fd;
  // Not on every file system.
  EMBERVM_TRY_ASSIGN(const std::string temporary, TemporaryPath(path));
  fd.Reset(Open(temporary, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW));
  if (!fd.valid()) return Failed("open", temporary);
  ::unlink(temporary.c_str());
  return fd;
}

AtomicFile::AtomicFile(UniqueFd fd, std::string path, std::string temporary)
    : fd_(std::move(fd)), path_(std::move(path)), temporary_(std::move(temporary)) {}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : fd_(std::move(other.fd_)),
      path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, {})) {}

AtomicFile::~AtomicFile() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

Result<> AtomicFile::Commit() {
  if (::fsync(fd_.get()) != 0) return Failed("fsync", temporary_);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) return Failed("rename", path_);
  temporary_.clear();
  const std::string directory = DirectoryOf(path_);
  const UniqueFd handle(Open(directory, O_RDONLY | O_DIRECTORY));
  if (!handle.valid()) return Failed("open", directory);
  if (::fsync(handle.get()) != 0) return Failed("fsync", directory);
  return {};
}

}  // namespace embervm::image
