// bzImage: the protected-mode part goes to its preferred address; it
// decompresses itself there (Documentation/arch/x86/boot.rst).
#include <algorithm>
#include <array>
#include <cstring>

#include "arch/x86_64/boot_params.h"
#include "arch/x86_64/layout.h"
#include "arch/x86_64/loader_formats.h"
#include "base/bytes.h"
#include "base/checked.h"

namespace embervm {

namespace {

// Offsets in the file, boot.rst "The Real-Mode Kernel Header".
constexpr std::size_t kSetupSectors = 0x1f1;
constexpr std::size_t kMagic = 0x202;
constexpr std::size_t kVersion = 0x206;
constexpr std::size_t kJumpOffset = 0x201;
constexpr std::size_t kRelocatable = 0x234;
constexpr std::size_t kXloadflags = 0x236;
constexpr std::size_t kPreferredAddress = 0x258;
constexpr std::size_t kInitSize = 0x260;
constexpr std::size_t kHeaderEnd = 0x290;

// 2.12 brought XLF_KERNEL_64.
constexpr std::uint16_t kMinVersion = 0x020c;
constexpr std::uint16_t kXlfKernel64 = 1U << 0U;
constexpr std::uint64_t kSectorSize = 512;
constexpr std::uint64_t kDefaultSetupSectors = 4;
constexpr std::uint64_t kEntry64Offset = 0x200;
constexpr std::string_view kHdrS = "HdrS";

SetupHeader CopySetupHeader(std::span<const std::byte> head) {
  SetupHeader header{};
  // The header ends where the jump at its start goes to.
  const std::size_t end = kMagic + LoadLe<std::uint8_t>(head, kJumpOffset);
  header.size = std::min(end, kHeaderEnd) - kSetupHeaderOffset;
  std::ranges::copy(head.subspan(kSetupHeaderOffset, header.size), header.bytes.begin());
  return header;
}

}  // namespace

bool IsBzImage(std::span<const std::byte> head) {
  return head.size() >= kMagic + kHdrS.size() &&
         std::memcmp(head.subspan(kMagic).data(), kHdrS.data(), kHdrS.size()) == 0;
}

Result<LoadedKernel> LoadBzImage(const GuestMemory& memory, const KernelFile& file) {
  std::array<std::byte, kHeaderEnd> head{};
  EMBERVM_TRY(file.ReadAt(0, head));
  const auto version = LoadLe<std::uint16_t>(head, kVersion);
  if (version < kMinVersion) {
    return std::unexpected(
        file.Invalid("has boot protocol " + Hex(version) + ", older than 0x20c (Linux 3.8)"));
  }
  if ((LoadLe<std::uint16_t>(head, kXloadflags) & kXlfKernel64) == 0) {
    return std::unexpected(file.Invalid("has no 64-bit entry (xloadflags " +
                                        Hex(LoadLe<std::uint16_t>(head, kXloadflags)) + ")"));
  }
  std::uint64_t setup_sectors = LoadLe<std::uint8_t>(head, kSetupSectors);
  if (setup_sectors == 0) setup_sectors = kDefaultSetupSectors;
  const std::uint64_t code_offset = (setup_sectors + 1) * kSectorSize;
  if (code_offset + kEntry64Offset >= file.size()) {
    return std::unexpected(file.Invalid("is truncated: its code begins at " + Hex(code_offset) +
                                        " of a file of " + Hex(file.size()) + " bytes"));
  }
  const std::uint64_t code_size = file.size() - code_offset;
  const GuestAddr start = LoadLe<std::uint8_t>(head, kRelocatable) != 0
                              ? LoadLe<std::uint64_t>(head, kPreferredAddress)
                              : layout::kHighMemory;
  // init_size covers decompression in place.
  const std::uint64_t size =
      std::max(code_size, std::uint64_t{LoadLe<std::uint32_t>(head, kInitSize)});
  EMBERVM_TRY_ASSIGN(const std::span<std::byte> target, KernelRange(memory, file, start, size));
  EMBERVM_TRY(file.ReadAt(code_offset, target.first(code_size)));
  return LoadedKernel{.format = KernelFormat::kBzImage,
                      .entry64 = start + kEntry64Offset,
                      .pvh_entry = std::nullopt,
                      .end = start + size,
                      .setup_header = CopySetupHeader(head)};
}

}  // namespace embervm
