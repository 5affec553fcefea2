#include "devices/fs/node_table.h"

#include <algorithm>
#include <charconv>
#include <string_view>

#include "devices/fs/protocol.h"

namespace embervm::devices::fs {

ProcPath::ProcPath(int fd) {
  constexpr std::string_view kPrefix = "/proc/self/fd/";
  char* const number = std::ranges::copy(kPrefix, text_.begin()).out;
  // Zeroes follow: the longest number leaves room for more than one.
  std::to_chars(number, text_.data() + text_.size() - 1, fd);
}

void NodeTable::SetRoot(UniqueFd fd, const struct stat& status) {
  ids_[{status.st_dev, status.st_ino}] = kRootId;
  nodes_[kRootId] = Node{.fd = std::move(fd),
                         .device = status.st_dev,
                         .inode = status.st_ino,
                         .kind = status.st_mode & S_IFMT,
                         .lookups = 1};
}

void NodeTable::Clear() {
  std::erase_if(nodes_, [](const auto& entry) { return entry.first != kRootId; });
  std::erase_if(ids_, [](const auto& entry) { return entry.second != kRootId; });
}

Node* NodeTable::Find(std::uint64_t id) {
  const auto node = nodes_.find(id);
  return node == nodes_.end() ? nullptr : &node->second;
}

std::uint64_t NodeTable::FindAgain(const struct stat& status) {
  const auto id = ids_.find({status.st_dev, status.st_ino});
  if (id == ids_.end()) return 0;
  ++nodes_.at(id->second).lookups;
  return id->second;
}

std::uint64_t NodeTable::Add(UniqueFd fd, const struct stat& status) {
  const std::uint64_t id = next_id_++;
  ids_[{status.st_dev, status.st_ino}] = id;
  nodes_.emplace(id, Node{.fd = std::move(fd),
                          .device = status.st_dev,
                          .inode = status.st_ino,
                          .kind = status.st_mode & S_IFMT,
                          .lookups = 1});
  return id;
}

bool NodeTable::Forget(std::uint64_t id, std::uint64_t lookups) {
  const auto node = nodes_.find(id);
  if (id == kRootId || node == nodes_.end()) return false;
  // A guest that forgets more than it was told loses the node, and nothing else.
  node->second.lookups -= std::min(lookups, node->second.lookups);
  if (node->second.lookups > 0) return false;
  ids_.erase({node->second.device, node->second.inode});
  nodes_.erase(node);
  return true;
}

}  // namespace embervm::devices::fs
