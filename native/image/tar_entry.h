// TarEntry: one member of an archive, after all extensions were applied to it.
#ifndef EMBERVM_IMAGE_TAR_ENTRY_H_
#define EMBERVM_IMAGE_TAR_ENTRY_H_

#include <cstdint>
#include <map>
#include <string>

namespace embervm::image {

enum class FileType : std::uint8_t {
  kRegular,
  kDirectory,
  kSymlink,
  kCharDevice,
  kBlockDevice,
  kFifo,
};

// By full name ("user.mime_type"), in the order of the bytes.
using Xattrs = std::map<std::string, std::string>;

// What one inode has, whatever its type.
struct Attributes {
  std::uint32_t mode = 0;  // Permissions with setuid, setgid and sticky.
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::int64_t mtime = 0;
  std::uint32_t mtime_nsec = 0;
  Xattrs xattrs;
};

struct TarEntry {
  // As in the archive: not cleaned. Neither it nor `link` has a NUL in it.
  std::string path;
  FileType type = FileType::kRegular;
  // Another name of the file `link`: nothing else of the entry counts.
  bool hard_link = false;
  std::string link;
  Attributes attributes;
  // With its holes; 0 for all but regular files.
  std::uint64_t size = 0;
  std::uint32_t device_major = 0;
  std::uint32_t device_minor = 0;
};

}  // namespace embervm::image

#endif  // EMBERVM_IMAGE_TAR_ENTRY_H_
