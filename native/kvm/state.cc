#include "kvm/state.h"

#include <x86intrin.h>

#include <algorithm>
#include <string>
#include <utility>

namespace embervm {

namespace {

constexpr std::uint32_t kMsrTsc = 0x10;
constexpr std::uint32_t kMsrTscDeadline = 0x6e0;
// Set up by KVM for its own machine-check emulation; reading it back is refused
// where the guest has no banks of its own.
constexpr std::uint32_t kMsrMcgCtl = 0x17b;

constexpr std::size_t kMaxCpuidEntries = 512;
constexpr std::size_t kMaxMsrs = 4096;
constexpr std::size_t kMaxXsaveBytes = std::size_t{64} * 1024;

// Beyond it the guest's clocks run wrong: 250 parts in a million.
constexpr std::uint64_t kTscToleranceDivisor = 4000;

std::vector<kvm_msr_entry> WantedMsrs(std::span<const std::uint32_t> indices) {
  std::vector<kvm_msr_entry> entries;
  bool deadline = false;
  for (const std::uint32_t index : indices) {
    if (index == kMsrMcgCtl) continue;
    if (index == kMsrTscDeadline) {
      deadline = true;
      continue;
    }
    entries.push_back({.index = index, .reserved = 0, .data = 0});
  }
  if (deadline) entries.push_back({.index = kMsrTscDeadline, .reserved = 0, .data = 0});
  return entries;
}

// The MSR that an error of GetMsrs() or SetMsrs() is about.
std::size_t FindRefused(std::span<const kvm_msr_entry> entries, const Error& error) {
  for (const auto& [key, value] : error.context()) {
    const auto* const number = std::get_if<std::int64_t>(&value);
    if (key != "msr" || number == nullptr) continue;
    const auto found = std::ranges::find_if(entries, [number](const kvm_msr_entry& entry) {
      return std::int64_t{entry.index} == *number;
    });
    return static_cast<std::size_t>(found - entries.begin());
  }
  return entries.size();
}

Result<std::vector<kvm_msr_entry>> ReadMsrs(const KvmVcpu& vcpu,
                                            std::span<const std::uint32_t> indices) {
  std::vector<kvm_msr_entry> entries = WantedMsrs(indices);
  while (true) {
    const Result<> got = vcpu.GetMsrs(entries);
    if (got.has_value()) break;
    // The list is of what KVM knows; not every guest has all of it.
    const std::size_t refused = FindRefused(entries, got.error());
    if (refused == entries.size()) return std::unexpected(got.error());
    entries.erase(entries.begin() + static_cast<std::ptrdiff_t>(refused));
  }
  // A deadline that has passed reads as 0, though its interrupt may still be on the
  // way: armed for a moment that is over it comes at once.
  if (!entries.empty() && entries.back().index == kMsrTscDeadline && entries.back().data == 0) {
    const auto tsc = std::ranges::find(entries, kMsrTsc, &kvm_msr_entry::index);
    if (tsc != entries.end()) entries.back().data = tsc->data;
  }
  return entries;
}

Result<> WriteMsrs(KvmVcpu& vcpu, std::span<const kvm_msr_entry> entries) {
  while (!entries.empty()) {
    const Result<> set = vcpu.SetMsrs(entries);
    if (set.has_value()) return {};
    const std::size_t refused = FindRefused(entries, set.error());
    if (refused == entries.size()) return set;
    // What cannot be written but has the value already is as it must be.
    kvm_msr_entry current{.index = entries[refused].index, .reserved = 0, .data = 0};
    const Result<> got = vcpu.GetMsrs(std::span(&current, 1));
    if (!got.has_value() || current.data != entries[refused].data) return set;
    entries = entries.subspan(refused + 1);
  }
  return {};
}

Result<> RestoreTscRate(KvmVcpu& vcpu, const KvmVm& vm, std::uint32_t wanted_khz) {
  if (wanted_khz == 0) return {};
  const std::uint32_t current_khz = vcpu.GetTscKhz();
  const std::uint64_t difference =
      current_khz > wanted_khz ? current_khz - wanted_khz : wanted_khz - current_khz;
  if (difference <= wanted_khz / kTscToleranceDivisor) return {};
  if (vm.Capability(KVM_CAP_TSC_CONTROL) == 0) {
    return std::unexpected(
        Error("ERR_SNAPSHOT_HOST",
              "the snapshot's time stamp counter has another rate, and this host cannot scale its "
              "own: restore it on a host like the one it was taken on")
            .With("snapshotKhz", wanted_khz)
            .With("hostKhz", current_khz));
  }
  return vcpu.SetTscKhz(wanted_khz);
}

Error BadState(const char* what) { return InvalidState(what); }

}  // namespace

void VcpuState::Write(StateWriter& writer) const {
  writer.List(std::span(cpuid.entries()));
  writer.Struct(mp_state);
  writer.Struct(regs);
  writer.Struct(sregs);
  writer.Blob(xsave);
  writer.Struct(xcrs);
  writer.Struct(debug_registers);
  writer.Struct(lapic);
  writer.Value(tsc_khz);
  writer.List(std::span(msrs));
  writer.Struct(events);
}

Result<VcpuState> VcpuState::Read(StateReader& reader) {
  VcpuState state;
  state.cpuid = CpuidTable(reader.List<kvm_cpuid_entry2>(kMaxCpuidEntries));
  state.mp_state = reader.Struct<kvm_mp_state>();
  state.regs = reader.Struct<kvm_regs>();
  state.sregs = reader.Struct<kvm_sregs>();
  const auto xsave = reader.Blob();
  if (xsave.size() < sizeof(kvm_xsave) || xsave.size() > kMaxXsaveBytes) reader.Fail();
  state.xsave.assign(xsave.begin(), xsave.end());
  state.xcrs = reader.Struct<kvm_xcrs>();
  state.debug_registers = reader.Struct<kvm_debugregs>();
  state.lapic = reader.Struct<kvm_lapic_state>();
  state.tsc_khz = reader.Value<std::uint32_t>();
  state.msrs = reader.List<kvm_msr_entry>(kMaxMsrs);
  state.events = reader.Struct<kvm_vcpu_events>();
  if (!reader.ok()) return std::unexpected(BadState("a vCPU"));
  return state;
}

void VmState::Write(StateWriter& writer) const {
  writer.Struct(pit);
  writer.Struct(clock);
  writer.Value(host_tsc);
  writer.Struct(pic_master);
  writer.Struct(pic_slave);
  writer.Struct(io_apic);
}

Result<VmState> VmState::Read(StateReader& reader) {
  VmState state;
  state.pit = reader.Struct<kvm_pit_state2>();
  state.clock = reader.Struct<kvm_clock_data>();
  state.host_tsc = reader.Value<std::uint64_t>();
  state.pic_master = reader.Struct<kvm_irqchip>();
  state.pic_slave = reader.Struct<kvm_irqchip>();
  state.io_apic = reader.Struct<kvm_irqchip>();
  // KVM_SET_IRQCHIP takes the chip's number from the structure.
  const bool chips = state.pic_master.chip_id == KVM_IRQCHIP_PIC_MASTER &&
                     state.pic_slave.chip_id == KVM_IRQCHIP_PIC_SLAVE &&
                     state.io_apic.chip_id == KVM_IRQCHIP_IOAPIC;
  if (!reader.ok() || !chips) return std::unexpected(BadState("the interrupt controllers"));
  return state;
}

Result<VcpuState> SaveVcpu(KvmVcpu& vcpu, const KvmVm& vm,
                           std::span<const std::uint32_t> msr_indices) {
  VcpuState state;
  // Reading it first also makes KVM deliver what is pending to the LAPIC.
  EMBERVM_TRY_ASSIGN(state.mp_state, vcpu.GetMpState());
  EMBERVM_TRY_ASSIGN(state.regs, vcpu.GetRegs());
  EMBERVM_TRY_ASSIGN(state.sregs, vcpu.GetSregs());
  const auto xsave_bytes = static_cast<std::size_t>(std::max(0, vm.Capability(KVM_CAP_XSAVE2)));
  EMBERVM_TRY_ASSIGN(state.xsave, vcpu.GetExtendedState(std::max(xsave_bytes, sizeof(kvm_xsave))));
  EMBERVM_TRY_ASSIGN(state.xcrs, vcpu.GetXcrs());
  EMBERVM_TRY_ASSIGN(state.debug_registers, vcpu.GetDebugRegs());
  EMBERVM_TRY_ASSIGN(state.lapic, vcpu.GetLapic());
  state.tsc_khz = vcpu.GetTscKhz();
  EMBERVM_TRY_ASSIGN(state.cpuid, vcpu.GetCpuid());
  EMBERVM_TRY_ASSIGN(state.msrs, ReadMsrs(vcpu, msr_indices));
  EMBERVM_TRY_ASSIGN(state.events, vcpu.GetEvents());
  return state;
}

Result<> RestoreVcpu(KvmVcpu& vcpu, const KvmVm& vm, const VcpuState& state) {
  EMBERVM_TRY(RestoreTscRate(vcpu, vm, state.tsc_khz));
  const auto room = static_cast<std::size_t>(std::max(0, vm.Capability(KVM_CAP_XSAVE2)));
  if (state.xsave.size() > std::max(room, sizeof(kvm_xsave))) {
    return std::unexpected(
        Error("ERR_SNAPSHOT_HOST", "the snapshot has extended CPU state that this host lacks")
            .With("snapshotBytes", static_cast<std::int64_t>(state.xsave.size()))
            .With("hostBytes", static_cast<std::int64_t>(room)));
  }
  EMBERVM_TRY(vcpu.SetCpuid(state.cpuid));
  EMBERVM_TRY(vcpu.SetMpState(state.mp_state));
  // Clears pending exceptions, which the events bring back at the end.
  EMBERVM_TRY(vcpu.SetRegs(state.regs));
  // Holds the LAPIC's base, so it comes before the LAPIC.
  EMBERVM_TRY(vcpu.SetSregs(state.sregs));
  EMBERVM_TRY(vcpu.SetExtendedState(state.xsave, std::max(room, sizeof(kvm_xsave))));
  EMBERVM_TRY(vcpu.SetXcrs(state.xcrs));
  EMBERVM_TRY(vcpu.SetDebugRegs(state.debug_registers));
  // Before the MSRs: its timer mode decides what the deadline MSR does.
  EMBERVM_TRY(vcpu.SetLapic(state.lapic));
  EMBERVM_TRY(WriteMsrs(vcpu, state.msrs));
  EMBERVM_TRY(vcpu.SetEvents(state.events));
  return vcpu.MarkClockPaused();
}

Result<VmState> SaveVm(const KvmVm& vm) {
  VmState state;
  EMBERVM_TRY_ASSIGN(state.pit, vm.GetPit());
  EMBERVM_TRY_ASSIGN(state.clock, vm.GetClock());
  state.host_tsc = __rdtsc();
  EMBERVM_TRY_ASSIGN(state.pic_master, vm.GetIrqchip(KVM_IRQCHIP_PIC_MASTER));
  EMBERVM_TRY_ASSIGN(state.pic_slave, vm.GetIrqchip(KVM_IRQCHIP_PIC_SLAVE));
  EMBERVM_TRY_ASSIGN(state.io_apic, vm.GetIrqchip(KVM_IRQCHIP_IOAPIC));
  return state;
}

Result<> RestoreVm(KvmVm& vm, const VmState& state, HostKind host_kind) {
  const std::uint64_t host_tsc = __rdtsc();
  // The guest's clocks would stand still until the counter has caught up.
  if (GuestSeesHostTsc(host_kind) && host_tsc < state.host_tsc) {
    return std::unexpected(
        Error("ERR_SNAPSHOT_HOST",
              "the host's time stamp counter is behind the snapshot's, and this kind of host "
              "cannot set the guest's: the host was restarted, or it is another one. Take the "
              "snapshot anew")
            .With("snapshotTsc", static_cast<std::int64_t>(state.host_tsc))
            .With("hostTsc", static_cast<std::int64_t>(host_tsc)));
  }
  EMBERVM_TRY(vm.SetPit(state.pit));
  // No flags: the guest's clock goes on where it stood, whatever time has passed.
  kvm_clock_data clock{};
  clock.clock = state.clock.clock;
  EMBERVM_TRY(vm.SetClock(clock));
  EMBERVM_TRY(vm.SetIrqchip(state.pic_master));
  EMBERVM_TRY(vm.SetIrqchip(state.pic_slave));
  return vm.SetIrqchip(state.io_apic);
}

}  // namespace embervm
