// HostKind: what stands behind /dev/kvm, and everything that depends on it.
// KVM-PVM is a software KVM for hosts without nested virtualization: it emulates
// guest code at CPL0 one instruction at a time, and not all of them. No other
// file asks which kind of host it runs on.
#ifndef EMBERVM_KVM_HOST_KIND_H_
#define EMBERVM_KVM_HOST_KIND_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace embervm {

enum class HostKind : std::uint8_t { kHardware, kPvm };

// `module_path` is the directory that exists while KVM-PVM is loaded.
HostKind DetectHostKind(const std::string& module_path = "/sys/module/kvm_pvm");

// "hardware" or "pvm", as reports print it.
std::string_view HostKindName(HostKind kind);
std::optional<HostKind> HostKindFromName(std::string_view name);

// What the guest kernel must be told: empty on hardware. KVM-PVM does not mask
// CPUID, so features whose instructions it lacks are switched off by name.
std::string_view GuestCommandLine(HostKind kind);

// The bits of CPUID leaf 0x40000001 EAX (KVM_CPUID_FEATURES) that a guest may
// see. KVM-PVM never completes a `vmcall` of a secondary vCPU, so the
// paravirtual features that send hypercalls are taken away there.
std::uint32_t ParavirtualFeatureMask(HostKind kind);

// Whether guest code sees the CPUID of the host's CPU, whatever KVM_SET_CPUID2 says.
bool GuestSeesHostCpuid(HostKind kind);

// Whether a guest's time stamp counter is the host's own, which nobody can set.
bool GuestSeesHostTsc(HostKind kind);

// Whether KVM leaves instructions of the guest kernel to the VMM.
bool NeedsEmulationFixups(HostKind kind);

}  // namespace embervm

#endif  // EMBERVM_KVM_HOST_KIND_H_
