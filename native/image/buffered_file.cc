#include "image/buffered_file.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace embervm::image {

namespace {

constexpr std::size_t kBufferBytes = std::size_t{512} << 10U;
// A gap is written as zeros when that is cheaper than another system call.
constexpr std::size_t kSmallGap = std::size_t{16} << 10U;
// To gather this much costs more than the system call that it saves.
constexpr std::size_t kDirectBytes = std::size_t{32} << 10U;
// The disk is to be busy while the rest is still on its way; the last fsync is short then.
constexpr std::uint64_t kWritebackBytes = std::uint64_t{16} << 20U;

std::unexpected<Error> Failed(const char* syscall, const std::string& path) {
  return std::unexpected(
      Error::FromErrno("ERR_IMAGE_WRITE", syscall, errno, path).With("path", path));
}

}  // namespace

BufferedFile::BufferedFile(int fd, std::string path)
    : fd_(fd),
      path_(std::move(path)),
      buffer_(std::make_unique_for_overwrite<std::byte[]>(kBufferBytes)) {}

Result<> BufferedFile::Write(std::uint64_t offset, std::span<const std::byte> bytes) {
  const std::uint64_t end = begin_ + filled_;
  // A gap may be filled where nothing was written yet.
  const bool follows = offset == end || (offset > end && offset - end <= kSmallGap && end >= high_);
  const bool direct = bytes.size() >= kDirectBytes;
  if (direct || !follows || filled_ == 0 || offset - end + bytes.size() > kBufferBytes - filled_) {
    EMBERVM_TRY(Flush());
    high_ = std::max(high_, offset + bytes.size());
    if (direct) return WriteNow(offset, bytes);
    begin_ = offset;
  }
  const std::span<std::byte> buffer(buffer_.get(), kBufferBytes);
  const std::size_t gap = offset - (begin_ + filled_);
  std::ranges::fill(buffer.subspan(filled_, gap), std::byte{});
  filled_ += gap;
  std::ranges::copy(bytes, buffer.subspan(filled_).begin());
  filled_ += bytes.size();
  high_ = std::max(high_, begin_ + filled_);
  return {};
}

Result<> BufferedFile::Flush() {
  const std::span<const std::byte> bytes(buffer_.get(), std::exchange(filled_, 0));
  return WriteNow(begin_, bytes);
}

Result<> BufferedFile::WriteNow(std::uint64_t offset, std::span<const std::byte> bytes) {
  unsynced_ += bytes.size();
  while (!bytes.empty()) {
    const ssize_t count = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Failed("pwrite", path_);
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
  if (unsynced_ >= kWritebackBytes) {
    unsynced_ = 0;
    // Of all that is dirty. Where it cannot be begun, the fsync does everything.
    ::sync_file_range(fd_, 0, 0, SYNC_FILE_RANGE_WRITE);
  }
  return {};
}

Result<> BufferedFile::Read(std::uint64_t offset, std::span<std::byte> bytes) {
  if (filled_ > 0) EMBERVM_TRY(Flush());
  while (!bytes.empty()) {
    const ssize_t count = ::pread(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Failed("pread", path_);
    if (count == 0) break;
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
  std::ranges::fill(bytes, std::byte{});
  return {};
}

Result<> BufferedFile::Clear(std::uint64_t offset, std::uint64_t length) {
  EMBERVM_TRY(Flush());
  constexpr int kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  if (::fallocate(fd_, kPunch, static_cast<off_t>(offset), static_cast<off_t>(length)) == 0) {
    return {};
  }
  std::ranges::fill(std::span(buffer_.get(), kBufferBytes), std::byte{});
  while (length > 0) {
    const std::size_t count = std::min<std::uint64_t>(length, kBufferBytes);
    EMBERVM_TRY(WriteNow(offset, {buffer_.get(), count}));
    offset += count;
    length -= count;
  }
  return {};
}

Result<> BufferedFile::Resize(std::uint64_t bytes) {
  EMBERVM_TRY(Flush());
  if (::ftruncate(fd_, static_cast<off_t>(bytes)) != 0) return Failed("ftruncate", path_);
  return {};
}

}  // namespace embervm::image
