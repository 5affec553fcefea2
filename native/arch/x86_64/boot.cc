#include "arch/x86_64/boot.h"

#include <array>
#include <utility>

#include "arch/x86_64/boot_params.h"
#include "arch/x86_64/cpuid.h"
#include "arch/x86_64/layout.h"
#include "arch/x86_64/mptable.h"
#include "arch/x86_64/pvh.h"
#include "arch/x86_64/registers.h"
#include "base/bytes.h"

namespace embervm {

namespace {

constexpr std::uint32_t kMsrTsc = 0x10;
constexpr std::uint32_t kMsrSysenterCs = 0x174;
constexpr std::uint32_t kMsrSysenterEsp = 0x175;
constexpr std::uint32_t kMsrSysenterEip = 0x176;
constexpr std::uint32_t kMsrMiscEnable = 0x1a0;
constexpr std::uint32_t kMsrMtrrDefaultType = 0x2ff;
constexpr std::uint32_t kMsrStar = 0xc0000081;
constexpr std::uint32_t kMsrLstar = 0xc0000082;
constexpr std::uint32_t kMsrCstar = 0xc0000083;
constexpr std::uint32_t kMsrSyscallMask = 0xc0000084;
constexpr std::uint32_t kMsrKernelGsBase = 0xc0000102;
constexpr std::uint64_t kFastStrings = 1;
// MTRRs on, everything write-back.
constexpr std::uint64_t kMtrrWriteBack = 1U << 11U | 6U;

constexpr std::size_t kLapicLvt0 = 0x350;
constexpr std::size_t kLapicLvt1 = 0x360;
constexpr unsigned kDeliveryModeShift = 8;
constexpr std::uint32_t kDeliveryModeMask = 7U << kDeliveryModeShift;
constexpr std::uint32_t kModeNmi = 4;
constexpr std::uint32_t kModeExtInt = 7;

Result<> SetBootMsrs(KvmVcpu& vcpu) {
  const auto entry = [](std::uint32_t index, std::uint64_t data) {
    return kvm_msr_entry{.index = index, .reserved = 0, .data = data};
  };
  const std::array entries{
      entry(kMsrSysenterCs, 0),
      entry(kMsrSysenterEsp, 0),
      entry(kMsrSysenterEip, 0),
      entry(kMsrStar, 0),
      entry(kMsrCstar, 0),
      entry(kMsrLstar, 0),
      entry(kMsrKernelGsBase, 0),
      entry(kMsrSyscallMask, 0),
      entry(kMsrTsc, 0),
      entry(kMsrMiscEnable, kFastStrings),
      entry(kMsrMtrrDefaultType, kMtrrWriteBack),
  };
  return vcpu.SetMsrs(entries);
}

// The PC's wiring: the PIC on LINT0, NMI on LINT1.
Result<> SetLocalInterrupts(KvmVcpu& vcpu) {
  EMBERVM_TRY_ASSIGN(kvm_lapic_state lapic, vcpu.GetLapic());
  const auto registers = std::as_writable_bytes(std::span(lapic.regs));
  const auto set_mode = [&](std::size_t offset, std::uint32_t mode) {
    const auto value = LoadLe<std::uint32_t>(registers, offset);
    StoreLe(registers, offset, (value & ~kDeliveryModeMask) | mode << kDeliveryModeShift);
  };
  set_mode(kLapicLvt0, kModeExtInt);
  set_mode(kLapicLvt1, kModeNmi);
  return vcpu.SetLapic(lapic);
}

}  // namespace

Result<BootInfo> LoadGuest(const GuestMemory& memory, const BootConfig& config) {
  EMBERVM_TRY_ASSIGN(const LoadedKernel kernel, LoadKernel(memory, config.kernel_path));
  std::optional<LoadedInitrd> initrd;
  if (config.initrd_path.has_value()) {
    EMBERVM_TRY_ASSIGN(initrd, LoadInitrd(memory, *config.initrd_path, kernel.end));
  }
  const bool pvh = kernel.pvh_entry.has_value() && config.preferred_protocol == BootProtocol::kPvh;
  const BootInfo info{.protocol = pvh ? BootProtocol::kPvh : BootProtocol::kLinux64,
                      .entry = pvh ? *kernel.pvh_entry : kernel.entry64,
                      .format = kernel.format,
                      .initrd_start = initrd.has_value() ? initrd->start : 0,
                      .initrd_size = initrd.has_value() ? initrd->size : 0};
  EMBERVM_TRY(WriteCommandLine(memory, config.command_line));
  EMBERVM_TRY(WriteMpTable(memory, config.vcpus));
  EMBERVM_TRY(WriteBootTables(memory, info.protocol));
  if (pvh) {
    EMBERVM_TRY(WritePvhStartInfo(memory, initrd));
  } else {
    EMBERVM_TRY(WriteBootParams(memory, kernel.setup_header, initrd));
  }
  return info;
}

Result<> ConfigureVcpu(KvmVcpu& vcpu, std::uint32_t index, std::uint32_t count,
                       const BootInfo& info, const CpuidTable& cpuid, HostKind host_kind) {
  EMBERVM_TRY(vcpu.SetCpuid(BuildCpuid(cpuid, index, count, host_kind)));
  EMBERVM_TRY(SetBootMsrs(vcpu));
  if (index == 0) EMBERVM_TRY(SetEntryState(vcpu, info));
  return SetLocalInterrupts(vcpu);
}

}  // namespace embervm
