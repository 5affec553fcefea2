// ELF vmlinux: segments and notes (System V ABI; Linux Documentation/arch/x86/boot.rst).
#ifndef EMBERVM_ARCH_X86_64_ELF_H_
#define EMBERVM_ARCH_X86_64_ELF_H_

#include "arch/x86_64/file_reader.h"
#include "arch/x86_64/loader.h"
#include "base/result.h"
#include "memory/guest_memory.h"

namespace embervm {

Result<LoadedKernel> LoadElf(const GuestMemory& memory, const FileReader& file);

}  // namespace embervm

#endif  // EMBERVM_ARCH_X86_64_ELF_H_
