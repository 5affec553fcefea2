#include "arch/x86_64/file_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/checked.h"

namespace embervm {

Result<FileReader> FileReader::Open(const std::string& path, std::string what) {
  // Non-blocking, so that a FIFO in the file's place does not wait for a writer.
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) {
    return std::unexpected(
        Error::FromErrno("ERR_KERNEL_NOT_FOUND", "open", errno, what + " " + path)
            .With("path", path));
  }
  struct stat status{};
  if (::fstat(fd.get(), &status) != 0) {
    return std::unexpected(Error::FromErrno("ERR_KERNEL_INVALID", "fstat", errno, what + " " + path)
                               .With("path", path));
  }
  if (!S_ISREG(status.st_mode)) {
    return std::unexpected(Error("ERR_KERNEL_INVALID", what + " " + path + " is not a regular file")
                               .With("path", path));
  }
  return FileReader(std::move(fd), static_cast<std::uint64_t>(status.st_size), path,
                    std::move(what));
}

Error FileReader::MakeError(std::string_view code, std::string_view problem) const {
  return Error(code, what_ + " " + path_ + ": " + std::string(problem)).With("path", path_);
}

Result<> FileReader::ReadAt(std::uint64_t offset, std::span<std::byte> bytes) const {
  if (!RangeFits(offset, bytes.size(), size_)) {
    return std::unexpected(MakeError("ERR_KERNEL_INVALID",
                                     "truncated: " + std::to_string(bytes.size()) +
                                         " bytes are needed at offset " + std::to_string(offset) +
                                         ", the file has " + std::to_string(size_)));
  }
  while (!bytes.empty()) {
    const ssize_t got = ::pread(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return std::unexpected(
          Error::FromErrno("ERR_KERNEL_INVALID", "pread", errno, what_ + " " + path_)
              .With("path", path_));
    }
    if (got == 0) {
      return std::unexpected(MakeError("ERR_KERNEL_INVALID", "truncated while it was read"));
    }
    offset += static_cast<std::uint64_t>(got);
    bytes = bytes.subspan(static_cast<std::size_t>(got));
  }
  return {};
}

}  // namespace embervm
