// What a vCPU answers to CPUID: the host's leaves, made true for this vCPU.
#ifndef EMBERVM_ARCH_X86_64_CPUID_H_
#define EMBERVM_ARCH_X86_64_CPUID_H_

#include <cstdint>

#include "kvm/cpuid_table.h"
#include "kvm/host_kind.h"

namespace embervm {

// `supported` is KVM_GET_SUPPORTED_CPUID; vCPU `index` of `count` gets its own
// APIC id, a flat topology (one package, one thread per core) and, of the
// paravirtual features, those that the host kind completes.
CpuidTable BuildCpuid(const CpuidTable& supported, std::uint32_t index, std::uint32_t count,
                      HostKind host_kind);

}  // namespace embervm

#endif  // EMBERVM_ARCH_X86_64_CPUID_H_
