// Tree: the file system that layers make, one applied to the other by the rules of the OCI image
// specification ("Applying Changesets"): additions, changes, whiteouts and opaque directories.
// It holds names and attributes. Where the content of a file is, its user writes into the inode.
//
// Paths are cleaned as Go's filepath.Clean does it: "/a", "./a" and "b/../a" are "a". One that
// leads out of the root, or has a whiteout in its middle, is refused. Links in the directories of
// a path are followed inside of the tree, as containerd does it, and missing directories made.
#ifndef EMBERVM_IMAGE_TREE_H_
#define EMBERVM_IMAGE_TREE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "image/limits.h"
#include "image/tar_entry.h"

namespace embervm::image {

struct Inode;

struct DirectoryEntry {
  std::shared_ptr<Inode> inode;
  // The layer that last said something about it.
  std::uint64_t layer = 0;
};

struct Inode {
  FileType type = FileType::kRegular;
  Attributes attributes;
  std::uint64_t size = 0;  // Of a regular file.
  std::string link;        // Of a symbolic link.
  std::uint32_t device_major = 0;
  std::uint32_t device_minor = 0;
  std::map<std::string, DirectoryEntry, std::less<>> children;
  // The layer in which everything of lower layers was removed from this directory.
  std::uint64_t cleared_layer = 0;

  // The content of a regular file: whole blocks in the image, and the rest in another file.
  std::uint64_t first_block = 0;
  std::uint64_t blocks = 0;
  std::uint64_t tail_offset = 0;
  std::uint32_t tail_bytes = 0;

  // Given when the image is written; 0 before.
  std::uint32_t number = 0;
  std::uint32_t links = 0;
  std::uint64_t nid = 0;
};

class Tree {
 public:
  explicit Tree(const ImageLimits& limits);

  [[nodiscard]] Result<> BeginLayer();
  // Returns the new inode when its content follows: that of a regular file.
  [[nodiscard]] Result<std::shared_ptr<Inode>> Apply(TarEntry&& entry);

  [[nodiscard]] const std::shared_ptr<Inode>& root() const { return root_; }

 private:
  using Path = std::vector<std::string_view>;
  enum class Missing : std::uint8_t { kCreate, kNone };

  [[nodiscard]] static Result<Path> Clean(std::string_view path);
  // Null where there is none and none is to be made.
  [[nodiscard]] Result<Inode*> FindDirectory(const Path& path, Missing missing);
  [[nodiscard]] Result<> Whiteout(const Path& parent, std::string_view name);
  [[nodiscard]] Result<std::shared_ptr<Inode>> FindLinked(const TarEntry& entry);
  [[nodiscard]] Result<std::shared_ptr<Inode>> MakeInode(TarEntry&& entry);
  [[nodiscard]] Result<> Insert(Inode& directory, std::string_view name,
                                std::shared_ptr<Inode> inode);
  // Also looks at what the entries before it cost: one more than allowed does no harm.
  [[nodiscard]] Result<> CountEntry();
  [[nodiscard]] Result<> KeepXattrs(Xattrs& xattrs);
  void ClearLower(Inode& directory);

  const ImageLimits limits_;
  std::shared_ptr<Inode> root_;
  std::uint64_t layer_ = 0;
  std::uint64_t entries_ = 0;
  std::uint64_t metadata_bytes_ = 0;
};

}  // namespace embervm::image

#endif  // EMBERVM_IMAGE_TREE_H_
