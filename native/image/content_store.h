// ContentStore: takes the content of files as it comes, before anything is known of the rest of
// the image: whole blocks go to their place in the image at once, and short ends to a scratch
// file, from where they are put behind their inodes.
#ifndef EMBERVM_IMAGE_CONTENT_STORE_H_
#define EMBERVM_IMAGE_CONTENT_STORE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "image/buffered_file.h"
#include "image/limits.h"
#include "image/tree.h"

namespace embervm::image {

struct BlockRange {
  std::uint64_t first = 0;
  std::uint64_t count = 0;
};

class ContentStore {
 public:
  ContentStore(const ImageLimits& limits, BufferedFile& image, BufferedFile& tails)
      : limits_(limits), image_(image), tails_(tails) {}

  // Gives `inode` its place.
  [[nodiscard]] Result<> Begin(Inode& inode);
  // Within its size; what is left out is zero.
  [[nodiscard]] Result<> Write(const Inode& inode, std::uint64_t offset,
                               std::span<const std::byte> bytes);
  // Blocks for something else than a file's content.
  [[nodiscard]] Result<std::uint64_t> Allocate(std::uint64_t blocks);
  // `live` are those of the files that are left, in ascending order. The others, of files that a
  // later layer replaced, become zero and take no room on the disk.
  [[nodiscard]] Result<> ClearOthers(std::span<const BlockRange> live);
  [[nodiscard]] Result<> ReadTail(const Inode& inode, std::span<std::byte> bytes);

  [[nodiscard]] std::uint64_t end_block() const { return next_block_; }
  [[nodiscard]] BufferedFile& image() { return image_; }

 private:
  const ImageLimits limits_;
  BufferedFile& image_;
  BufferedFile& tails_;
  // The first block is the super block's.
  std::uint64_t next_block_ = 1;
  std::uint64_t tails_end_ = 0;
  std::uint64_t total_bytes_ = 0;
};

}  // namespace embervm::image

#endif  // EMBERVM_IMAGE_CONTENT_STORE_H_
