// hvm_start_info, the boot data of the PVH protocol
// (Xen, public/arch-x86/hvm/start_info.h).
#ifndef EMBERVM_ARCH_X86_64_PVH_H_
#define EMBERVM_ARCH_X86_64_PVH_H_

#include <optional>

#include "arch/x86_64/loader.h"
#include "base/result.h"
#include "memory/guest_memory.h"

namespace embervm {

// At layout::kPvhStartInfo, with the module list and memory map it points to.
Result<> WritePvhStartInfo(const GuestMemory& memory, const std::optional<LoadedInitrd>& initrd);

}  // namespace embervm

#endif  // EMBERVM_ARCH_X86_64_PVH_H_
