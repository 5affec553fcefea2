#include "base/sparse_copy.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "base/unique_fd.h"

namespace embervm {

namespace {

constexpr mode_t kFileMode = 0600;
constexpr std::size_t kBufferBytes = std::size_t{256} << 10U;

Error Failed(const char* syscall, const std::string& path) {
  return Error::FromErrno("ERR_STATE_DIR", syscall, errno, path).With("path", path);
}

Result<UniqueFd> Open(const std::string& path, int flags) {
  while (true) {
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-vararg): open is variadic.
    const int fd = ::open(path.c_str(), flags | O_CLOEXEC | O_NOFOLLOW, kFileMode);
    if (fd >= 0) return UniqueFd(fd);
    if (errno != EINTR) return std::unexpected(Failed("open", path));
  }
}

// One file being copied into another of the same size, which is all hole.
class Copy {
 public:
  Copy(int from, const std::string& from_path, int to, const std::string& to_path)
      : from_(from), from_path_(from_path), to_(to), to_path_(to_path) {}

  Result<> Everything(off_t size) {
    off_t at = 0;
    while (const auto data =
               NextData(from_, static_cast<std::uint64_t>(at), static_cast<std::uint64_t>(size))) {
      at = static_cast<off_t>(data->end);
      EMBERVM_TRY(Range(static_cast<off_t>(data->begin), at));
    }
    return {};
  }

 private:
  Result<> Range(off_t begin, off_t end) {
    while (begin < end) {
      EMBERVM_TRY_ASSIGN(const off_t count, Some(begin, end));
      if (count == 0) {
        errno = ENODATA;  // It became shorter under our eyes.
        return std::unexpected(Failed("read", from_path_));
      }
      begin += count;
    }
    return {};
  }

  Result<off_t> Some(off_t begin, off_t end) {
    if (in_kernel_) {
      off_t source = begin;
      off_t target = begin;
      const ssize_t count =
          ::copy_file_range(from_, &source, to_, &target, static_cast<std::size_t>(end - begin), 0);
      if (count > 0) return count;
      // Not between these two, or of none of this kind: by hand. What is really wrong shows there.
      in_kernel_ = false;
    }
    if (buffer_ == nullptr) buffer_ = std::make_unique_for_overwrite<std::byte[]>(kBufferBytes);
    const auto wanted = std::min<std::size_t>(kBufferBytes, static_cast<std::size_t>(end - begin));
    ssize_t count = -1;
    do {
      count = ::pread(from_, buffer_.get(), wanted, begin);
    } while (count < 0 && errno == EINTR);
    if (count < 0) return std::unexpected(Failed("read", from_path_));
    EMBERVM_TRY(Write(begin, static_cast<std::size_t>(count)));
    return count;
  }

  Result<> Write(off_t at, std::size_t length) {
    std::size_t done = 0;
    while (done < length) {
      const ssize_t count =
          ::pwrite(to_, buffer_.get() + done, length - done, at + static_cast<off_t>(done));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return std::unexpected(Failed("write", to_path_));
      done += static_cast<std::size_t>(count);
    }
    return {};
  }

  int from_;
  const std::string& from_path_;
  int to_;
  const std::string& to_path_;
  bool in_kernel_ = true;
  std::unique_ptr<std::byte[]> buffer_;
};

Result<> Fill(int from, const std::string& from_path, int to, const std::string& to_path,
              bool durable) {
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-vararg): ioctl is variadic.
  if (::ioctl(to, FICLONE, from) != 0) {
    struct stat status{};
    if (::fstat(from, &status) != 0) return std::unexpected(Failed("fstat", from_path));
    if (::ftruncate(to, status.st_size) != 0) return std::unexpected(Failed("ftruncate", to_path));
    EMBERVM_TRY(Copy(from, from_path, to, to_path).Everything(status.st_size));
  }
  if (durable && ::fdatasync(to) != 0) return std::unexpected(Failed("fdatasync", to_path));
  return {};
}

}  // namespace

std::optional<DataRange> NextData(int fd, std::uint64_t from, std::uint64_t size) {
  if (from >= size) return std::nullopt;
  const auto at = static_cast<off_t>(from);
  const off_t data = ::lseek(fd, at, SEEK_DATA);
  if (data < 0 && errno == ENXIO) return std::nullopt;  // Holes up to the end.
  if (data < 0) return DataRange{.begin = from, .end = size};
  const auto begin = static_cast<std::uint64_t>(data);
  // It has grown since its size was asked for.
  if (begin >= size) return std::nullopt;
  const off_t hole = ::lseek(fd, data, SEEK_HOLE);
  const std::uint64_t end = hole < 0 ? size : std::min(static_cast<std::uint64_t>(hole), size);
  return DataRange{.begin = begin, .end = end};
}

Result<> CopySparse(const std::string& from, const std::string& to, bool durable) {
  EMBERVM_TRY_ASSIGN(const UniqueFd source, Open(from, O_RDONLY));
  EMBERVM_TRY_ASSIGN(const UniqueFd target, Open(to, O_WRONLY | O_CREAT | O_EXCL));
  Result<> filled = Fill(source.get(), from, target.get(), to, durable);
  if (!filled.has_value()) ::unlink(to.c_str());
  return filled;
}

}  // namespace embervm
