#include "arch/x86_64/memory_map.h"

#include <span>

#include "arch/x86_64/layout.h"

namespace embervm {

std::vector<MemoryRange> MemoryMap(const GuestMemory& memory) {
  std::vector<MemoryRange> ranges;
  ranges.push_back({.start = 0, .size = layout::kMpTable, .type = MemoryType::kRam});
  ranges.push_back({.start = layout::kMpTable,
                    .size = layout::kHighMemory - layout::kMpTable,
                    .type = MemoryType::kReserved});
  const std::uint64_t low_ram = memory.regions().front().size;
  if (low_ram > layout::kHighMemory) {
    ranges.push_back({.start = layout::kHighMemory,
                      .size = low_ram - layout::kHighMemory,
                      .type = MemoryType::kRam});
  }
  for (const GuestMemory::Region& region : memory.boot_regions().subspan(1)) {
    ranges.push_back({.start = region.base, .size = region.size, .type = MemoryType::kRam});
  }
  return ranges;
}

}  // namespace embervm
