// Writing guest RAM to a file: raw, as long as RAM, with holes where it is zero.
#ifndef EMBERVM_MEMORY_MEMORY_FILE_H_
#define EMBERVM_MEMORY_MEMORY_FILE_H_

#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "memory/guest_memory.h"

namespace embervm {

struct MemoryFileReport {
  // What was written; the rest are holes.
  std::uint64_t data_bytes = 0;
  // What the file stands for; empty: all of RAM.
  std::vector<GuestMemory::Extent> extents;
};

// `fd` is an empty file, which becomes as long as `memory`. Only `parts` of it are looked at, in
// their order: whole pages, apart from each other; the rest are holes. Nobody may write to `memory`
// meanwhile. Gives up with ERR_MACHINE_CLOSED when `cancelled` becomes true.
Result<MemoryFileReport> WriteWholeMemory(const GuestMemory& memory,
                                          std::span<const GuestMemory::Extent> parts, int fd,
                                          const std::atomic<bool>& cancelled);
// Only the pages that differ from the files that `memory` was made from, of which
// there must be some (GuestMemory::FromFiles).
Result<MemoryFileReport> WriteChangedMemory(const GuestMemory& memory,
                                            std::span<const GuestMemory::Extent> parts, int fd,
                                            const std::atomic<bool>& cancelled);

}  // namespace embervm

#endif  // EMBERVM_MEMORY_MEMORY_FILE_H_
