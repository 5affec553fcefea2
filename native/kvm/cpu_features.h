// CpuFeatures: what a guest on this host may have found its CPU able to do, so that
// a snapshot is not continued on a host that cannot do it.
#ifndef EMBERVM_KVM_CPU_FEATURES_H_
#define EMBERVM_KVM_CPU_FEATURES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/state_stream.h"
#include "kvm/cpuid_table.h"
#include "kvm/host_kind.h"

namespace embervm {

class CpuFeatures {
 public:
  // `supported` is Kvm::SupportedCpuid().
  static CpuFeatures OfHost(const CpuidTable& supported, HostKind host_kind);
  static Result<CpuFeatures> Read(StateReader& reader);
  void Write(StateWriter& writer) const;

  // ERR_SNAPSHOT_HOST, with the names of what is missing, unless `host` has all this.
  [[nodiscard]] Result<> RequireFrom(const CpuFeatures& host) const;

  [[nodiscard]] const std::string& vendor() const { return vendor_; }

 private:
  // One register of one CPUID leaf; every bit of it is a feature.
  struct Word {
    std::uint32_t function;
    std::uint32_t index;
    // 0 to 3: EAX to EDX.
    std::uint32_t reg;
    std::uint32_t bits;
  };
  static std::string NameOf(const Word& word, unsigned bit);

  HostKind host_kind_ = HostKind::kHardware;
  std::string vendor_;
  std::vector<Word> words_;
};

}  // namespace embervm

#endif  // EMBERVM_KVM_CPU_FEATURES_H_
