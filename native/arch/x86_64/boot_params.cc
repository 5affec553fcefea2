#include "arch/x86_64/boot_params.h"

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "arch/x86_64/layout.h"
#include "arch/x86_64/memory_map.h"
#include "arch/x86_64/random_seed.h"
#include "base/bytes.h"

namespace embervm {

namespace {

// Offsets in struct boot_params, zero-page.rst.
constexpr std::size_t kExtRamdiskImage = 0x0c0;
constexpr std::size_t kExtRamdiskSize = 0x0c4;
constexpr std::size_t kExtCommandLine = 0x0c8;
constexpr std::size_t kE820Count = 0x1e8;
constexpr std::size_t kBootFlag = 0x1fe;
constexpr std::size_t kHeaderMagic = 0x202;
constexpr std::size_t kTypeOfLoader = 0x210;
constexpr std::size_t kRamdiskImage = 0x218;
constexpr std::size_t kRamdiskSize = 0x21c;
constexpr std::size_t kCommandLinePointer = 0x228;
constexpr std::size_t kKernelAlignment = 0x230;
constexpr std::size_t kCommandLineSize = 0x238;
constexpr std::size_t kSetupData = 0x250;
constexpr std::size_t kE820Table = 0x2d0;
constexpr std::size_t kE820EntrySize = 20;
constexpr std::size_t kE820Capacity = 128;

constexpr std::uint16_t kBootFlagValue = 0xaa55;
constexpr std::uint32_t kHdrS = 0x53726448;
// "Undefined": no number is assigned to this loader.
constexpr std::uint8_t kLoaderUndefined = 0xff;
constexpr std::uint32_t kDefaultAlignment = 0x0100'0000;
constexpr unsigned kHalfBits = 32;

std::uint32_t Low(std::uint64_t value) { return static_cast<std::uint32_t>(value); }
std::uint32_t High(std::uint64_t value) { return static_cast<std::uint32_t>(value >> kHalfBits); }

Result<> WriteE820(std::span<std::byte> page, const GuestMemory& memory) {
  const std::vector<MemoryRange> ranges = MemoryMap(memory);
  if (ranges.size() > kE820Capacity) {
    return std::unexpected(Error("ERR_INTERNAL", "the memory map does not fit boot_params"));
  }
  std::size_t offset = kE820Table;
  for (const MemoryRange& range : ranges) {
    StoreLe(page, offset, range.start);
    StoreLe(page, offset + sizeof(range.start), range.size);
    StoreLe(page, offset + sizeof(range.start) + sizeof(range.size), range.type);
    offset += kE820EntrySize;
  }
  StoreLe(page, kE820Count, static_cast<std::uint8_t>(ranges.size()));
  return {};
}

}  // namespace

Result<> WriteCommandLine(const GuestMemory& memory, std::string_view command_line) {
  if (command_line.size() >= layout::kCommandLineSize) {
    return std::unexpected(
        Error("ERR_COMMAND_LINE_TOO_LONG",
              "the kernel command line has " + std::to_string(command_line.size()) +
                  " bytes, and the kernel takes " + std::to_string(layout::kCommandLineSize - 1) +
                  "; the part that the devices need is included")
            .With("length", static_cast<std::int64_t>(command_line.size()))
            .With("limit", static_cast<std::int64_t>(layout::kCommandLineSize - 1)));
  }
  if (command_line.find('\0') != std::string_view::npos) {
    return std::unexpected(
        Error("ERR_INVALID_CONFIG", "the kernel command line has a NUL byte in it"));
  }
  std::array<std::byte, layout::kCommandLineSize> bytes{};
  std::ranges::copy(std::as_bytes(std::span(command_line)), bytes.begin());
  return memory.Write(layout::kCommandLine, bytes);
}

Result<> WriteBootParams(const GuestMemory& memory, const std::optional<SetupHeader>& header,
                         const std::optional<LoadedInitrd>& initrd) {
  std::array<std::byte, layout::kPageSize> bytes{};
  const std::span page(bytes);
  if (header) {
    std::ranges::copy(std::span(header->bytes).first(header->size),
                      page.subspan(kSetupHeaderOffset).begin());
  } else {
    StoreLe(page, kHeaderMagic, kHdrS);
    StoreLe(page, kBootFlag, kBootFlagValue);
    StoreLe(page, kKernelAlignment, kDefaultAlignment);
  }
  StoreLe(page, kTypeOfLoader, kLoaderUndefined);
  StoreLe(page, kCommandLinePointer, Low(layout::kCommandLine));
  StoreLe(page, kExtCommandLine, High(layout::kCommandLine));
  StoreLe(page, kCommandLineSize, static_cast<std::uint32_t>(layout::kCommandLineSize - 1));
  if (initrd) {
    StoreLe(page, kRamdiskImage, Low(initrd->start));
    StoreLe(page, kExtRamdiskImage, High(initrd->start));
    StoreLe(page, kRamdiskSize, Low(initrd->size));
    StoreLe(page, kExtRamdiskSize, High(initrd->size));
  }
  EMBERVM_TRY(WriteRandomSeed(memory));
  StoreLe(page, kSetupData, layout::kRandomSeed);
  EMBERVM_TRY(WriteE820(page, memory));
  return memory.Write(layout::kBootParams, bytes);
}

}  // namespace embervm
