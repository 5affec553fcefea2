// Sparse members of tar archives: where the stored bytes belong in the file. GNU tar has four
// ways to say it: binary maps in headers (old), and pax 0.0, 0.1 and 1.0.
#ifndef EMBERVM_IMAGE_TAR_SPARSE_H_
#define EMBERVM_IMAGE_TAR_SPARSE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace embervm::image {

struct SparseExtent {
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
};

using SparseMap = std::vector<SparseExtent>;

// What one member may have; a real one has few.
inline constexpr std::size_t kMaxSparseExtents = 65536;

// In order, without overlap, inside of the file, and as long in sum as what is stored.
[[nodiscard]] Result<> CheckSparseMap(const SparseMap& map, std::uint64_t file_bytes,
                                      std::uint64_t stored_bytes);

// Entries of 2 × 12 bytes, as in the old GNU header and its extension blocks. The first empty
// one ends the map.
[[nodiscard]] Result<> AppendGnuSparse(std::span<const std::byte> entries, SparseMap& map);

// GNU.sparse.map of pax 0.1: "offset,length,offset,length".
[[nodiscard]] Result<SparseMap> ParseSparseList(const std::string& text);

// The map of pax 1.0, which precedes the data: lines of decimals, the count first, then pairs.
// Takes bytes until it is complete.
class SparseMapParser {
 public:
  // Returns how many bytes it took: fewer than there are once it is done().
  [[nodiscard]] Result<std::size_t> Push(std::span<const std::byte> bytes);
  [[nodiscard]] bool done() const { return done_; }
  [[nodiscard]] SparseMap Take() { return std::move(map_); }

 private:
  [[nodiscard]] Result<> Line();

  std::string line_;
  SparseMap map_;
  std::uint64_t wanted_ = 0;
  std::uint64_t numbers_ = 0;
  bool done_ = false;
};

}  // namespace embervm::image

#endif  // EMBERVM_IMAGE_TAR_SPARSE_H_
