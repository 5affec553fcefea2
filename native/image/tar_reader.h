// TarReader: a tar archive that comes in chunks of any size. It keeps one header, one extension
// and one sparse map, never the data. Understood are v7, ustar (POSIX.1-1988), pax
// (POSIX.1-2001), GNU and star, with the sparse files of GNU tar.
#ifndef EMBERVM_IMAGE_TAR_READER_H_
#define EMBERVM_IMAGE_TAR_READER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "base/result.h"
#include "image/limits.h"
#include "image/tar_entry.h"
#include "image/tar_pax.h"
#include "image/tar_sparse.h"

namespace embervm::image {

// Begin, Data in ascending order, End, for each entry. What Data leaves out is zero.
class TarSink {
 public:
  TarSink() = default;
  TarSink(const TarSink&) = delete;
  TarSink& operator=(const TarSink&) = delete;
  virtual ~TarSink() = default;

  [[nodiscard]] virtual Result<> Begin(TarEntry&& entry) = 0;
  [[nodiscard]] virtual Result<> Data(std::uint64_t offset, std::span<const std::byte> bytes) = 0;
  [[nodiscard]] virtual Result<> End() = 0;
};

class TarReader {
 public:
  static constexpr std::size_t kBlockBytes = 512;

  TarReader(const ImageLimits& limits, TarSink& sink) : limits_(limits), sink_(sink) {}

  // After a failure the reader is of no use any more.
  [[nodiscard]] Result<> Push(std::span<const std::byte> bytes);
  // The archive is complete. One without an end mark is accepted where it ends between two
  // entries, as Docker and containerd accept it: that none is missing is known by the digest.
  // umoci writes such, which also end without the padding of their last entry.
  [[nodiscard]] Result<> Finish();

 private:
  using Block = std::array<std::byte, kBlockBytes>;
  enum class State : std::uint8_t {
    kHeader,
    kExtension,     // The body of a pax header or a long name.
    kSparseBlocks,  // Extensions of an old GNU sparse header.
    kSparseMap,     // The map of pax 1.0.
    kData,
    kPadding,
    kEnd,
  };

  [[nodiscard]] Result<std::size_t> Step(std::span<const std::byte> bytes);
  [[nodiscard]] Result<> OnBlock();
  [[nodiscard]] Result<> OnHeader();
  [[nodiscard]] Result<> OnMember(char type, std::uint64_t stored);
  [[nodiscard]] Result<> BeginExtension(char type, std::uint64_t bytes);
  [[nodiscard]] Result<> OnExtension();
  [[nodiscard]] Result<> ReadAttributes();
  [[nodiscard]] Result<> ReadNames(char type);
  [[nodiscard]] Result<> ReadType(char type);
  [[nodiscard]] Result<> PrepareSparse(char type);
  [[nodiscard]] Result<> OnSparseBlock();
  [[nodiscard]] Result<> Deliver();
  [[nodiscard]] Result<std::size_t> TakeData(std::span<const std::byte> bytes);
  [[nodiscard]] Result<> EndEntry();

  [[nodiscard]] Result<std::int64_t> Number(std::size_t offset, std::size_t length,
                                            const char* what) const;
  [[nodiscard]] std::string Text(std::size_t offset, std::size_t length) const;

  const ImageLimits limits_;
  TarSink& sink_;

  std::size_t block_filled_ = 0;
  std::uint64_t headers_ = 0;

  std::string extension_;
  PaxRecords global_;
  PaxRecords pax_;
  std::optional<std::string> long_name_;
  std::optional<std::string> long_link_;

  TarEntry entry_;
  // The map of the entry; without holes it is one extent.
  SparseMap map_;
  SparseMapParser map_parser_;
  std::uint64_t map_bytes_ = 0;
  std::uint64_t map_padding_ = 0;
  std::size_t extent_ = 0;
  std::uint64_t in_extent_ = 0;
  // Of the body: what is still to come, and the padding after it.
  std::uint64_t stored_left_ = 0;
  std::uint64_t padding_left_ = 0;

  // Small ones together, so that there are no gaps between.
  State state_ = State::kHeader;
  bool saw_zero_block_ = false;
  char extension_type_ = 0;
  bool has_extension_ = false;
  // The body is not data of the file.
  bool discard_ = false;
  Block block_{};
};

}  // namespace embervm::image

#endif  // EMBERVM_IMAGE_TAR_READER_H_
