// PageMap: which pages of this process's memory are there, and whose they are, from
// /proc/self/pagemap (Documentation/admin-guide/mm/pagemap.rst).
#ifndef EMBERVM_MEMORY_PAGE_MAP_H_
#define EMBERVM_MEMORY_PAGE_MAP_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/unique_fd.h"

namespace embervm {

enum class PageKind : std::uint8_t {
  // Never touched since it was mapped, as far as its content goes.
  kAbsent,
  // Read through the mapping of a file, and still the file's.
  kFile,
  // This mapping's own: written, or swapped out after it was.
  kPrivate,
};

class PageMap {
 public:
  // Without the file (no procfs) every page is kPrivate: right, but slow.
  PageMap();

  // `bytes` begins and ends with a page. Valid until the next call.
  [[nodiscard]] std::span<const PageKind> Read(std::span<const std::byte> bytes);

  // How many of the pages are in memory and mapped here. mincore(2) would count what of a
  // mapped file is in the page cache, whoever has read it. 0 without procfs.
  [[nodiscard]] std::size_t CountPresent(std::span<const std::byte> bytes);

 private:
  // False when there is no procfs.
  bool ReadEntries(std::span<const std::byte> bytes);

  UniqueFd fd_;
  std::vector<std::uint64_t> entries_;
  std::vector<PageKind> kinds_;
};

}  // namespace embervm

#endif  // EMBERVM_MEMORY_PAGE_MAP_H_
