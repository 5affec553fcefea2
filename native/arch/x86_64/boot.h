// From a kernel file to vCPUs that are ready to run it. The machine calls
// LoadGuest() once and ConfigureVcpu() for every vCPU.
#ifndef EMBERVM_ARCH_X86_64_BOOT_H_
#define EMBERVM_ARCH_X86_64_BOOT_H_

#include <cstdint>
#include <optional>
#include <string>

#include "arch/x86_64/loader.h"
#include "base/result.h"
#include "kvm/cpuid_table.h"
#include "kvm/host_kind.h"
#include "kvm/vcpu.h"
#include "memory/guest_memory.h"

namespace embervm {

// How the kernel is entered.
enum class BootProtocol : std::uint8_t {
  // Long mode with boot_params (Documentation/arch/x86/boot.rst, 64-bit).
  kLinux64,
  // 32-bit protected mode with hvm_start_info (xen/include/public/arch-x86/hvm/start_info.h).
  kPvh,
};

struct BootConfig {
  std::string kernel_path;
  // Absent: no initial RAM disk.
  std::optional<std::string> initrd_path;
  // Complete: nothing is added here.
  std::string command_line;
  std::uint32_t vcpus = 1;
  // Taken when the kernel has both entries.
  BootProtocol preferred_protocol = BootProtocol::kLinux64;
};

struct BootInfo {
  BootProtocol protocol;
  GuestAddr entry;
  KernelFormat format;
  // [0, 0) without an initial RAM disk.
  GuestAddr initrd_start;
  std::uint64_t initrd_size;
};

// Writes kernel, initrd, command line, MP table and the protocol's tables into
// guest memory.
Result<BootInfo> LoadGuest(const GuestMemory& memory, const BootConfig& config);

// Sets CPUID, MSRs and LAPIC, and on vCPU 0 the entry state; the others wait
// for the kernel's SIPI. `cpuid` is Kvm::SupportedCpuid().
Result<> ConfigureVcpu(KvmVcpu& vcpu, std::uint32_t index, std::uint32_t count,
                       const BootInfo& info, const CpuidTable& cpuid, HostKind host_kind);

}  // namespace embervm

#endif  // EMBERVM_ARCH_X86_64_BOOT_H_
