// Reads a guest kernel into guest memory: ELF vmlinux or bzImage. The file is
// untrusted input: every offset and length is checked against the file and RAM.
#ifndef EMBERVM_ARCH_X86_64_LOADER_H_
#define EMBERVM_ARCH_X86_64_LOADER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "base/result.h"
#include "memory/guest_memory.h"

namespace embervm {

enum class KernelFormat : std::uint8_t { kElf, kBzImage };

// Most of the setup header of a bzImage, copied into boot_params as it was.
inline constexpr std::size_t kSetupHeaderOffset = 0x1f1;
inline constexpr std::size_t kSetupHeaderMaxSize = 0x290 - kSetupHeaderOffset;

struct SetupHeader {
  std::array<std::byte, kSetupHeaderMaxSize> bytes;
  std::size_t size;
};

struct LoadedKernel {
  KernelFormat format;
  // Long-mode entry; every kernel that loads has one.
  GuestAddr entry64;
  // XEN_ELFNOTE_PHYS32_ENTRY, where the ELF has that note.
  std::optional<GuestAddr> pvh_entry;
  // First byte behind everything the kernel occupies, its .bss included.
  GuestAddr end;
  std::optional<SetupHeader> setup_header;
};

// ERR_KERNEL_NOT_FOUND, ERR_KERNEL_INVALID, ERR_KERNEL_TOO_LARGE; each names
// the path and the number that was wrong.
Result<LoadedKernel> LoadKernel(const GuestMemory& memory, const std::string& path);

struct LoadedInitrd {
  GuestAddr start;
  std::uint64_t size;
};

// Puts the file at the top of low RAM, page aligned, above `kernel_end`.
Result<LoadedInitrd> LoadInitrd(const GuestMemory& memory, const std::string& path,
                                GuestAddr kernel_end);

}  // namespace embervm

#endif  // EMBERVM_ARCH_X86_64_LOADER_H_
