#include "devices/mem/block_map.h"

#include <algorithm>

#include "base/checked.h"

namespace embervm::devices::mem {

bool IsBlockList(std::span<const GuestMemory::Extent> plugged, std::uint64_t region_bytes,
                 std::uint64_t block_bytes) {
  std::uint64_t end = 0;
  for (const GuestMemory::Extent& extent : plugged) {
    if (extent.length == 0 || extent.offset % block_bytes != 0 ||
        extent.length % block_bytes != 0 || extent.offset < end ||
        !RangeFits(extent.offset, extent.length, region_bytes)) {
      return false;
    }
    end = extent.offset + extent.length;
  }
  return true;
}

BlockMap::BlockMap(std::uint64_t region_bytes, std::uint64_t block_bytes,
                   std::span<const GuestMemory::Extent> plugged)
    : block_bytes_(block_bytes), plugged_(region_bytes / block_bytes, false) {
  for (const GuestMemory::Extent& extent : plugged) {
    Set(extent.offset / block_bytes_, extent.length / block_bytes_, true);
  }
}

BlockState BlockMap::StateOf(std::uint64_t first, std::uint64_t count) const {
  const auto begin = plugged_.begin() + static_cast<std::ptrdiff_t>(first);
  const auto end = begin + static_cast<std::ptrdiff_t>(count);
  if (std::find(begin, end, !*begin) != end) return kStateMixed;
  return *begin ? kStatePlugged : kStateUnplugged;
}

void BlockMap::Set(std::uint64_t first, std::uint64_t count, bool plugged) {
  for (std::uint64_t block = first; block < first + count; ++block) {
    if (plugged_[block] == plugged) continue;
    plugged_[block] = plugged;
    if (plugged) {
      ++plugged_blocks_;
    } else {
      --plugged_blocks_;
    }
  }
}

std::vector<GuestMemory::Extent> BlockMap::Extents() const {
  std::vector<GuestMemory::Extent> extents;
  for (std::uint64_t block = 0; block < plugged_.size(); ++block) {
    if (!plugged_[block]) continue;
    const std::uint64_t offset = block * block_bytes_;
    if (!extents.empty() && extents.back().offset + extents.back().length == offset) {
      extents.back().length += block_bytes_;
    } else {
      extents.push_back({.offset = offset, .length = block_bytes_});
    }
  }
  return extents;
}

}  // namespace embervm::devices::mem
