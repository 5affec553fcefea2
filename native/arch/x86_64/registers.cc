#include "arch/x86_64/registers.h"

#include <array>
#include <cstdint>

#include "arch/x86_64/layout.h"
#include "base/bytes.h"

namespace embervm {

namespace {

// Selectors that the boot protocols name.
constexpr std::uint16_t kCodeSelector = 0x10;
constexpr std::uint16_t kDataSelector = 0x18;
constexpr std::uint16_t kTaskSelector = 0x20;

// Flat descriptors in the GDT's format: base 0, limit 4 GiB.
constexpr std::uint64_t kCode64 = 0x00af9b000000ffff;
constexpr std::uint64_t kCode32 = 0x00cf9b000000ffff;
constexpr std::uint64_t kData = 0x00cf93000000ffff;
constexpr std::uint64_t kTask = 0x008f8b000000ffff;
constexpr std::uint32_t kFlatLimit = 0xffffffff;
constexpr std::uint32_t kTaskLimit = 0x67;

constexpr std::uint64_t kPagePresent = 1U << 0U;
constexpr std::uint64_t kPageWritable = 1U << 1U;
constexpr std::uint64_t kPageLarge = 1U << 7U;
constexpr std::size_t kEntriesPerTable = 512;
constexpr std::uint64_t kLargePage = 2 * layout::kMiB;
constexpr std::size_t kDirectories = 4;

constexpr std::uint64_t kCr0Protection = 1U << 0U;
constexpr std::uint64_t kCr0ExtensionType = 1U << 4U;
constexpr std::uint64_t kCr0Paging = 1U << 31U;
constexpr std::uint64_t kCr4Pae = 1U << 5U;
constexpr std::uint64_t kEferLongEnable = 1U << 8U;
constexpr std::uint64_t kEferLongActive = 1U << 10U;
constexpr std::uint64_t kFlagsReserved = 1U << 1U;

constexpr std::uint16_t kFpuControl = 0x37f;
constexpr std::uint32_t kMxcsr = 0x1f80;

constexpr std::uint8_t kTypeCode = 0xb;  // Execute, read, accessed.
constexpr std::uint8_t kTypeData = 0x3;  // Read, write, accessed.
constexpr std::uint8_t kTypeTask = 0xb;  // Busy TSS.

kvm_segment CodeSegment(bool long_mode) {
  kvm_segment segment{};
  segment.limit = kFlatLimit;
  segment.selector = kCodeSelector;
  segment.type = kTypeCode;
  segment.present = 1;
  segment.s = 1;
  segment.l = long_mode ? 1 : 0;
  segment.db = long_mode ? 0 : 1;
  segment.g = 1;
  return segment;
}

kvm_segment DataSegment() {
  kvm_segment segment{};
  segment.limit = kFlatLimit;
  segment.selector = kDataSelector;
  segment.type = kTypeData;
  segment.present = 1;
  segment.s = 1;
  segment.db = 1;
  segment.g = 1;
  return segment;
}

kvm_segment TaskSegment() {
  kvm_segment segment{};
  segment.limit = kTaskLimit;
  segment.selector = kTaskSelector;
  segment.type = kTypeTask;
  segment.present = 1;
  return segment;
}

using Table = std::array<std::uint64_t, kEntriesPerTable>;

Result<> WriteIdentityMap(const GuestMemory& memory) {
  constexpr GuestAddr kPdpt = layout::kPageTables + layout::kPageSize;
  constexpr GuestAddr kFirstDirectory = kPdpt + layout::kPageSize;
  Table root{};
  root.at(0) = kPdpt | kPagePresent | kPageWritable;
  Table pointers{};
  for (std::size_t i = 0; i < kDirectories; ++i) {
    pointers.at(i) = (kFirstDirectory + i * layout::kPageSize) | kPagePresent | kPageWritable;
    Table directory{};
    for (std::size_t page = 0; page < kEntriesPerTable; ++page) {
      directory.at(page) =
          (i * kEntriesPerTable + page) * kLargePage | kPagePresent | kPageWritable | kPageLarge;
    }
    EMBERVM_TRY(memory.Write(kFirstDirectory + i * layout::kPageSize, AsBytes(directory)));
  }
  EMBERVM_TRY(memory.Write(layout::kPageTables, AsBytes(root)));
  return memory.Write(kPdpt, AsBytes(pointers));
}

}  // namespace

Result<> WriteBootTables(const GuestMemory& memory, BootProtocol protocol) {
  const bool long_mode = protocol == BootProtocol::kLinux64;
  const std::array<std::uint64_t, 5> gdt{0, 0, long_mode ? kCode64 : kCode32, kData, kTask};
  EMBERVM_TRY(memory.Write(layout::kGdt, AsBytes(gdt)));
  return long_mode ? WriteIdentityMap(memory) : Result<>();
}

Result<> SetEntryState(KvmVcpu& vcpu, const BootInfo& info) {
  const bool long_mode = info.protocol == BootProtocol::kLinux64;
  kvm_regs regs{};
  regs.rip = info.entry;
  regs.rflags = kFlagsReserved;
  if (long_mode) {
    regs.rsi = layout::kBootParams;
    regs.rsp = layout::kBootStack;
    regs.rbp = layout::kBootStack;
  } else {
    regs.rbx = layout::kPvhStartInfo;
  }

  EMBERVM_TRY_ASSIGN(kvm_sregs sregs, vcpu.GetSregs());
  sregs.cs = CodeSegment(long_mode);
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = DataSegment();
  sregs.tr = TaskSegment();
  sregs.gdt.base = layout::kGdt;
  sregs.gdt.limit = 5 * sizeof(std::uint64_t) - 1;
  sregs.idt.base = 0;
  sregs.idt.limit = 0;
  sregs.cr0 = kCr0Protection | kCr0ExtensionType;
  if (long_mode) {
    sregs.cr0 |= kCr0Paging;
    sregs.cr3 = layout::kPageTables;
    sregs.cr4 = kCr4Pae;
    sregs.efer = kEferLongEnable | kEferLongActive;
  }

  kvm_fpu fpu{};
  fpu.fcw = kFpuControl;
  fpu.mxcsr = kMxcsr;

  EMBERVM_TRY(vcpu.SetSregs(sregs));
  EMBERVM_TRY(vcpu.SetRegs(regs));
  return vcpu.SetFpu(fpu);
}

}  // namespace embervm
