#include "arch/x86_64/loader.h"

#include <algorithm>
#include <array>

#include "arch/x86_64/kernel_file.h"
#include "arch/x86_64/layout.h"
#include "arch/x86_64/loader_formats.h"

namespace embervm {

Result<std::span<std::byte>> KernelRange(const GuestMemory& memory, const KernelFile& file,
                                         GuestAddr addr, std::uint64_t size) {
  if (addr < layout::kHighMemory) {
    return std::unexpected(file.Invalid("wants to be loaded at " + Hex(addr) + ", below 1 MiB"));
  }
  const auto slice = memory.Slice(addr, size);
  if (!slice) {
    return std::unexpected(file.TooLarge("needs guest memory from " + Hex(addr) + " for " +
                                         Hex(size) + " bytes, and the machine has " +
                                         Hex(memory.size()) + " bytes"));
  }
  return *slice;
}

Result<LoadedKernel> LoadKernel(const GuestMemory& memory, const std::string& path) {
  EMBERVM_TRY_ASSIGN(const KernelFile file, KernelFile::Open(path, "kernel"));
  std::array<std::byte, kFormatHeadSize> head{};
  const auto length = static_cast<std::size_t>(std::min<std::uint64_t>(file.size(), head.size()));
  EMBERVM_TRY(file.ReadAt(0, std::span(head).first(length)));
  if (IsElf(head)) return LoadElf(memory, file);
  if (IsBzImage(head)) return LoadBzImage(memory, file);
  return std::unexpected(file.Invalid("is neither an ELF vmlinux nor a bzImage (" +
                                      std::to_string(file.size()) +
                                      " bytes); give the path of an uncompressed vmlinux"));
}

Result<LoadedInitrd> LoadInitrd(const GuestMemory& memory, const std::string& path,
                                GuestAddr kernel_end) {
  EMBERVM_TRY_ASSIGN(const KernelFile file, KernelFile::Open(path, "initial RAM disk"));
  if (file.size() == 0) return std::unexpected(file.Invalid("is empty"));
  const std::uint64_t low_ram = memory.regions().front().size;
  const GuestAddr floor = std::max(kernel_end, layout::kHighMemory);
  if (floor >= low_ram || file.size() > low_ram - floor) {
    return std::unexpected(file.TooLarge(
        "has " + Hex(file.size()) + " bytes, which do not fit between the kernel's end at " +
        Hex(kernel_end) + " and the end of low memory at " + Hex(low_ram)));
  }
  const GuestAddr start = (low_ram - file.size()) & ~(layout::kPageSize - 1);
  if (start < floor) {
    return std::unexpected(
        file.TooLarge("does not fit page aligned above the kernel's end at " + Hex(kernel_end)));
  }
  const auto slice = memory.Slice(start, file.size());
  if (!slice) return std::unexpected(file.TooLarge("does not fit at " + Hex(start)));
  EMBERVM_TRY(file.ReadAt(0, *slice));
  return LoadedInitrd{.start = start, .size = file.size()};
}

}  // namespace embervm
