#include "devices/block/image_file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <span>
#include <string_view>
#include <utility>

namespace embervm::devices {

namespace {

// At once from a constant page of zeroes, for file systems without ZERO_RANGE.
constexpr std::size_t kZeroChunk = 65536;
constexpr std::array<std::byte, kZeroChunk> kZeroes{};

// What O_DIRECT wants where the file system does not say: the block of nearly every disk.
constexpr std::uint32_t kUsualAlignment = 4096;

int OpenFlags(bool read_only) {
  // O_NONBLOCK: opening a FIFO must not wait for its other end. It changes nothing for
  // files and block devices.
  return (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
}

std::string_view CodeForOpen(int error) {
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return "ERR_DRIVE_NOT_FOUND";
    case EACCES:
    case EPERM:
    case EROFS:
    case ETXTBSY:
      return "ERR_DRIVE_ACCESS";
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return "ERR_RESOURCE_LIMIT";
    case EBUSY:
      return "ERR_DRIVE_BUSY";
    default:
      // A directory, a loop of links, a socket, a device without a driver, …
      return "ERR_DRIVE_INVALID";
  }
}

Error OpenError(const std::string& path, std::string_view syscall, int error) {
  return Error::FromErrno(CodeForOpen(error), syscall, error, "drive " + path).With("path", path);
}

Error InvalidFile(const std::string& path, const std::string& problem) {
  return Error("ERR_DRIVE_INVALID", "drive " + path + ": " + problem).With("path", path);
}

Error NotAFile(const std::string& path) {
  return InvalidFile(path, "it is a directory; give an image file");
}

Result<> Lock(const UniqueFd& fd, const std::string& path, bool read_only) {
  // An open file description lock: unlike flock(2) it works on network file systems too,
  // and unlike a process lock it keeps two machines of one process apart.
  struct flock lock{};
  lock.l_type = static_cast<short>(read_only ? F_RDLCK : F_WRLCK);
  lock.l_whence = SEEK_SET;
  if (::fcntl(fd.get(), F_OFD_SETLK, &lock) == 0) return {};
  if (errno == EAGAIN || errno == EACCES) {
    return std::unexpected(
        Error("ERR_DRIVE_BUSY",
              "drive " + path + " is in use by another machine or process" +
                  (read_only ? " that writes to it" : "; share it read-only or make a copy"))
            .With("path", path));
  }
  return std::unexpected(OpenError(path, "fcntl", errno));
}

// Drops `length` bytes from the front of the list.
void Advance(std::vector<virtio::Segment>& segments, std::size_t& first, std::size_t length) {
  while (length > 0) {
    virtio::Segment& segment = segments[first];
    const std::size_t part = std::min(length, segment.iov_len);
    segment.iov_base = static_cast<std::byte*>(segment.iov_base) + part;
    segment.iov_len -= part;
    length -= part;
    if (segment.iov_len == 0) ++first;
  }
}

// preadv(2) and pwritev(2) until all is done; `call` is one of them.
template <class Call>
bool TransferAll(std::vector<virtio::Segment>& segments, std::uint64_t offset,
                 std::uint64_t& transferred, Call call) {
  transferred = 0;
  std::size_t first = 0;
  while (first < segments.size()) {
    const std::size_t count = std::min<std::size_t>(segments.size() - first, IOV_MAX);
    const ssize_t done = call(segments.data() + first, static_cast<int>(count),
                              static_cast<off_t>(offset + transferred));
    if (done < 0 && errno == EINTR) continue;
    // 0 is the end of a file that has shrunk under us.
    if (done <= 0) return false;
    transferred += static_cast<std::uint64_t>(done);
    Advance(segments, first, static_cast<std::size_t>(done));
  }
  return true;
}

bool Fallocate(int fd, int mode, std::uint64_t offset, std::uint64_t length) {
  for (;;) {
    if (::fallocate(fd, mode, static_cast<off_t>(offset), static_cast<off_t>(length)) == 0) {
      return true;
    }
    if (errno != EINTR) return false;
  }
}

bool IsUnsupported(int error) { return error == EOPNOTSUPP || error == ENOSYS || error == ENODEV; }

}  // namespace

Result<ImageFile> ImageFile::Open(const std::string& path, bool read_only, bool direct) {
  UniqueFd fd(::open(path.c_str(), OpenFlags(read_only)));
  if (!fd.valid()) {
    if (errno == EISDIR) return std::unexpected(NotAFile(path));
    return std::unexpected(OpenError(path, "open", errno));
  }
  ImageFile file(std::move(fd), path, read_only);
  EMBERVM_TRY(file.Size());
  EMBERVM_TRY(Lock(file.fd_, path, read_only));
  if (direct) EMBERVM_TRY(file.OpenDirect());
  return file;
}

Error ImageFile::Invalid(const std::string& problem) const { return InvalidFile(path_, problem); }

Result<> ImageFile::OpenDirect() {
  // By the descriptor: the path may lead to another file by now.
  const std::string same = "/proc/self/fd/" + std::to_string(fd_.get());
  UniqueFd direct(::open(same.c_str(), OpenFlags(read_only_) | O_DIRECT));
  if (!direct.valid()) {
    if (errno == EINVAL) {
      return std::unexpected(Invalid("its file system has no direct I/O; choose another cache"));
    }
    return std::unexpected(OpenError(path_, "open", errno));
  }
  direct_ = std::move(direct);
  memory_alignment_ = kUsualAlignment;
  offset_alignment_ = kUsualAlignment;
  struct statx status{};
  if (::statx(fd_.get(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) == 0 &&
      (status.stx_mask & STATX_DIOALIGN) != 0 && status.stx_dio_offset_align != 0) {
    memory_alignment_ = status.stx_dio_mem_align;
    offset_alignment_ = status.stx_dio_offset_align;
  }
  return {};
}

int ImageFile::FdFor(virtio::Segments segments, std::uint64_t offset) const {
  if (!direct_.valid()) return fd_.get();
  const auto aligned = [this](const virtio::Segment& segment) {
    return reinterpret_cast<std::uintptr_t>(segment.iov_base) % memory_alignment_ == 0 &&
           segment.iov_len % offset_alignment_ == 0;
  };
  // The kernel keeps both ways to the file consistent.
  const bool fits = offset % offset_alignment_ == 0 && std::ranges::all_of(segments, aligned);
  return fits ? direct_.get() : fd_.get();
}

Result<std::uint64_t> ImageFile::Size() const {
  struct stat status{};
  if (::fstat(fd_.get(), &status) != 0) return std::unexpected(OpenError(path_, "fstat", errno));
  if (S_ISDIR(status.st_mode)) return std::unexpected(NotAFile(path_));
  std::uint64_t size = 0;
  if (S_ISREG(status.st_mode)) {
    size = static_cast<std::uint64_t>(status.st_size);
  } else if (!S_ISBLK(status.st_mode)) {
    return std::unexpected(Invalid("it is neither a regular file nor a block device"));
  } else if (::ioctl(fd_.get(), BLKGETSIZE64, &size) != 0) {
    return std::unexpected(OpenError(path_, "ioctl", errno));
  }
  if (size == 0) return std::unexpected(Invalid("it is empty"));
  return size;
}

bool ImageFile::SetLength(std::uint64_t length) const {
  for (;;) {
    if (::ftruncate(fd_.get(), static_cast<off_t>(length)) == 0) return true;
    if (errno != EINTR) return false;
  }
}

bool ImageFile::ReadAt(std::uint64_t offset, std::span<std::byte> bytes) const {
  std::uint64_t transferred = 0;
  return Read({{.iov_base = bytes.data(), .iov_len = bytes.size()}}, offset, transferred);
}

bool ImageFile::WriteAt(std::uint64_t offset, std::span<const std::byte> bytes) const {
  std::uint64_t transferred = 0;
  // pwritev(2) only reads what a segment points to.
  void* const data = const_cast<std::byte*>(bytes.data());
  return Write({{.iov_base = data, .iov_len = bytes.size()}}, offset, false, transferred);
}

bool ImageFile::Read(std::vector<virtio::Segment> segments, std::uint64_t offset,
                     std::uint64_t& transferred) const {
  return TransferAll(segments, offset, transferred,
                     [fd = FdFor(segments, offset)](const iovec* list, int count, off_t position) {
                       return ::preadv(fd, list, count, position);
                     });
}

bool ImageFile::ReadAtHand(virtio::Segments segments, std::uint64_t offset) const {
  if (direct_.valid() || segments.size() > IOV_MAX) return false;
  // By its number: the C library's is a point where a thread can be cancelled, and being one
  // takes a twentieth of the time of a small read.
  constexpr long kHighHalf = 0;
  const long done = ::syscall(SYS_preadv2, fd_.get(), segments.data(), segments.size(), offset,
                              kHighHalf, RWF_NOWAIT);
  return done >= 0 && static_cast<std::uint64_t>(done) == virtio::TotalBytes(segments);
}

bool ImageFile::Write(std::vector<virtio::Segment> segments, std::uint64_t offset, bool durable,
                      std::uint64_t& transferred) const {
  const int flags = durable ? RWF_DSYNC : 0;
  return TransferAll(
      segments, offset, transferred,
      [fd = FdFor(segments, offset), flags](const iovec* list, int count, off_t position) {
        return ::pwritev2(fd, list, count, position, flags);
      });
}

bool ImageFile::Flush() const {
  for (;;) {
    if (::fdatasync(fd_.get()) == 0) return true;
    if (errno != EINTR) return false;
  }
}

bool ImageFile::Discard(std::uint64_t offset, std::uint64_t length) const {
  if (length == 0) return true;
  return Fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length) ||
         IsUnsupported(errno);
}

bool ImageFile::WriteZeroes(std::uint64_t offset, std::uint64_t length, bool may_unmap) const {
  if (length == 0) return true;
  const int keep = FALLOC_FL_KEEP_SIZE;
  if (may_unmap && Fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | keep, offset, length)) return true;
  if (Fallocate(fd_.get(), FALLOC_FL_ZERO_RANGE | keep, offset, length)) return true;
  if (!IsUnsupported(errno)) return false;
  while (length > 0) {
    const std::size_t chunk = std::min<std::uint64_t>(length, kZeroes.size());
    const ssize_t done = ::pwrite(fd_.get(), kZeroes.data(), chunk, static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return false;
    offset += static_cast<std::uint64_t>(done);
    length -= static_cast<std::uint64_t>(done);
  }
  return true;
}

}  // namespace embervm::devices
