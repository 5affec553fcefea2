// The guest's physical memory map, for e820 and PVH alike.
#ifndef EMBERVM_ARCH_X86_64_MEMORY_MAP_H_
#define EMBERVM_ARCH_X86_64_MEMORY_MAP_H_

#include <cstdint>
#include <vector>

#include "memory/guest_memory.h"

namespace embervm {

// ACPI 6.5 §15.1; PVH uses the same numbers.
enum class MemoryType : std::uint32_t { kRam = 1, kReserved = 2 };

struct MemoryRange {
  GuestAddr start;
  std::uint64_t size;
  MemoryType type;
};

// Low RAM, the reserved area from the MP table to 1 MiB, RAM above that, RAM
// above 4 GiB.
std::vector<MemoryRange> MemoryMap(const GuestMemory& memory);

}  // namespace embervm

#endif  // EMBERVM_ARCH_X86_64_MEMORY_MAP_H_
