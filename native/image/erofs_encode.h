// Parts of an EROFS image that stand alone: directories and extended attributes.
#ifndef EMBERVM_IMAGE_EROFS_ENCODE_H_
#define EMBERVM_IMAGE_EROFS_ENCODE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "image/erofs_format.h"
#include "image/tree.h"

namespace embervm::image::erofs {

struct Dirent {
  std::string_view name;
  const Inode* inode = nullptr;
};

// With "." and "..", in the order of the bytes of the names, which is that of the format.
[[nodiscard]] std::vector<Dirent> ListDirectory(const Inode& directory, const Inode& parent);
// i_size: whole blocks, and of the last one what is used.
[[nodiscard]] std::uint64_t DirectoryBytes(std::span<const Dirent> entries);
[[nodiscard]] std::vector<std::byte> EncodeDirectory(std::span<const Dirent> entries);

// What follows an inode, with its header; empty where there are none.
[[nodiscard]] std::vector<std::byte> EncodeXattrs(const Xattrs& xattrs);

}  // namespace embervm::image::erofs

#endif  // EMBERVM_IMAGE_EROFS_ENCODE_H_
