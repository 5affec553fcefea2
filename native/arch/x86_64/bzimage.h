// bzImage by the 64-bit boot protocol, 2.12 and later (Linux
// Documentation/arch/x86/boot.rst).
#ifndef EMBERVM_ARCH_X86_64_BZIMAGE_H_
#define EMBERVM_ARCH_X86_64_BZIMAGE_H_

#include "arch/x86_64/file_reader.h"
#include "arch/x86_64/loader.h"
#include "base/result.h"
#include "memory/guest_memory.h"

namespace embervm {

// Whether the file has the boot sector and header of a bzImage.
Result<bool> IsBzImage(const FileReader& file);
Result<LoadedKernel> LoadBzImage(const GuestMemory& memory, const FileReader& file);

}  // namespace embervm

#endif  // EMBERVM_ARCH_X86_64_BZIMAGE_H_
