#include "image/erofs_encode.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/bytes.h"

namespace embervm::image::erofs {

namespace {

DirentType TypeOf(FileType type) {
  switch (type) {
    case FileType::kRegular:
      return DirentType::kRegular;
    case FileType::kDirectory:
      return DirentType::kDirectory;
    case FileType::kSymlink:
      return DirentType::kSymlink;
    case FileType::kCharDevice:
      return DirentType::kCharDevice;
    case FileType::kBlockDevice:
      return DirentType::kBlockDevice;
    case FileType::kFifo:
      break;
  }
  return DirentType::kFifo;
}

struct Chunk {
  std::size_t entries = 0;
  std::size_t bytes = 0;
};

// As many entries as one block takes.
Chunk TakeBlock(std::span<const Dirent> entries) {
  Chunk chunk;
  for (const Dirent& entry : entries) {
    const std::size_t bytes = kDirentBytes + entry.name.size();
    if (chunk.bytes + bytes > kBlockBytes) break;
    chunk.bytes += bytes;
    ++chunk.entries;
  }
  return chunk;
}

struct XattrPrefix {
  std::string_view text;
  XattrIndex index;
};
constexpr std::array<XattrPrefix, 5> kPrefixes = {{
    {"user.", XattrIndex::kUser},
    {"system.posix_acl_access", XattrIndex::kAclAccess},
    {"system.posix_acl_default", XattrIndex::kAclDefault},
    {"trusted.", XattrIndex::kTrusted},
    {"security.", XattrIndex::kSecurity},
}};

void Append(std::vector<std::byte>& to, std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  to.insert(to.end(), bytes.begin(), bytes.end());
}

}  // namespace

std::vector<Dirent> ListDirectory(const Inode& directory, const Inode& parent) {
  std::vector<Dirent> entries = {{".", &directory}, {"..", &parent}};
  entries.reserve(directory.children.size() + 2);
  for (const auto& [name, entry] : directory.children) entries.push_back({name, entry.inode.get()});
  // "!" comes before ".".
  std::ranges::sort(entries, {}, &Dirent::name);
  return entries;
}

std::uint64_t DirectoryBytes(std::span<const Dirent> entries) {
  std::uint64_t bytes = 0;
  while (!entries.empty()) {
    const Chunk chunk = TakeBlock(entries);
    entries = entries.subspan(chunk.entries);
    bytes += entries.empty() ? chunk.bytes : kBlockBytes;
  }
  return bytes;
}

std::vector<std::byte> EncodeDirectory(std::span<const Dirent> entries) {
  std::vector<std::byte> bytes(DirectoryBytes(entries));
  for (std::size_t block = 0; !entries.empty(); block += kBlockBytes) {
    const Chunk chunk = TakeBlock(entries);
    std::size_t name_at = chunk.entries * kDirentBytes;
    std::size_t at = block;
    for (const Dirent& entry : entries.first(chunk.entries)) {
      StoreLe(bytes, at, entry.inode->nid);
      StoreLe(bytes, at + 8, static_cast<std::uint16_t>(name_at));
      StoreLe(bytes, at + 10, std::to_underlying(TypeOf(entry.inode->type)));
      std::ranges::copy(std::as_bytes(std::span(entry.name)),
                        std::span(bytes).subspan(block + name_at).begin());
      name_at += entry.name.size();
      at += kDirentBytes;
    }
    entries = entries.subspan(chunk.entries);
  }
  return bytes;
}

std::vector<std::byte> EncodeXattrs(const Xattrs& xattrs) {
  if (xattrs.empty()) return {};
  std::vector<std::byte> bytes(kXattrHeaderBytes);
  for (const auto& [name, value] : xattrs) {
    const auto* const prefix = std::ranges::find_if(
        kPrefixes, [&](const XattrPrefix& known) { return name.starts_with(known.text); });
    // The tree keeps no others.
    if (prefix == kPrefixes.end()) continue;
    const std::string_view rest = std::string_view(name).substr(prefix->text.size());
    const std::size_t at = bytes.size();
    bytes.resize(at + kXattrAlign);
    StoreLe(bytes, at, static_cast<std::uint8_t>(rest.size()));
    StoreLe(bytes, at + 1, std::to_underlying(prefix->index));
    StoreLe(bytes, at + 2, static_cast<std::uint16_t>(value.size()));
    Append(bytes, rest);
    Append(bytes, value);
    bytes.resize((bytes.size() + kXattrAlign - 1) / kXattrAlign * kXattrAlign);
  }
  return bytes;
}

}  // namespace embervm::image::erofs
