#include "kvm/kvm.h"

#include <fcntl.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <utility>

#include "kvm/abi.h"
#include "kvm/flex_buffer.h"
#include "kvm/ioctl.h"

namespace embervm {

namespace {

// More than any host has had; KVM_GET_SUPPORTED_CPUID says E2BIG when too few.
constexpr std::uint32_t kMaxCpuidEntries = 512;
constexpr std::uint32_t kMaxMsrs = 4096;
// api.rst §4.4: what a host without KVM_CAP_MAX_VCPUS can do.
constexpr std::uint32_t kDefaultMaxVcpus = 4;

Error OpenError(const std::string& path, int saved_errno) {
  switch (saved_errno) {
    case EACCES:
    case EPERM:
      return Error::FromErrno("ERR_KVM_ACCESS", "open", saved_errno,
                              "this user may not open " + path +
                                  "; add the user to the device's group (usually kvm) or run "
                                  "as root")
          .With("path", path);
    case EMFILE:
    case ENFILE:
      return Error::FromErrno("ERR_RESOURCE_LIMIT", "open", saved_errno,
                              "no descriptor left for " + path + "; raise the limit (ulimit -n)")
          .With("path", path);
    default:
      return Error::FromErrno("ERR_KVM_UNAVAILABLE", "open", saved_errno,
                              path +
                                  " is not available; load the kvm_intel, kvm_amd or kvm_pvm "
                                  "module, switch virtualization on in the firmware, or pass "
                                  "the device into the container")
          .With("path", path);
  }
}

Error NotKvm(const std::string& path, int saved_errno) {
  return Error::FromErrno("ERR_KVM_API_VERSION", "ioctl(KVM_GET_API_VERSION)", saved_errno,
                          path + " is not a KVM device; check what is mounted there")
      .With("path", path);
}

}  // namespace

Result<Kvm> Kvm::Open(const std::string& path) {
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-vararg): open is variadic.
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd.valid()) return std::unexpected(OpenError(path, errno));

  const Result<int> version = KvmIoctl(fd.get(), KVM_GET_API_VERSION, "KVM_GET_API_VERSION");
  if (!version) return std::unexpected(NotKvm(path, version.error().errno_value()));
  if (*version != kKvmApiVersion) {
    return std::unexpected(Error("ERR_KVM_API_VERSION", path + " speaks KVM API version " +
                                                            std::to_string(*version) + ", not " +
                                                            std::to_string(kKvmApiVersion) +
                                                            "; update the host kernel")
                               .With("path", path)
                               .With("version", *version));
  }
  const Result<int> size = KvmIoctl(fd.get(), KVM_GET_VCPU_MMAP_SIZE, "KVM_GET_VCPU_MMAP_SIZE");
  if (!size) return std::unexpected(size.error());
  if (static_cast<std::size_t>(*size) < sizeof(kvm_run)) {
    return std::unexpected(Error("ERR_KVM_API_VERSION", path + " has a vCPU page of " +
                                                            std::to_string(*size) +
                                                            " bytes; update the host kernel")
                               .With("path", path));
  }
  return Kvm(std::move(fd), *version, static_cast<std::size_t>(*size));
}

int Kvm::Capability(int cap) const {
  return KvmIoctl(fd_.get(), KVM_CHECK_EXTENSION, "KVM_CHECK_EXTENSION",
                  static_cast<unsigned long>(cap))
      .value_or(0);
}

std::uint32_t Kvm::max_vcpus() const {
  const int max = Capability(KVM_CAP_MAX_VCPUS);
  return max > 0 ? static_cast<std::uint32_t>(max) : kDefaultMaxVcpus;
}

Result<CpuidTable> Kvm::SupportedCpuid() const {
  FlexBuffer<kvm_cpuid2, kvm_cpuid_entry2> buffer(kMaxCpuidEntries);
  buffer.header()->nent = kMaxCpuidEntries;
  EMBERVM_TRY(
      KvmIoctl(fd_.get(), KVM_GET_SUPPORTED_CPUID, "KVM_GET_SUPPORTED_CPUID", buffer.header()));
  return CpuidTable(buffer.Entries(buffer.header()->nent));
}

Result<std::vector<std::uint32_t>> Kvm::MsrIndexList() const {
  FlexBuffer<kvm_msr_list, std::uint32_t> buffer(kMaxMsrs);
  buffer.header()->nmsrs = kMaxMsrs;
  EMBERVM_TRY(
      KvmIoctl(fd_.get(), KVM_GET_MSR_INDEX_LIST, "KVM_GET_MSR_INDEX_LIST", buffer.header()));
  return buffer.Entries(buffer.header()->nmsrs);
}

Result<KvmVm> Kvm::CreateVm() const {
  EMBERVM_TRY_ASSIGN(const int fd, KvmIoctl(fd_.get(), KVM_CREATE_VM, "KVM_CREATE_VM"));
  return KvmVm(UniqueFd(fd), vcpu_mmap_size_);
}

}  // namespace embervm
