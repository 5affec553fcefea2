// boot_params, the "zero page" of the 64-bit Linux boot protocol
// (Documentation/arch/x86/zero-page.rst), and the command line beside it.
#ifndef EMBERVM_ARCH_X86_64_BOOT_PARAMS_H_
#define EMBERVM_ARCH_X86_64_BOOT_PARAMS_H_

#include <optional>
#include <string_view>

#include "arch/x86_64/loader.h"
#include "base/result.h"
#include "memory/guest_memory.h"

namespace embervm {

// At layout::kCommandLine; ERR_COMMAND_LINE_TOO_LONG says by how much.
Result<> WriteCommandLine(const GuestMemory& memory, std::string_view command_line);

// At layout::kBootParams. `header` is the bzImage's own, absent for an ELF.
Result<> WriteBootParams(const GuestMemory& memory, const std::optional<SetupHeader>& header,
                         const std::optional<LoadedInitrd>& initrd);

}  // namespace embervm

#endif  // EMBERVM_ARCH_X86_64_BOOT_PARAMS_H_
