// Giving guest memory back to the host. What the guest finds there later is zeros, or what a
// snapshot had there: it has given up what it had written.
#ifndef EMBERVM_MEMORY_RECLAIM_H_
#define EMBERVM_MEMORY_RECLAIM_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "memory/guest_memory.h"

namespace embervm {

// The whole pages in `bytes`, which is guest memory; returns how many bytes that are.
std::uint64_t ReclaimRange(std::span<std::byte> bytes);

// Pages by their numbers, in any order, with as few calls as there are runs of them; those that
// are not RAM are passed over. Returns how many different pages were RAM.
std::uint64_t ReclaimPages(const GuestMemory& memory, std::vector<std::uint32_t> pages);

}  // namespace embervm

#endif  // EMBERVM_MEMORY_RECLAIM_H_
