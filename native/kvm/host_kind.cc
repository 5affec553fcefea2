#include "kvm/host_kind.h"

#include <sys/stat.h>

namespace embervm {

namespace {

// Each name was found to be needed by booting without it: KVM-PVM either lacks
// the instructions, or the kernel's variant for the feature is slower there
// (`rep movsb` is emulated byte by byte, so `erms` and `fsrm` go too).
// guest/kernel/cmdline says why for the rest; kernels that are not ours ignore
// what they do not know. `noxsave` must never join the list: guest programs use AVX whatever the
// kernel thinks, and a kernel without XSAVE does not switch those registers.
constexpr std::string_view kPvmCommandLine =
    "clearcpuid=smap,smep,cx16,erms,fsrm,umip,fsgsbase,popcnt,bmi1,bmi2,rdpid,invpcid,pcid,"
    "movbe,rdrand,rdseed,xsaves,xsavec,xsaveopt,pku "
    "rodata=off tick_stride=4 dmesg_level=5 clocksource=kvm-clock";

// Documentation/virt/kvm/x86/cpuid.rst: the features that need no hypercall
// (clocksources, delay, steal time, and the stable-clock bit).
constexpr std::uint32_t kPvmParavirtualFeatures = 0x0100547b;
constexpr std::uint32_t kAllParavirtualFeatures = 0xffffffff;

}  // namespace

HostKind DetectHostKind(const std::string& module_path) {
  struct stat status{};
  return ::stat(module_path.c_str(), &status) == 0 ? HostKind::kPvm : HostKind::kHardware;
}

std::string_view HostKindName(HostKind kind) { return kind == HostKind::kPvm ? "pvm" : "hardware"; }

std::optional<HostKind> HostKindFromName(std::string_view name) {
  for (const HostKind kind : {HostKind::kHardware, HostKind::kPvm}) {
    if (HostKindName(kind) == name) return kind;
  }
  return std::nullopt;
}

std::string_view GuestCommandLine(HostKind kind) {
  return kind == HostKind::kPvm ? kPvmCommandLine : std::string_view();
}

std::uint32_t ParavirtualFeatureMask(HostKind kind) {
  return kind == HostKind::kPvm ? kPvmParavirtualFeatures : kAllParavirtualFeatures;
}

bool GuestSeesHostCpuid(HostKind kind) { return kind == HostKind::kPvm; }

bool GuestSeesHostTsc(HostKind kind) { return kind == HostKind::kPvm; }

bool NeedsEmulationFixups(HostKind kind) { return kind == HostKind::kPvm; }

}  // namespace embervm
