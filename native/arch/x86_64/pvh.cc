#include "arch/x86_64/pvh.h"

#include <cstdint>
#include <vector>

#include "arch/x86_64/layout.h"
#include "arch/x86_64/memory_map.h"
#include "base/bytes.h"

namespace embervm {

namespace {

constexpr std::uint32_t kMagic = 0x336ec578;
// Version 1 has the memory map.
constexpr std::uint32_t kVersion = 1;

struct StartInfo {
  std::uint32_t magic;
  std::uint32_t version;
  std::uint32_t flags;
  std::uint32_t nr_modules;
  std::uint64_t modlist_paddr;
  std::uint64_t cmdline_paddr;
  std::uint64_t rsdp_paddr;
  std::uint64_t memmap_paddr;
  std::uint32_t memmap_entries;
  std::uint32_t reserved;
};
static_assert(sizeof(StartInfo) == 56);

struct ModlistEntry {
  std::uint64_t paddr;
  std::uint64_t size;
  std::uint64_t cmdline_paddr;
  std::uint64_t reserved;
};
static_assert(sizeof(ModlistEntry) == 32);

struct MemmapEntry {
  std::uint64_t addr;
  std::uint64_t size;
  std::uint32_t type;
  std::uint32_t reserved;
};
static_assert(sizeof(MemmapEntry) == 24);
static_assert(layout::kPvhStartInfo + sizeof(StartInfo) <= layout::kPvhModules);

}  // namespace

Result<> WritePvhStartInfo(const GuestMemory& memory, const std::optional<LoadedInitrd>& initrd) {
  std::vector<MemmapEntry> map;
  for (const MemoryRange& range : MemoryMap(memory)) {
    map.push_back({.addr = range.start,
                   .size = range.size,
                   .type = static_cast<std::uint32_t>(range.type),
                   .reserved = 0});
  }
  EMBERVM_TRY(memory.Write(layout::kPvhMemoryMap, std::as_bytes(std::span(map))));

  StartInfo info{};
  info.magic = kMagic;
  info.version = kVersion;
  info.cmdline_paddr = layout::kCommandLine;
  info.memmap_paddr = layout::kPvhMemoryMap;
  info.memmap_entries = static_cast<std::uint32_t>(map.size());
  if (initrd) {
    const ModlistEntry module{
        .paddr = initrd->start, .size = initrd->size, .cmdline_paddr = 0, .reserved = 0};
    EMBERVM_TRY(memory.Write(layout::kPvhModules, AsBytes(module)));
    info.nr_modules = 1;
    info.modlist_paddr = layout::kPvhModules;
  }
  return memory.Write(layout::kPvhStartInfo, AsBytes(info));
}

}  // namespace embervm
