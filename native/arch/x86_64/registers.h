// The state in which vCPU 0 enters the kernel, and the page tables and
// descriptor tables that this state refers to.
#ifndef EMBERVM_ARCH_X86_64_REGISTERS_H_
#define EMBERVM_ARCH_X86_64_REGISTERS_H_

#include "arch/x86_64/boot.h"
#include "base/result.h"
#include "kvm/vcpu.h"
#include "memory/guest_memory.h"

namespace embervm {

// The GDT, and for the 64-bit entry an identity map of the first 4 GiB.
Result<> WriteBootTables(const GuestMemory& memory, BootProtocol protocol);

// General, segment and floating-point registers of the boot processor.
Result<> SetEntryState(KvmVcpu& vcpu, const BootInfo& info);

}  // namespace embervm

#endif  // EMBERVM_ARCH_X86_64_REGISTERS_H_
