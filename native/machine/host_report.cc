#include "machine/host_report.h"

#include <unistd.h>

#include <array>
#include <utility>

#include "base/result.h"
#include "kvm/abi.h"
#include "kvm/host_kind.h"
#include "kvm/kvm.h"

namespace embervm::machine {

namespace {

struct Needed {
  int capability;
  const char* name;
  const char* without;
};

// Without any one of these no machine starts.
constexpr auto kNeeded = std::to_array<Needed>({
    {KVM_CAP_IRQCHIP, "irqchip", "the guest has no interrupt controller"},
    {KVM_CAP_IRQFD, "irqfd", "devices cannot interrupt the guest"},
    {KVM_CAP_IOEVENTFD, "ioeventfd", "the guest cannot notify devices"},
    {KVM_CAP_USER_MEMORY, "user-memory", "guest memory cannot be mapped"},
    {KVM_CAP_SET_TSS_ADDR, "tss-address", "the processor's real mode cannot be set up"},
    {KVM_CAP_IMMEDIATE_EXIT, "immediate-exit", "a running guest cannot be paused safely"},
    {KVM_CAP_EXT_CPUID, "cpuid", "the guest's processor cannot be described"},
});

// Figures or faster paths are missing without these; machines start.
constexpr auto kUseful = std::to_array<Needed>({
    {KVM_CAP_BINARY_STATS_FD, "statistics", "stats() reports no guest instructions or exits"},
    {KVM_CAP_READONLY_MEM, "read-only-memory", "device registers cost an exit for every read"},
    {KVM_CAP_EXIT_ON_EMULATION_FAILURE, "emulation-failure-exit",
     "an instruction that KVM cannot emulate is not reported with its bytes"},
});

HostCapability Describe(const Kvm& kvm, const Needed& needed) {
  HostCapability capability{.name = needed.name, .available = false, .reason = {}, .cure = {}};
  capability.available = kvm.Capability(needed.capability) > 0;
  if (!capability.available) {
    capability.reason = std::string("this KVM lacks it: ") + needed.without;
    capability.cure = "run a newer host kernel";
  }
  return capability;
}

}  // namespace

std::uint64_t HostMemoryMib() {
  const auto pages = static_cast<std::uint64_t>(sysconf(_SC_PHYS_PAGES));
  const auto page_size = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  constexpr std::uint64_t kBytesPerMib = std::uint64_t{1024} * 1024;
  return pages * page_size / kBytesPerMib;
}

HostReport ProbeHost() {
  HostReport report;
  report.kvm = "none";
  report.cpus = static_cast<std::uint32_t>(sysconf(_SC_NPROCESSORS_ONLN));
  report.memory_mib = HostMemoryMib();

  const auto kvm = Kvm::Open();
  HostCapability device{.name = "kvm", .available = kvm.has_value(), .reason = {}, .cure = {}};
  if (!kvm.has_value()) {
    device.reason = kvm.error().message();
    for (const auto& [key, value] : kvm.error().context()) {
      const auto* const text = std::get_if<std::string>(&value);
      if (key == "cure" && text != nullptr) device.cure = *text;
    }
    report.capabilities.push_back(std::move(device));
    return report;
  }
  report.capabilities.push_back(std::move(device));
  report.kvm = HostKindName(DetectHostKind());
  report.api_version = kvm->api_version();
  report.max_vcpus = kvm->max_vcpus();
  for (const Needed& needed : kNeeded) report.capabilities.push_back(Describe(*kvm, needed));
  for (const Needed& needed : kUseful) report.capabilities.push_back(Describe(*kvm, needed));
  return report;
}

}  // namespace embervm::machine
