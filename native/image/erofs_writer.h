// Writes a tree as an EROFS file system: 4 KiB blocks, nothing compressed. The content of files
// is in the image already; directories, inodes and the super block follow it.
//
// The same layers give the same bytes: the order of everything is that of names, the time of the
// file system is the newest in it, and its UUID is made of its metadata. The super block has no
// checksum: a host that emulates guest kernels would compute one at every mount for 10 ms, and
// who keeps images knows the digest of all of their bytes.
#ifndef EMBERVM_IMAGE_EROFS_WRITER_H_
#define EMBERVM_IMAGE_EROFS_WRITER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "image/content_store.h"
#include "image/tree.h"

namespace embervm::image {

struct ErofsReport {
  std::uint64_t image_bytes = 0;
  std::uint64_t inodes = 0;
};

class ErofsWriter {
 public:
  ErofsWriter(const Tree& tree, ContentStore& content) : tree_(tree), content_(content) {}

  [[nodiscard]] Result<ErofsReport> Write();

 private:
  // An inode with all that is laid out for it.
  struct Item {
    Inode* inode = nullptr;
    Inode* parent = nullptr;  // Of a directory.
    std::uint64_t size = 0;
    std::uint64_t first_block = 0;
    // Of a directory or a link, in blocks of their own; files have theirs already.
    std::uint64_t own_blocks = 0;
    std::uint64_t position = 0;  // In the metadata.
    std::uint32_t header_bytes = 0;
    std::uint32_t xattr_bytes = 0;
    std::uint32_t tail_bytes = 0;
  };

  void Collect();
  void FindBuildTime();
  [[nodiscard]] Result<> ClearUnused();
  [[nodiscard]] Result<> PlaceContent();
  [[nodiscard]] Result<> PlaceInodes();
  [[nodiscard]] bool FitsCompact(const Item& item) const;
  [[nodiscard]] Result<> WriteItem(const Item& item);
  [[nodiscard]] Result<> WriteContent(const Item& item, std::uint64_t tail_at);
  [[nodiscard]] Result<> WriteSuperBlock(std::uint64_t blocks);
  void Digest(std::span<const std::byte> bytes);
  [[nodiscard]] std::array<std::uint8_t, 16> MakeUuid() const;

  const Tree& tree_;
  ContentStore& content_;
  std::vector<Item> items_;
  std::int64_t build_time_ = 0;
  std::uint32_t build_time_nsec_ = 0;
  std::uint64_t meta_block_ = 0;
  std::uint64_t meta_bytes_ = 0;
  std::array<std::uint64_t, 2> digest_{};
  std::vector<std::byte> scratch_;
};

}  // namespace embervm::image

#endif  // EMBERVM_IMAGE_EROFS_WRITER_H_
