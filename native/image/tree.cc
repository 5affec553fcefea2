#include "image/tree.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <ranges>
#include <utility>

#include "image/failure.h"

namespace embervm::image {

namespace {

constexpr std::string_view kWhiteout = ".wh.";
constexpr std::string_view kOpaque = ".wh..wh..opq";
// Other names of this kind are the bookkeeping of aufs, which everybody skips.
constexpr std::string_view kWhiteoutMeta = ".wh..wh.";

constexpr std::uint32_t kDirectoryMode = 0755;

std::shared_ptr<Inode> MakeDirectory() {
  auto inode = std::make_shared<Inode>();
  inode->type = FileType::kDirectory;
  inode->attributes.mode = kDirectoryMode;
  return inode;
}

// Calls `use` for each part between slashes, in order.
template <class Use>
void ForEachPart(std::string_view path, Use use) {
  while (!path.empty()) {
    const std::size_t slash = std::min(path.find('/'), path.size());
    if (const std::string_view part = path.substr(0, slash); !part.empty() && part != ".") {
      use(part);
    }
    path.remove_prefix(std::min(slash + 1, path.size()));
  }
}

// The attributes of overlayfs say how one layer is laid over another; in an image, which is a
// lower layer in the guest, they would hide or redirect files behind the user's back.
bool IsKept(std::string_view name) {
  constexpr std::array<std::string_view, 3> kNamespaces = {"user.", "trusted.", "security."};
  if (name == "system.posix_acl_access" || name == "system.posix_acl_default") return true;
  if (name.starts_with("trusted.overlay.") || name.starts_with("user.overlay.")) return false;
  return std::ranges::any_of(kNamespaces, [name](std::string_view prefix) {
    return name.size() > prefix.size() && name.starts_with(prefix);
  });
}

}  // namespace

Tree::Tree(const ImageLimits& limits) : limits_(limits), root_(MakeDirectory()) {}

Result<> Tree::BeginLayer() {
  if (++layer_ > limits_.max_layers) {
    return OverLimit("the image has too many layers", limits_.max_layers);
  }
  return {};
}

Result<std::shared_ptr<Inode>> Tree::Apply(TarEntry&& entry) {
  EMBERVM_TRY_ASSIGN(Path path, Clean(entry.path));
  EMBERVM_TRY(CountEntry());
  const auto is_meta = [](std::string_view part) { return part.starts_with(kWhiteoutMeta); };
  if (!path.empty() && path.back() != kOpaque && std::ranges::any_of(path, is_meta)) {
    return nullptr;
  }
  if (path.empty()) {
    if (entry.type != FileType::kDirectory || entry.hard_link) {
      return Invalid("the entry " + Quoted(entry.path) + " would replace the root");
    }
    EMBERVM_TRY(KeepXattrs(entry.attributes.xattrs));
    root_->attributes = std::move(entry.attributes);
    return nullptr;
  }
  const std::string name(path.back());
  path.pop_back();
  if (std::ranges::any_of(path, [](auto part) { return part.starts_with(kWhiteout); })) {
    return Invalid("the entry " + Quoted(entry.path) + " lies in a whiteout");
  }
  if (name.starts_with(kWhiteout)) {
    EMBERVM_TRY(Whiteout(path, name));
    return nullptr;
  }

  EMBERVM_TRY_ASSIGN(Inode* const directory, FindDirectory(path, Missing::kCreate));
  if (entry.hard_link) {
    EMBERVM_TRY_ASSIGN(std::shared_ptr<Inode> target, FindLinked(entry));
    EMBERVM_TRY(Insert(*directory, name, std::move(target)));
    return nullptr;
  }
  const auto existing = directory->children.find(name);
  if (entry.type == FileType::kDirectory && existing != directory->children.end() &&
      existing->second.inode->type == FileType::kDirectory) {
    EMBERVM_TRY(KeepXattrs(entry.attributes.xattrs));
    existing->second.inode->attributes = std::move(entry.attributes);
    existing->second.layer = layer_;
    return nullptr;
  }
  EMBERVM_TRY_ASSIGN(std::shared_ptr<Inode> inode, MakeInode(std::move(entry)));
  EMBERVM_TRY(Insert(*directory, name, inode));
  if (inode->type != FileType::kRegular) return nullptr;
  return inode;
}

Result<Tree::Path> Tree::Clean(std::string_view path) {
  Path parts;
  bool escapes = false;
  ForEachPart(path, [&](std::string_view part) {
    if (part != "..") {
      parts.push_back(part);
    } else if (parts.empty()) {
      escapes = true;
    } else {
      parts.pop_back();
    }
  });
  if (escapes) return Invalid("the entry " + Quoted(path) + " leads out of the image");
  if (path.empty()) return Invalid("an entry has no name");
  return parts;
}

Result<Inode*> Tree::FindDirectory(const Path& path, Missing missing) {
  // As many as Linux follows; and what it may cost in all.
  constexpr int kMaxLinks = 40;
  constexpr int kMaxSteps = 8192;
  std::vector<std::string_view> pending(path.rbegin(), path.rend());
  std::vector<Inode*> at = {root_.get()};
  int links = 0;
  for (int steps = 0; !pending.empty(); ++steps) {
    if (steps > kMaxSteps) return Invalid("the links of a path are too long to follow");
    const std::string_view part = pending.back();
    pending.pop_back();
    if (part == "..") {
      if (at.size() > 1) at.pop_back();
      continue;
    }
    auto found = at.back()->children.find(part);
    if (found == at.back()->children.end()) {
      if (missing == Missing::kNone) return nullptr;
      if (at.size() >= limits_.max_depth) {
        return OverLimit("the directories of the image are too deep", limits_.max_depth);
      }
      EMBERVM_TRY(CountEntry());
      EMBERVM_TRY(Insert(*at.back(), part, MakeDirectory()));
      found = at.back()->children.find(part);
    }
    Inode& inode = *found->second.inode;
    if (inode.type == FileType::kDirectory) {
      at.push_back(&inode);
    } else if (inode.type == FileType::kSymlink) {
      if (++links > kMaxLinks) return Invalid("the links of a path form a circle");
      if (inode.link.starts_with('/')) at.resize(1);
      const auto first = static_cast<std::ptrdiff_t>(pending.size());
      // The inode outlives this walk: only the entry itself is inserted after it.
      ForEachPart(inode.link, [&](std::string_view next) { pending.push_back(next); });
      std::ranges::reverse(pending.begin() + first, pending.end());
    } else {
      if (missing == Missing::kNone) return nullptr;
      return Invalid("a directory is needed where " + Quoted(part) + " is a file");
    }
  }
  return at.back();
}

Result<> Tree::Whiteout(const Path& parent, std::string_view name) {
  const std::string_view hidden = name.substr(kWhiteout.size());
  if (name != kOpaque && (hidden.empty() || hidden == "." || hidden == "..")) {
    return Invalid("the whiteout " + Quoted(name) + " hides nothing");
  }
  EMBERVM_TRY_ASSIGN(Inode* const directory, FindDirectory(parent, Missing::kNone));
  if (directory == nullptr) return {};
  if (name == kOpaque) {
    ClearLower(*directory);
    return {};
  }
  // Only what lower layers made: the order of the entries of a layer means nothing here.
  const auto found = directory->children.find(hidden);
  if (found == directory->children.end()) return {};
  Inode& inode = *found->second.inode;
  if (inode.type == FileType::kDirectory) ClearLower(inode);
  if (found->second.layer != layer_ && inode.children.empty()) directory->children.erase(found);
  return {};
}

void Tree::ClearLower(Inode& directory) {
  // Once is enough: whatever comes after it is of this layer. Without this, many whiteouts of
  // one large directory would take forever.
  if (std::exchange(directory.cleared_layer, layer_) == layer_) return;
  for (auto at = directory.children.begin(); at != directory.children.end();) {
    Inode& inode = *at->second.inode;
    if (inode.type == FileType::kDirectory) ClearLower(inode);
    const bool stays = at->second.layer == layer_ || !inode.children.empty();
    at = stays ? std::next(at) : directory.children.erase(at);
  }
}

Result<std::shared_ptr<Inode>> Tree::FindLinked(const TarEntry& entry) {
  EMBERVM_TRY_ASSIGN(Path path, Clean(entry.link));
  if (!path.empty()) {
    const std::string_view name = path.back();
    path.pop_back();
    EMBERVM_TRY_ASSIGN(const Inode* const directory, FindDirectory(path, Missing::kNone));
    if (directory != nullptr) {
      const auto found = directory->children.find(name);
      if (found != directory->children.end() && found->second.inode->type != FileType::kDirectory) {
        return found->second.inode;
      }
    }
  }
  return Invalid("the entry " + Quoted(entry.path) + " is another name of " + Quoted(entry.link) +
                 ", which is no file of the image");
}

Result<std::shared_ptr<Inode>> Tree::MakeInode(TarEntry&& entry) {
  EMBERVM_TRY(KeepXattrs(entry.attributes.xattrs));
  if (entry.type == FileType::kSymlink && entry.link.empty()) {
    return Invalid("the symbolic link " + Quoted(entry.path) + " is empty");
  }
  metadata_bytes_ += entry.link.size();
  auto inode = std::make_shared<Inode>();
  inode->type = entry.type;
  inode->attributes = std::move(entry.attributes);
  inode->link = std::move(entry.link);
  inode->size = entry.size;
  inode->device_major = entry.device_major;
  inode->device_minor = entry.device_minor;
  return inode;
}

Result<> Tree::Insert(Inode& directory, std::string_view name, std::shared_ptr<Inode> inode) {
  if (name.size() > kMaxNameBytes) return OverLimit("a file name is too long", kMaxNameBytes);
  metadata_bytes_ += name.size();
  directory.children.insert_or_assign(std::string(name),
                                      DirectoryEntry{.inode = std::move(inode), .layer = layer_});
  return {};
}

Result<> Tree::CountEntry() {
  if (++entries_ > limits_.max_entries) {
    return OverLimit("the image has too many entries", limits_.max_entries);
  }
  if (metadata_bytes_ > limits_.max_metadata_bytes) {
    return OverLimit("names, links and attributes take too much memory",
                     limits_.max_metadata_bytes);
  }
  return {};
}

Result<> Tree::KeepXattrs(Xattrs& xattrs) {
  std::erase_if(xattrs, [](const auto& xattr) { return !IsKept(xattr.first); });
  for (const auto& [name, value] : xattrs) {
    // "user." and its like are a number in the image; what is left has one byte for its length,
    // and the value two.
    constexpr std::size_t kMaxValue = 0xffff;
    if (name.size() > kMaxNameBytes || value.size() > kMaxValue) {
      return OverLimit("an extended attribute is too long", kMaxValue);
    }
    metadata_bytes_ += name.size() + value.size();
  }
  return {};
}

}  // namespace embervm::image
