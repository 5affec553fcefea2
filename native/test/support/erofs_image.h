// ErofsImage: reads an image back by the rules of the format, and refuses whatever breaks one of
// them. Written against fs/erofs of Linux; it shares no code with the writer.
#ifndef EMBERVM_TEST_SUPPORT_EROFS_IMAGE_H_
#define EMBERVM_TEST_SUPPORT_EROFS_IMAGE_H_

#include <sys/stat.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace embervm::test {

struct ErofsFile {
  std::uint64_t nid = 0;
  std::uint32_t mode = 0;
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::uint32_t links = 0;
  std::uint32_t device = 0;
  std::uint64_t size = 0;
  std::int64_t mtime = 0;
  std::uint32_t mtime_nsec = 0;
  std::string content;  // Of a file or a symbolic link.
  std::map<std::string, std::string> xattrs;
  std::vector<std::string> names;  // Of a directory.
};

class ErofsImage {
 public:
  // `content_limit`: longer files are checked, but their content is not kept.
  explicit ErofsImage(std::span<const std::byte> bytes, std::uint64_t content_limit = 1U << 20U)
      : bytes_(bytes), content_limit_(content_limit) {
    ReadSuper();
    if (!error_.empty()) return;
    Walk("", root_nid_, root_nid_, 0);
    if (!error_.empty()) return;
    for (const auto& [nid, links] : links_) {
      Check(inodes_[nid].links == links, "a wrong count of links");
    }
    Check(inodes_.size() == inode_count_, "a wrong count of inodes");
    std::ranges::sort(used_);
    for (std::size_t i = 1; i < used_.size(); ++i) {
      Check(used_[i - 1].second <= used_[i].first, "two things in one place");
    }
  }

  // Empty: a good image.
  [[nodiscard]] const std::string& error() const { return error_; }
  // "" is the root, "a/b" the others.
  [[nodiscard]] const std::map<std::string, ErofsFile>& files() const { return files_; }
  [[nodiscard]] const ErofsFile* find(const std::string& path) const {
    const auto found = files_.find(path);
    return found == files_.end() ? nullptr : &found->second;
  }

 private:
  static constexpr std::uint64_t kBlock = 4096;
  static constexpr std::uint64_t kSuper = 1024;

  void Check(bool holds, const char* what) {
    if (!holds && error_.empty()) error_ = what;
  }

  template <class T>
  T Load(std::uint64_t at) {
    T value{};
    if (at > bytes_.size() || bytes_.size() - at < sizeof(T)) {
      Check(false, "a place outside of the image");
      return value;
    }
    std::memcpy(&value, bytes_.subspan(at, sizeof(T)).data(), sizeof(T));
    return value;
  }

  std::string Text(std::uint64_t at, std::uint64_t length) {
    if (at > bytes_.size() || bytes_.size() - at < length) {
      Check(false, "a place outside of the image");
      return {};
    }
    std::string text(length, '\0');
    if (length > 0) std::memcpy(text.data(), bytes_.subspan(at, length).data(), length);
    return text;
  }

  void ReadSuper() {
    Check(bytes_.size() % kBlock == 0, "a size that is not of whole blocks");
    Check(Load<std::uint32_t>(kSuper) == 0xe0f5e1e2, "no magic number");
    Check(Load<std::uint32_t>(kSuper + 8) == 2, "a strange compatible feature");
    Check(Load<std::uint8_t>(kSuper + 12) == 12, "a strange block size");
    root_nid_ = Load<std::uint16_t>(kSuper + 14);
    inode_count_ = Load<std::uint64_t>(kSuper + 16);
    build_time_ = Load<std::int64_t>(kSuper + 24);
    build_time_nsec_ = Load<std::uint32_t>(kSuper + 32);
    Check(Load<std::uint32_t>(kSuper + 36) * kBlock == bytes_.size(), "a wrong count of blocks");
    meta_ = Load<std::uint32_t>(kSuper + 40) * kBlock;
    Check(Load<std::uint32_t>(kSuper + 80) == 0, "a feature that is not known");
    used_.emplace_back(0, kBlock);
  }

