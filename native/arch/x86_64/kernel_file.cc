#include "arch/x86_64/kernel_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <utility>

namespace embervm {

namespace {

constexpr std::size_t kPieceSize = 4U << 20U;
constexpr int kHexBase = 16;

Error OpenError(const std::string& path, std::string_view what, int saved_errno) {
  return Error::FromErrno("ERR_KERNEL_NOT_FOUND", "open", saved_errno,
                          std::string(what) + " " + path + " cannot be opened; check the path")
      .With("path", path);
}

}  // namespace

std::string Hex(std::uint64_t value) {
  std::array<char, kHexBase> digits{};
  const auto end = std::to_chars(digits.begin(), digits.end(), value, kHexBase).ptr;
  return "0x" + std::string(digits.begin(), end);
}

Result<KernelFile> KernelFile::Open(const std::string& path, std::string_view what) {
  // O_NONBLOCK: a path that is a pipe must not hang the caller.
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-vararg): open is variadic.
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd.valid()) return std::unexpected(OpenError(path, what, errno));
  struct stat status{};
  if (::fstat(fd.get(), &status) != 0) return std::unexpected(OpenError(path, what, errno));
  KernelFile file(std::move(fd), static_cast<std::uint64_t>(status.st_size), path, what);
  if (!S_ISREG(status.st_mode)) return std::unexpected(file.Invalid("is not a regular file"));
  return file;
}

Result<> KernelFile::ReadAt(std::uint64_t offset, std::span<std::byte> bytes) const {
  while (!bytes.empty()) {
    const std::size_t wanted = std::min(bytes.size(), kPieceSize);
    const ssize_t count = ::pread(fd_.get(), bytes.data(), wanted, static_cast<off_t>(offset));
    if (count < 0) {
      if (errno == EINTR) continue;
      return std::unexpected(
          Error::FromErrno("ERR_KERNEL_INVALID", "pread", errno, what_ + " " + path_)
              .With("path", path_));
    }
    if (count == 0) {
      return std::unexpected(Invalid("is truncated: it ends at " + Hex(offset) + ", " +
                                     std::to_string(bytes.size()) + " bytes early"));
    }
    offset += static_cast<std::uint64_t>(count);
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
  return {};
}

Error KernelFile::MakeError(std::string_view code, const std::string& problem) const {
  return Error(code, what_ + " " + path_ + " " + problem).With("path", path_);
}

Error KernelFile::Invalid(const std::string& problem) const {
  return MakeError("ERR_KERNEL_INVALID", problem);
}

Error KernelFile::TooLarge(const std::string& problem) const {
  return MakeError("ERR_KERNEL_TOO_LARGE", problem + "; give the machine more memory");
}

}  // namespace embervm
