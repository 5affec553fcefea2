// ImageBuilder: layers in, one EROFS image out. Needs no privilege, holds no file's content in
// memory, and leaves either the whole image or nothing.
#ifndef EMBERVM_IMAGE_BUILDER_H_
#define EMBERVM_IMAGE_BUILDER_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "image/atomic_file.h"
#include "image/buffered_file.h"
#include "image/content_store.h"
#include "image/erofs_writer.h"
#include "image/limits.h"
#include "image/tar_reader.h"
#include "image/tree.h"

namespace embervm::image {

class ImageBuilder final : private TarSink {
 public:
  // `path` is where the image will be; what is there is replaced at the end.
  [[nodiscard]] static Result<std::unique_ptr<ImageBuilder>> Create(const std::string& path,
                                                                    const ImageLimits& limits);
  ImageBuilder(const ImageBuilder&) = delete;
  ImageBuilder& operator=(const ImageBuilder&) = delete;
  ~ImageBuilder() override = default;

  // The lowest layer first: BeginLayer, its archive in chunks, EndLayer. After a failure there is
  // nothing to do but to destroy the builder.
  [[nodiscard]] Result<> BeginLayer();
  [[nodiscard]] Result<> Push(std::span<const std::byte> bytes);
  [[nodiscard]] Result<> EndLayer();
  // Once, last.
  [[nodiscard]] Result<ErofsReport> Commit();

 private:
  ImageBuilder(AtomicFile file, UniqueFd scratch, const std::string& path,
               const ImageLimits& limits);

  Result<> Begin(TarEntry&& entry) override;
  Result<> Data(std::uint64_t offset, std::span<const std::byte> bytes) override;
  Result<> End() override;

  const ImageLimits limits_;
  AtomicFile file_;
  UniqueFd scratch_;
  BufferedFile image_;
  BufferedFile tails_;
  Tree tree_;
  ContentStore content_;
  std::optional<TarReader> reader_;
  // The file whose content is coming. Held here, since its name may be gone before its end.
  std::shared_ptr<Inode> current_;
};

// The tar archives at `layers`, uncompressed, lowest first. Gives up with ERR_ABORTED when
// `cancelled` becomes true. What fails in a layer says so in its context: `layer` counts from 0.
[[nodiscard]] Result<ErofsReport> BuildImage(const std::vector<std::string>& layers,
                                             const std::string& path, const ImageLimits& limits,
                                             const std::atomic<bool>& cancelled);

}  // namespace embervm::image

#endif  // EMBERVM_IMAGE_BUILDER_H_
