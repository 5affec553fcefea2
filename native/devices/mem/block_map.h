// BlockMap: which blocks of a virtio-mem region the guest has.
#ifndef EMBERVM_DEVICES_MEM_BLOCK_MAP_H_
#define EMBERVM_DEVICES_MEM_BLOCK_MAP_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "devices/mem/protocol.h"
#include "memory/guest_memory.h"

namespace embervm::devices::mem {

// Whether `plugged` can be the blocks of a region: whole ones, in it, in their order, apart.
[[nodiscard]] bool IsBlockList(std::span<const GuestMemory::Extent> plugged,
                               std::uint64_t region_bytes, std::uint64_t block_bytes);

class BlockMap {
 public:
  // `plugged` has passed IsBlockList().
  BlockMap(std::uint64_t region_bytes, std::uint64_t block_bytes,
           std::span<const GuestMemory::Extent> plugged);

  // Both for ranges of one block or more in the region.
  [[nodiscard]] BlockState StateOf(std::uint64_t first, std::uint64_t count) const;
  void Set(std::uint64_t first, std::uint64_t count, bool plugged);

  [[nodiscard]] std::uint64_t blocks() const { return plugged_.size(); }
  [[nodiscard]] std::uint64_t block_bytes() const { return block_bytes_; }
  [[nodiscard]] std::uint64_t plugged_bytes() const { return plugged_blocks_ * block_bytes_; }
  // What is plugged, by its place in the region: as few extents as there are runs.
  [[nodiscard]] std::vector<GuestMemory::Extent> Extents() const;

 private:
  std::uint64_t block_bytes_;
  std::vector<bool> plugged_;
  std::uint64_t plugged_blocks_ = 0;
};

}  // namespace embervm::devices::mem

#endif  // EMBERVM_DEVICES_MEM_BLOCK_MAP_H_