  void Walk(const std::string& path, std::uint64_t nid, std::uint64_t parent, int depth) {
    constexpr int kMaxDepth = 256;
    Check(depth < kMaxDepth, "a tree without end");
    if (!error_.empty()) return;
    const bool known = inodes_.contains(nid);
    if (!known) inodes_[nid] = ReadInode(nid);
    if (!error_.empty()) return;
    ErofsFile file = inodes_[nid];
    files_[path] = file;
    if ((file.mode & S_IFMT) != S_IFDIR) {
      ++links_[nid];
      return;
    }
    Check(!known, "a directory with two parents");
    links_[nid] = 2;
    std::vector<std::string> names;
    for (const auto& [name, child] : ReadDirectory(nid, parent)) {
      if (!error_.empty()) return;
      names.push_back(name);
      const std::string below = path.empty() ? name : path + "/" + name;
      Walk(below, child.first, nid, depth + 1);
      if (!error_.empty()) return;
      const std::uint32_t mode = files_[below].mode & S_IFMT;
      if (mode == S_IFDIR) ++links_[nid];
      // Of a type and its number in a directory entry.
      static const std::map<std::uint32_t, std::uint8_t> kTypes = {
          {S_IFREG, 1}, {S_IFDIR, 2}, {S_IFCHR, 3}, {S_IFBLK, 4}, {S_IFIFO, 5}, {S_IFLNK, 7}};
      const auto type = kTypes.find(mode);
      Check(type != kTypes.end() && type->second == child.second, "a wrong type in a directory");
    }
    files_[path].names = std::move(names);
  }

