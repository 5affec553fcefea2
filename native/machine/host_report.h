// What this host can do for a machine, and the cure for what it cannot.
#ifndef EMBERVM_MACHINE_HOST_REPORT_H_
#define EMBERVM_MACHINE_HOST_REPORT_H_

#include <cstdint>
#include <string>
#include <vector>

namespace embervm::machine {

struct HostCapability {
  std::string name;
  bool available = false;
  // Both empty when it is available.
  std::string reason;
  std::string cure;
};

struct HostReport {
  // "hardware", "pvm" or "none".
  std::string kvm;
  int api_version = 0;
  std::uint32_t max_vcpus = 0;
  std::uint64_t memory_mib = 0;
  std::uint32_t cpus = 0;
  std::vector<HostCapability> capabilities;
};

std::uint64_t HostMemoryMib();

// Opens /dev/kvm and asks; starts nothing and leaves nothing open.
HostReport ProbeHost();

}  // namespace embervm::machine

#endif  // EMBERVM_MACHINE_HOST_REPORT_H_
