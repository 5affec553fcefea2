// A random seed for the guest kernel, by SETUP_RNG_SEED of the Linux boot
// protocol (Documentation/arch/x86/boot.rst, setup_data).
#ifndef EMBERVM_ARCH_X86_64_RANDOM_SEED_H_
#define EMBERVM_ARCH_X86_64_RANDOM_SEED_H_

#include "base/result.h"
#include "memory/guest_memory.h"

namespace embervm {

// At layout::kRandomSeed, for setup_data to point at. The kernel credits it, so
// that it need not gather entropy for its first random numbers, and wipes it.
Result<> WriteRandomSeed(const GuestMemory& memory);

}  // namespace embervm

#endif  // EMBERVM_ARCH_X86_64_RANDOM_SEED_H_
