// NodeTable: the files that the guest knows by a number, each held by an O_PATH descriptor:
// no name is looked up twice, so none can be replaced between a check and its use.
#ifndef EMBERVM_DEVICES_FS_NODE_TABLE_H_
#define EMBERVM_DEVICES_FS_NODE_TABLE_H_

#include <sys/stat.h>
#include <sys/types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <unordered_map>
#include <utility>

#include "base/unique_fd.h"

namespace embervm::devices::fs {

struct Node {
  UniqueFd fd;
  dev_t device = 0;
  ino_t inode = 0;
  // S_IFMT part: what kind a file is never changes.
  mode_t kind = 0;
  // How often the guest was told of it and has not forgotten.
  std::uint64_t lookups = 0;

  [[nodiscard]] bool IsRegular() const { return S_ISREG(kind); }
  [[nodiscard]] bool IsDirectory() const { return S_ISDIR(kind); }
};

// "/proc/self/fd/<n>": the way to what an O_PATH descriptor stands for, for calls that take
// a path only. It leads there even when the name is gone.
class ProcPath {
 public:
  explicit ProcPath(int fd);
  [[nodiscard]] const char* c_str() const { return text_.data(); }

 private:
  static constexpr std::size_t kSize = 32;
  std::array<char, kSize> text_{};
};

class NodeTable {
 public:
  // Node 1, which is never forgotten.
  void SetRoot(UniqueFd fd, const struct stat& status);
  // All but the root.
  void Clear();

  // Null when the guest does not know such a node.
  [[nodiscard]] Node* Find(std::uint64_t id);
  // Another name of a file that is known, with one more lookup; 0 when it is not known.
  // The inode cannot be another file's: the descriptor holds on to it.
  std::uint64_t FindAgain(const struct stat& status);
  std::uint64_t Add(UniqueFd fd, const struct stat& status);
  // True when the node is gone with that.
  bool Forget(std::uint64_t id, std::uint64_t lookups);

  template <class Visit>
  void ForEach(Visit visit) const {
    for (const auto& [id, node] : nodes_) visit(node);
  }

  [[nodiscard]] std::size_t size() const { return nodes_.size(); }

 private:
  using Identity = std::pair<dev_t, ino_t>;

  // Ids are never used again, so an old one is nobody's.
  std::uint64_t next_id_ = 2;
  std::unordered_map<std::uint64_t, Node> nodes_;
  std::map<Identity, std::uint64_t> ids_;
};

}  // namespace embervm::devices::fs

#endif  // EMBERVM_DEVICES_FS_NODE_TABLE_H_
