// Kvm: the /dev/kvm descriptor, and what can be asked before there is a machine.
#ifndef EMBERVM_KVM_KVM_H_
#define EMBERVM_KVM_KVM_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "kvm/cpuid_table.h"
#include "kvm/vm.h"

namespace embervm {

class Kvm {
 public:
  static constexpr const char* kDefaultPath = "/dev/kvm";

  // ERR_KVM_UNAVAILABLE when there is no such device, ERR_KVM_ACCESS when this
  // user may not open it, ERR_KVM_API_VERSION when it is not KVM as we know it.
  static Result<Kvm> Open(const std::string& path = kDefaultPath);

  // KVM_CHECK_EXTENSION: 0 when absent, else 1 or a number that `cap` defines.
  [[nodiscard]] int Capability(int cap) const;
  [[nodiscard]] int api_version() const { return api_version_; }
  [[nodiscard]] std::size_t vcpu_mmap_size() const { return vcpu_mmap_size_; }
  // The most vCPUs that one VM may have.
  [[nodiscard]] std::uint32_t max_vcpus() const;

  [[nodiscard]] Result<CpuidTable> SupportedCpuid() const;
  // KVM_GET_MSR_INDEX_LIST: the MSRs that belong to a saved state.
  [[nodiscard]] Result<std::vector<std::uint32_t>> MsrIndexList() const;

  [[nodiscard]] Result<KvmVm> CreateVm() const;

 private:
  Kvm(UniqueFd fd, int api_version, std::size_t vcpu_mmap_size)
      : fd_(std::move(fd)), api_version_(api_version), vcpu_mmap_size_(vcpu_mmap_size) {}

  UniqueFd fd_;
  int api_version_;
  std::size_t vcpu_mmap_size_;
};

}  // namespace embervm

#endif  // EMBERVM_KVM_KVM_H_
