// KvmVcpu: one virtual CPU: its descriptor, its kvm_run page, its state.
// Belongs to the thread that calls Run(), except where a member says otherwise.
#ifndef EMBERVM_KVM_VCPU_H_
#define EMBERVM_KVM_VCPU_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/mapping.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "kvm/abi.h"
#include "kvm/cpuid_table.h"
#include "kvm/stats.h"
#include "kvm/vcpu_exit.h"

namespace embervm {

class KvmVcpu {
 public:
  KvmVcpu(UniqueFd fd, Mapping run, std::uint32_t index)
      : fd_(std::move(fd)), run_(std::move(run)), index_(index) {}

  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] std::uint32_t index() const { return index_; }

  // Enters the guest until it needs the VMM. An error is a host's failure.
  Result<VcpuExit> Run();

  // Any thread. While set, Run() completes a pending access and returns
  // Interrupted at once. Pair it with a kick signal to leave a running guest.
  void set_immediate_exit(bool value) const;

  Result<kvm_regs> GetRegs() const;
  Result<> SetRegs(const kvm_regs& regs);
  Result<kvm_sregs> GetSregs() const;
  Result<> SetSregs(const kvm_sregs& sregs);
  Result<kvm_fpu> GetFpu() const;
  Result<> SetFpu(const kvm_fpu& fpu);
  Result<kvm_xsave> GetXsave() const;
  Result<> SetXsave(const kvm_xsave& xsave);
  // All of it, also what does not fit kvm_xsave: `size` is KVM_CAP_XSAVE2, or that
  // of kvm_xsave where it is absent.
  [[nodiscard]] Result<std::vector<std::byte>> GetExtendedState(std::size_t size) const;
  // `size` as above: the kernel reads that many bytes; what `state` lacks is zero.
  Result<> SetExtendedState(std::span<const std::byte> state, std::size_t size);
  Result<kvm_xcrs> GetXcrs() const;
  Result<> SetXcrs(const kvm_xcrs& xcrs);
  Result<kvm_debugregs> GetDebugRegs() const;
  Result<> SetDebugRegs(const kvm_debugregs& registers);
  Result<kvm_vcpu_events> GetEvents() const;
  Result<> SetEvents(const kvm_vcpu_events& events);
  Result<kvm_mp_state> GetMpState() const;
  Result<> SetMpState(const kvm_mp_state& state);
  Result<kvm_lapic_state> GetLapic() const;
  Result<> SetLapic(const kvm_lapic_state& lapic);

  // 0 where the host does not say.
  [[nodiscard]] std::uint32_t GetTscKhz() const;
  // Takes KVM_CAP_TSC_CONTROL.
  Result<> SetTscKhz(std::uint32_t khz);

  // Before GetMsrs(): MSRs that depend on CPUID read as 0 until then.
  Result<> SetCpuid(const CpuidTable& cpuid);
  Result<CpuidTable> GetCpuid() const;

  // Fills in `data` of every entry. A short answer is an error that names the MSR.
  Result<> GetMsrs(std::span<kvm_msr_entry> entries) const;
  Result<> SetMsrs(std::span<const kvm_msr_entry> entries);

  // Tells the guest's kvm-clock that it was paused (KVM_KVMCLOCK_CTRL); a guest
  // that has no kvm-clock yet is not an error.
  Result<> MarkClockPaused();

  // The guest physical address KVM sees behind `virtual_address`; invalid when
  // it is not mapped.
  Result<kvm_translation> Translate(std::uint64_t virtual_address) const;

  // A reader of its own, for any thread. ERR_UNSUPPORTED where the host has none.
  Result<VcpuStats> OpenStats() const;

 private:
  [[nodiscard]] kvm_run* run() const;
  Result<VcpuExit> DecodeExit();
  Result<VcpuExit> DecodeIo();
  Result<VcpuExit> DecodeInternalError();

  UniqueFd fd_;
  Mapping run_;
  std::uint32_t index_;
};

}  // namespace embervm

#endif  // EMBERVM_KVM_VCPU_H_
