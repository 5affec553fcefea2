#include "image/builder.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "image/failure.h"

namespace embervm::image {

namespace {

constexpr std::size_t kChunkBytes = std::size_t{1} << 20U;

std::unexpected<Error> ReadFailed(const char* syscall, const std::string& path) {
  return std::unexpected(
      Error::FromErrno("ERR_IMAGE_READ", syscall, errno, path).With("path", path));
}

Result<UniqueFd> OpenLayer(const std::string& path) {
  UniqueFd fd;
  do {
    // Not for long where it is a fifo, which is refused below.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-vararg): open is variadic.
    fd.Reset(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  } while (!fd.valid() && errno == EINTR);
  if (!fd.valid()) return ReadFailed("open", path);
  struct stat status{};
  if (::fstat(fd.get(), &status) != 0) return ReadFailed("fstat", path);
  if (!S_ISREG(status.st_mode)) {
    // Reading anything else could wait forever.
    errno = EINVAL;
    return ReadFailed("open", path);
  }
  ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
  return fd;
}

Result<> AddLayer(ImageBuilder& builder, const std::string& path, std::span<std::byte> buffer,
                  const std::atomic<bool>& cancelled) {
  EMBERVM_TRY_ASSIGN(const UniqueFd fd, OpenLayer(path));
  EMBERVM_TRY(builder.BeginLayer());
  while (true) {
    // Relaxed: it orders nothing, it only has to arrive.
    if (cancelled.load(std::memory_order_relaxed)) {
      return std::unexpected(Error("ERR_ABORTED", "the image was not finished: aborted"));
    }
    const ssize_t count = ::read(fd.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ReadFailed("read", path);
    if (count == 0) return builder.EndLayer();
    EMBERVM_TRY(builder.Push(buffer.first(static_cast<std::size_t>(count))));
  }
}

}  // namespace

Result<std::unique_ptr<ImageBuilder>> ImageBuilder::Create(const std::string& path,
                                                           const ImageLimits& limits) {
  EMBERVM_TRY_ASSIGN(AtomicFile file, AtomicFile::Create(path));
  EMBERVM_TRY_ASSIGN(UniqueFd scratch, AtomicFile::CreateScratch(path));
  // The constructor is private: std::make_unique cannot use it.
  return std::unique_ptr<ImageBuilder>(
      new ImageBuilder(std::move(file), std::move(scratch), path, limits));
}

ImageBuilder::ImageBuilder(AtomicFile file, UniqueFd scratch, const std::string& path,
                           const ImageLimits& limits)
    : limits_(limits),
      file_(std::move(file)),
      scratch_(std::move(scratch)),
      image_(file_.fd(), path),
      tails_(scratch_.get(), path),
      tree_(limits),
      content_(limits, image_, tails_) {}

Result<> ImageBuilder::BeginLayer() {
  EMBERVM_TRY(tree_.BeginLayer());
  TarSink& sink = *this;
  reader_.emplace(limits_, sink);
  return {};
}

Result<> ImageBuilder::Push(std::span<const std::byte> bytes) { return reader_->Push(bytes); }

Result<> ImageBuilder::EndLayer() { return reader_->Finish(); }

Result<ErofsReport> ImageBuilder::Commit() {
  ErofsWriter writer(tree_, content_);
  EMBERVM_TRY_ASSIGN(const ErofsReport report, writer.Write());
  EMBERVM_TRY(file_.Commit());
  return report;
}

Result<> ImageBuilder::Begin(TarEntry&& entry) {
  EMBERVM_TRY_ASSIGN(current_, tree_.Apply(std::move(entry)));
  return current_ == nullptr ? Result<>() : content_.Begin(*current_);
}

Result<> ImageBuilder::Data(std::uint64_t offset, std::span<const std::byte> bytes) {
  return current_ == nullptr ? Result<>() : content_.Write(*current_, offset, bytes);
}

Result<> ImageBuilder::End() {
  current_.reset();
  return {};
}

Result<ErofsReport> BuildImage(const std::vector<std::string>& layers, const std::string& path,
                               const ImageLimits& limits, const std::atomic<bool>& cancelled) {
  EMBERVM_TRY_ASSIGN(const std::unique_ptr<ImageBuilder> builder,
                     ImageBuilder::Create(path, limits));
  const auto buffer = std::make_unique_for_overwrite<std::byte[]>(kChunkBytes);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    Result<> added = AddLayer(*builder, layers[i], {buffer.get(), kChunkBytes}, cancelled);
    if (!added.has_value()) {
      return std::unexpected(std::move(added).error().With("layer", static_cast<std::int64_t>(i)));
    }
  }
  return builder->Commit();
}

}  // namespace embervm::image