  ErofsFile ReadInode(std::uint64_t nid) {
    const std::uint64_t at = meta_ + nid * 32;
    const auto format = Load<std::uint16_t>(at);
    const bool extended = (format & 1U) != 0;
    const unsigned layout = format >> 1U;
    Check(layout == 0 || layout == 2, "an unknown layout");
    ErofsFile file;
    file.nid = nid;
    file.mode = Load<std::uint16_t>(at + 4);
    const auto xattr_count = Load<std::uint16_t>(at + 2);
    const auto place = Load<std::uint32_t>(at + 16);
    if (extended) {
      file.size = Load<std::uint64_t>(at + 8);
      file.uid = Load<std::uint32_t>(at + 24);
      file.gid = Load<std::uint32_t>(at + 28);
      file.mtime = Load<std::int64_t>(at + 32);
      file.mtime_nsec = Load<std::uint32_t>(at + 40);
      file.links = Load<std::uint32_t>(at + 44);
    } else {
      file.links = Load<std::uint16_t>(at + 6);
      file.size = Load<std::uint32_t>(at + 8);
      file.uid = Load<std::uint16_t>(at + 24);
      file.gid = Load<std::uint16_t>(at + 26);
      file.mtime = build_time_;
      file.mtime_nsec = build_time_nsec_;
    }
    Check(file.mtime_nsec < 1'000'000'000, "a second of too many nanoseconds");
    Check(nid > 0, "the number 0");
    std::uint64_t end = at + (extended ? 64 : 32);
    const std::uint64_t xattrs = xattr_count == 0 ? 0 : 12 + (xattr_count - 1) * 4ULL;
    Check(xattr_count != 1, "an empty list of attributes");
    if (xattrs > 0) file.xattrs = ReadXattrs(end, xattrs);
    end += xattrs;
    const std::uint32_t type = file.mode & S_IFMT;
    if (type == S_IFCHR || type == S_IFBLK) file.device = place;
    if (type != S_IFREG && type != S_IFDIR && type != S_IFLNK) {
      Check(file.size == 0 && layout == 0, "a device with content");
    }
    const std::uint64_t tail = layout == 2 ? file.size % kBlock : 0;
    Check(layout == 0 || tail > 0, "an empty end behind an inode");
    Check(tail == 0 || end % kBlock + tail <= kBlock, "an end in two blocks");
    // Compared before it is rounded: a size may be anything.
    Check(file.size <= bytes_.size(), "a file larger than the image");
    if (!error_.empty()) return file;
    const std::uint64_t blocks = (file.size - tail + kBlock - 1) / kBlock;
    const std::uint64_t first = std::uint64_t{place} * kBlock;
    if (blocks > 0) {
      Check(RangeIn(first, blocks * kBlock), "content outside of the image");
      used_.emplace_back(first, first + blocks * kBlock);
    }
    used_.emplace_back(at, end + tail);
    places_[nid] = {.first = blocks > 0 ? first : 0, .tail = end, .tail_bytes = tail};
    if (type != S_IFDIR && file.size <= content_limit_) file.content = Content(nid, file.size);
    Check(type != S_IFLNK || (file.size > 0 && file.size < kBlock), "a link of a strange length");
    return file;
  }

  [[nodiscard]] bool RangeIn(std::uint64_t at, std::uint64_t length) const {
    return at <= bytes_.size() && length <= bytes_.size() - at;
  }

  std::string Content(std::uint64_t nid, std::uint64_t size) {
    const Place& place = places_[nid];
    std::string content = Text(place.first, size - place.tail_bytes);
    return content + Text(place.tail, place.tail_bytes);
  }

  std::map<std::string, std::string> ReadXattrs(std::uint64_t at, std::uint64_t length) {
    static const std::map<int, std::string> kPrefixes = {{1, "user."},
                                                         {2, "system.posix_acl_access"},
                                                         {3, "system.posix_acl_default"},
                                                         {4, "trusted."},
                                                         {6, "security."}};
    std::map<std::string, std::string> xattrs;
    Check(Load<std::uint8_t>(at + 4) == 0, "shared attributes");
    const std::uint64_t end = at + length;
    at += 12;
    while (at < end && error_.empty()) {
      const auto name_bytes = Load<std::uint8_t>(at);
      const auto prefix = kPrefixes.find(Load<std::uint8_t>(at + 1));
      const auto value_bytes = Load<std::uint16_t>(at + 2);
      Check(prefix != kPrefixes.end(), "an unknown kind of attribute");
      if (!error_.empty()) break;
      const std::string name = prefix->second + Text(at + 4, name_bytes);
      Check(!xattrs.contains(name), "an attribute twice");
      xattrs[name] = Text(at + 4 + name_bytes, value_bytes);
      at += (4 + name_bytes + value_bytes + 3) / 4 * 4;
    }
    Check(at == end, "attributes beyond their end");
    return xattrs;
  }

  using Children = std::vector<std::pair<std::string, std::pair<std::uint64_t, std::uint8_t>>>;

  Children ReadDirectory(std::uint64_t nid, std::uint64_t parent) {
    const std::string content = Content(nid, inodes_[nid].size);
    Children children;
    std::string last;
    bool self = false;
    bool up = false;
    for (std::size_t block = 0; block < content.size() && error_.empty(); block += kBlock) {
      const std::string_view bytes = std::string_view(content).substr(block, kBlock);
      const auto load = [&]<class T>(std::size_t at, T value) {
        Check(at + sizeof(T) <= bytes.size(), "an entry outside of its block");
        if (at + sizeof(T) <= bytes.size()) std::memcpy(&value, bytes.data() + at, sizeof(T));
        return value;
      };
      const std::size_t names = load(8, std::uint16_t{});
      Check(names >= 12 && names % 12 == 0 && names < bytes.size(), "a block without entries");
      if (!error_.empty()) break;
      for (std::size_t at = 0; at < names && error_.empty(); at += 12) {
        const std::size_t name_at = load(at + 8, std::uint16_t{});
        std::size_t name_end = at + 12 < names ? load(at + 20, std::uint16_t{}) : bytes.size();
        Check(name_at >= names && name_at < name_end && name_end <= bytes.size(), "a wrong name");
        if (!error_.empty()) break;
        std::string_view view = bytes.substr(name_at, name_end - name_at);
        if (at + 12 >= names) view = view.substr(0, view.find('\0'));
        const std::string name(view);
        Check(!name.empty() && name.size() <= 255, "a name of a strange length");
        Check(name.find('\0') == std::string::npos && name.find('/') == std::string::npos,
              "a name that is none");
        Check(last < name, "names out of order");
        last = name;
        const auto child = load(at, std::uint64_t{});
        if (name == ".") {
          self = child == nid;
        } else if (name == "..") {
          up = child == parent;
        } else {
          children.emplace_back(name, std::pair(child, load(at + 10, std::uint8_t{})));
        }
      }
    }
    Check(self && up, "no way back");
    return children;
  }

  struct Place {
    std::uint64_t first = 0;
    std::uint64_t tail = 0;
    std::uint64_t tail_bytes = 0;
  };

  std::span<const std::byte> bytes_;
  std::uint64_t content_limit_;
  std::string error_;
  std::uint64_t root_nid_ = 0;
  std::uint64_t inode_count_ = 0;
  std::int64_t build_time_ = 0;
  std::uint32_t build_time_nsec_ = 0;
  std::uint64_t meta_ = 0;
  std::map<std::string, ErofsFile> files_;
  std::map<std::uint64_t, ErofsFile> inodes_;
  std::map<std::uint64_t, Place> places_;
  std::map<std::uint64_t, std::uint32_t> links_;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> used_;
};

}  // namespace embervm::test

#endif  // EMBERVM_TEST_SUPPORT_EROFS_IMAGE_H_
