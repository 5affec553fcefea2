// The two kernel formats that LoadKernel() chooses between.
#ifndef EMBERVM_ARCH_X86_64_LOADER_FORMATS_H_
#define EMBERVM_ARCH_X86_64_LOADER_FORMATS_H_

#include <cstddef>
#include <span>

#include "arch/x86_64/kernel_file.h"
#include "arch/x86_64/loader.h"
#include "base/result.h"
#include "memory/guest_memory.h"

namespace embervm {

// By the magic numbers in the file's first bytes.
bool IsElf(std::span<const std::byte> head);
bool IsBzImage(std::span<const std::byte> head);
// How many first bytes those want to see.
inline constexpr std::size_t kFormatHeadSize = 0x206;

Result<LoadedKernel> LoadElf(const GuestMemory& memory, const KernelFile& file);
Result<LoadedKernel> LoadBzImage(const GuestMemory& memory, const KernelFile& file);

// RAM for a part of the kernel: above what the boot data occupies, or an error
// that says what did not fit.
Result<std::span<std::byte>> KernelRange(const GuestMemory& memory, const KernelFile& file,
                                         GuestAddr addr, std::uint64_t size);

}  // namespace embervm

#endif  // EMBERVM_ARCH_X86_64_LOADER_FORMATS_H_
