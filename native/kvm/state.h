// The state of vCPUs and of the VM around them, taken from KVM and given back in
// the orders that KVM's interdependent calls need. The vCPUs must not run.
#ifndef EMBERVM_KVM_STATE_H_
#define EMBERVM_KVM_STATE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/state_stream.h"
#include "kvm/abi.h"
#include "kvm/cpuid_table.h"
#include "kvm/host_kind.h"
#include "kvm/vcpu.h"
#include "kvm/vm.h"

namespace embervm {

struct VcpuState {
  CpuidTable cpuid;
  kvm_mp_state mp_state{};
  kvm_regs regs{};
  kvm_sregs sregs{};
  // As long as this host's extended state is (KVM_CAP_XSAVE2).
  std::vector<std::byte> xsave;
  kvm_xcrs xcrs{};
  kvm_debugregs debug_registers{};
  kvm_lapic_state lapic{};
  // 0 where the host does not say.
  std::uint32_t tsc_khz = 0;
  // The deadline timer's is last, as it needs the time stamp counter and the LAPIC.
  std::vector<kvm_msr_entry> msrs;
  kvm_vcpu_events events{};

  void Write(StateWriter& writer) const;
  static Result<VcpuState> Read(StateReader& reader);
};

struct VmState {
  kvm_pit_state2 pit{};
  kvm_clock_data clock{};
  // The host's time stamp counter at the same time.
  std::uint64_t host_tsc = 0;
  kvm_irqchip pic_master{};
  kvm_irqchip pic_slave{};
  kvm_irqchip io_apic{};

  void Write(StateWriter& writer) const;
  static Result<VmState> Read(StateReader& reader);
};

// `msr_indices` is Kvm::MsrIndexList(); what this vCPU does not have is left out.
Result<VcpuState> SaveVcpu(KvmVcpu& vcpu, const KvmVm& vm,
                           std::span<const std::uint32_t> msr_indices);
// ERR_SNAPSHOT_HOST when the state needs a clock rate that this host cannot give.
Result<> RestoreVcpu(KvmVcpu& vcpu, const KvmVm& vm, const VcpuState& state);

// After every vCPU.
Result<VmState> SaveVm(const KvmVm& vm);
// ERR_SNAPSHOT_HOST when the guest's clock would go backwards.
Result<> RestoreVm(KvmVm& vm, const VmState& state, HostKind host_kind);

}  // namespace embervm

#endif  // EMBERVM_KVM_STATE_H_
