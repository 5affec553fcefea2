// The Intel MultiProcessor Specification 1.4 tables: how a kernel without ACPI
// finds its CPUs and interrupt lines.
#ifndef EMBERVM_ARCH_X86_64_MPTABLE_H_
#define EMBERVM_ARCH_X86_64_MPTABLE_H_

#include <cstdint>

#include "base/result.h"
#include "memory/guest_memory.h"

namespace embervm {

// At layout::kMpTable. CPU i has APIC id i, the IOAPIC the id behind the last.
Result<> WriteMpTable(const GuestMemory& memory, std::uint32_t cpus);

}  // namespace embervm

#endif  // EMBERVM_ARCH_X86_64_MPTABLE_H_
