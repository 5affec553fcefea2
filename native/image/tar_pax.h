// pax extended headers (POSIX.1-2017, pax, "pax Extended Header"): what they change of an entry.
#ifndef EMBERVM_IMAGE_TAR_PAX_H_
#define EMBERVM_IMAGE_TAR_PAX_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "image/tar_entry.h"
#include "image/tar_number.h"
#include "image/tar_sparse.h"

namespace embervm::image {

// Only what is named is set.
struct PaxRecords {
  std::optional<std::string> path;
  std::optional<std::string> link;
  std::optional<std::uint64_t> size;
  std::optional<std::uint64_t> uid;
  std::optional<std::uint64_t> gid;
  std::optional<TarTime> mtime;
  Xattrs xattrs;
  std::uint64_t xattr_bytes = 0;

  // GNU.sparse.*: 1.0 stores the map before the data, 0.x has it here.
  std::optional<std::uint64_t> sparse_major;
  std::optional<std::uint64_t> sparse_minor;
  std::optional<std::string> sparse_name;
  std::optional<std::uint64_t> sparse_size;
  std::optional<SparseMap> sparse_map;

  [[nodiscard]] bool is_sparse() const { return sparse_size.has_value(); }
};

// Adds the records of one header of type 'x' to `records`; a later one wins.
[[nodiscard]] Result<> ParsePax(std::string_view body, PaxRecords& records);

// Records of a header of type 'g' hold for all entries that follow. Only owners, times and
// extended attributes can: a path or a size of many files is an attack or a mistake.
[[nodiscard]] Result<> ParseGlobalPax(std::string_view body, PaxRecords& records);

}  // namespace embervm::image

#endif  // EMBERVM_IMAGE_TAR_PAX_H_
