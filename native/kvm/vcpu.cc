#include "kvm/vcpu.h"

#include <sys/ioctl.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <string>

#include "base/checked.h"
#include "kvm/flex_buffer.h"
#include "kvm/ioctl.h"

namespace embervm {

namespace {

constexpr std::uint32_t kMaxCpuidEntries = 512;
// One call takes fewer than KVM_MAX_MSR_ENTRIES (256), not up to.
constexpr std::size_t kMsrsPerCall = 255;

Error ExitDataOutside(std::uint32_t exit_reason) {
  return Error("ERR_KVM_IOCTL", "KVM_RUN returned data outside the vCPU's page")
      .With("exitReason", exit_reason);
}

Error MsrRefused(std::string_view what, std::uint32_t index) {
  return Error("ERR_KVM_IOCTL", "KVM refused to " + std::string(what) + " MSR " +
                                    std::to_string(index) + " (see context)")
      .With("msr", index);
}

template <class State>
Result<State> Get(int fd, unsigned long request, std::string_view name) {
  State state{};
  EMBERVM_TRY(KvmIoctl(fd, request, name, &state));
  return state;
}

template <class State>
Result<> Set(int fd, unsigned long request, std::string_view name, const State& state) {
  EMBERVM_TRY(KvmIoctl(fd, request, name, &state));
  return {};
}

// Calls `request` on chunks of `entries`; KVM answers with the number done.
template <class Done>
Result<> ForEachMsrChunk(int fd, unsigned long request, std::string_view name,
                         std::span<const kvm_msr_entry> entries, std::string_view what, Done done) {
  for (std::size_t start = 0; start < entries.size(); start += kMsrsPerCall) {
    const auto chunk = entries.subspan(start, std::min(kMsrsPerCall, entries.size() - start));
    FlexBuffer<kvm_msrs, kvm_msr_entry> buffer(chunk.size());
    buffer.header()->nmsrs = static_cast<std::uint32_t>(chunk.size());
    buffer.SetEntries(chunk);
    EMBERVM_TRY_ASSIGN(const int count, KvmIoctl(fd, request, name, buffer.header()));
    if (static_cast<std::size_t>(count) < chunk.size()) {
      return std::unexpected(MsrRefused(what, chunk[static_cast<std::size_t>(count)].index));
    }
    done(start, buffer.Entries(chunk.size()));
  }
  return {};
}

}  // namespace

// The kernel made the page; it lives as long as the mapping.
kvm_run* KvmVcpu::run() const { return reinterpret_cast<kvm_run*>(run_.data()); }

void KvmVcpu::set_immediate_exit(bool value) const {
  // Read by the kernel at the start of KVM_RUN. The signal that follows orders
  // it against a KVM_RUN that is already under way.
  std::atomic_ref(run()->immediate_exit)
      .store(value ? std::uint8_t{1} : std::uint8_t{0}, std::memory_order_seq_cst);
}

Result<VcpuExit> KvmVcpu::Run() {
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-vararg): ioctl is variadic.
  if (::ioctl(fd(), KVM_RUN, 0) < 0) {
    const int saved_errno = errno;
    // EAGAIN: a secondary vCPU was woken before its SIPI came.
    if (saved_errno == EINTR || saved_errno == EAGAIN) return VcpuExit(Interrupted{});
    return std::unexpected(Error::FromErrno("ERR_KVM_IOCTL", "ioctl(KVM_RUN)", saved_errno,
                                            "vCPU " + std::to_string(index_))
                               .With("vcpu", index_));
  }
  return DecodeExit();
}

Result<VcpuExit> KvmVcpu::DecodeExit() {
  kvm_run& exit = *run();
  switch (exit.exit_reason) {
    case KVM_EXIT_IO:
      return DecodeIo();
    case KVM_EXIT_MMIO: {
      const std::span bytes = std::as_writable_bytes(std::span(exit.mmio.data));
      if (exit.mmio.len > bytes.size()) return std::unexpected(ExitDataOutside(KVM_EXIT_MMIO));
      const auto data = bytes.first(exit.mmio.len);
      if (exit.mmio.is_write != 0) return VcpuExit(MmioWrite{exit.mmio.phys_addr, data});
      return VcpuExit(MmioRead{exit.mmio.phys_addr, data});
    }
    case KVM_EXIT_INTR:
      return VcpuExit(Interrupted{});
    case KVM_EXIT_SHUTDOWN:
      return VcpuExit(Shutdown{});
    case KVM_EXIT_HLT:
      return VcpuExit(Halt{});
    case KVM_EXIT_SYSTEM_EVENT:
      return VcpuExit(SystemEvent{exit.system_event.type});
    case KVM_EXIT_INTERNAL_ERROR:
      return DecodeInternalError();
    case KVM_EXIT_FAIL_ENTRY:
      return VcpuExit(FailEntry{exit.fail_entry.hardware_entry_failure_reason});
    default:
      return VcpuExit(UnknownExit{exit.exit_reason});
  }
}

Result<VcpuExit> KvmVcpu::DecodeIo() {
  const kvm_run& exit = *run();
  const std::uint64_t length = std::uint64_t{exit.io.size} * exit.io.count;
  if (!RangeFits(std::uint64_t{exit.io.data_offset}, length, std::uint64_t{run_.size()})) {
    return std::unexpected(ExitDataOutside(KVM_EXIT_IO));
  }
  const auto data = run_.bytes().subspan(exit.io.data_offset, length);
  if (exit.io.direction == KVM_EXIT_IO_OUT) {
    return VcpuExit(IoOut{exit.io.port, exit.io.size, exit.io.count, data});
  }
  return VcpuExit(IoIn{exit.io.port, exit.io.size, exit.io.count, data});
}

Result<VcpuExit> KvmVcpu::DecodeInternalError() {
  const kvm_run& exit = *run();
  if (exit.internal.suberror != KVM_INTERNAL_ERROR_EMULATION) {
    InternalError error{};
    error.suberror = exit.internal.suberror;
    error.size = std::min<std::size_t>(exit.internal.ndata, error.data.size());
    std::copy_n(std::begin(exit.internal.data), error.size, error.data.begin());
    return VcpuExit(error);
  }
  EMBERVM_TRY_ASSIGN(const kvm_regs regs, GetRegs());
  EmulationFailure failure{};
  failure.rip = regs.rip;
  // One word of flags, then the size and the bytes in two more.
  constexpr std::uint32_t kWordsWithBytes = 3;
  if (exit.emulation_failure.ndata >= kWordsWithBytes &&
      (exit.emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0) {
    failure.size =
        std::min<std::size_t>(exit.emulation_failure.insn_size, EmulationFailure::kMaxBytes);
    const auto bytes = std::as_bytes(std::span(exit.emulation_failure.insn_bytes));
    std::ranges::copy(bytes.first(failure.size), failure.bytes.begin());
  }
  return VcpuExit(failure);
}

Result<kvm_regs> KvmVcpu::GetRegs() const {
  return Get<kvm_regs>(fd(), KVM_GET_REGS, "KVM_GET_REGS");
}
Result<> KvmVcpu::SetRegs(const kvm_regs& regs) {
  return Set(fd(), KVM_SET_REGS, "KVM_SET_REGS", regs);
}
Result<kvm_sregs> KvmVcpu::GetSregs() const {
  return Get<kvm_sregs>(fd(), KVM_GET_SREGS, "KVM_GET_SREGS");
}
Result<> KvmVcpu::SetSregs(const kvm_sregs& sregs) {
  return Set(fd(), KVM_SET_SREGS, "KVM_SET_SREGS", sregs);
}
Result<kvm_fpu> KvmVcpu::GetFpu() const { return Get<kvm_fpu>(fd(), KVM_GET_FPU, "KVM_GET_FPU"); }
Result<> KvmVcpu::SetFpu(const kvm_fpu& fpu) { return Set(fd(), KVM_SET_FPU, "KVM_SET_FPU", fpu); }
Result<kvm_xsave> KvmVcpu::GetXsave() const {
  return Get<kvm_xsave>(fd(), KVM_GET_XSAVE, "KVM_GET_XSAVE");
}
Result<> KvmVcpu::SetXsave(const kvm_xsave& xsave) {
  return Set(fd(), KVM_SET_XSAVE, "KVM_SET_XSAVE", xsave);
}
Result<std::vector<std::byte>> KvmVcpu::GetExtendedState(std::size_t size) const {
  std::vector<std::byte> state(size);
  if (size > sizeof(kvm_xsave)) {
    EMBERVM_TRY(KvmIoctl(fd(), KVM_GET_XSAVE2, "KVM_GET_XSAVE2", state.data()));
  } else {
    EMBERVM_TRY(KvmIoctl(fd(), KVM_GET_XSAVE, "KVM_GET_XSAVE", state.data()));
  }
  return state;
}
Result<> KvmVcpu::SetExtendedState(std::span<const std::byte> state, std::size_t size) {
  std::vector<std::byte> whole(size);
  std::ranges::copy(state.first(std::min(state.size(), size)), whole.begin());
  EMBERVM_TRY(KvmIoctl(fd(), KVM_SET_XSAVE, "KVM_SET_XSAVE", whole.data()));
  return {};
}
Result<kvm_xcrs> KvmVcpu::GetXcrs() const {
  return Get<kvm_xcrs>(fd(), KVM_GET_XCRS, "KVM_GET_XCRS");
}
Result<> KvmVcpu::SetXcrs(const kvm_xcrs& xcrs) {
  return Set(fd(), KVM_SET_XCRS, "KVM_SET_XCRS", xcrs);
}
Result<kvm_debugregs> KvmVcpu::GetDebugRegs() const {
  return Get<kvm_debugregs>(fd(), KVM_GET_DEBUGREGS, "KVM_GET_DEBUGREGS");
}
Result<> KvmVcpu::SetDebugRegs(const kvm_debugregs& registers) {
  return Set(fd(), KVM_SET_DEBUGREGS, "KVM_SET_DEBUGREGS", registers);
}
Result<kvm_vcpu_events> KvmVcpu::GetEvents() const {
  return Get<kvm_vcpu_events>(fd(), KVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS");
}
Result<> KvmVcpu::SetEvents(const kvm_vcpu_events& events) {
  return Set(fd(), KVM_SET_VCPU_EVENTS, "KVM_SET_VCPU_EVENTS", events);
}
Result<kvm_mp_state> KvmVcpu::GetMpState() const {
  return Get<kvm_mp_state>(fd(), KVM_GET_MP_STATE, "KVM_GET_MP_STATE");
}
Result<> KvmVcpu::SetMpState(const kvm_mp_state& state) {
  return Set(fd(), KVM_SET_MP_STATE, "KVM_SET_MP_STATE", state);
}
Result<kvm_lapic_state> KvmVcpu::GetLapic() const {
  return Get<kvm_lapic_state>(fd(), KVM_GET_LAPIC, "KVM_GET_LAPIC");
}
Result<> KvmVcpu::SetLapic(const kvm_lapic_state& lapic) {
  return Set(fd(), KVM_SET_LAPIC, "KVM_SET_LAPIC", lapic);
}

std::uint32_t KvmVcpu::GetTscKhz() const {
  const Result<int> khz = KvmIoctl(fd(), KVM_GET_TSC_KHZ, "KVM_GET_TSC_KHZ");
  return khz.has_value() && *khz > 0 ? static_cast<std::uint32_t>(*khz) : 0;
}
Result<> KvmVcpu::SetTscKhz(std::uint32_t khz) {
  EMBERVM_TRY(KvmIoctl(fd(), KVM_SET_TSC_KHZ, "KVM_SET_TSC_KHZ", khz));
  return {};
}

Result<> KvmVcpu::SetCpuid(const CpuidTable& cpuid) {
  FlexBuffer<kvm_cpuid2, kvm_cpuid_entry2> buffer(cpuid.entries().size());
  buffer.header()->nent = static_cast<std::uint32_t>(cpuid.entries().size());
  buffer.SetEntries(cpuid.entries());
  EMBERVM_TRY(KvmIoctl(fd(), KVM_SET_CPUID2, "KVM_SET_CPUID2", buffer.header()));
  return {};
}

Result<CpuidTable> KvmVcpu::GetCpuid() const {
  FlexBuffer<kvm_cpuid2, kvm_cpuid_entry2> buffer(kMaxCpuidEntries);
  buffer.header()->nent = kMaxCpuidEntries;
  EMBERVM_TRY(KvmIoctl(fd(), KVM_GET_CPUID2, "KVM_GET_CPUID2", buffer.header()));
  return CpuidTable(buffer.Entries(buffer.header()->nent));
}

Result<> KvmVcpu::GetMsrs(std::span<kvm_msr_entry> entries) const {
  return ForEachMsrChunk(fd(), KVM_GET_MSRS, "KVM_GET_MSRS", entries, "read",
                         [&](std::size_t start, const std::vector<kvm_msr_entry>& values) {
                           std::ranges::copy(values, entries.subspan(start).begin());
                         });
}

Result<> KvmVcpu::SetMsrs(std::span<const kvm_msr_entry> entries) {
  return ForEachMsrChunk(fd(), KVM_SET_MSRS, "KVM_SET_MSRS", entries, "write",
                         [](std::size_t, const std::vector<kvm_msr_entry>&) {});
}

Result<> KvmVcpu::MarkClockPaused() {
  const Result<int> marked = KvmIoctl(fd(), KVM_KVMCLOCK_CTRL, "KVM_KVMCLOCK_CTRL");
  // EINVAL: the guest has not set up its kvm-clock.
  if (!marked && marked.error().errno_value() != EINVAL) return std::unexpected(marked.error());
  return {};
}

Result<kvm_translation> KvmVcpu::Translate(std::uint64_t virtual_address) const {
  kvm_translation translation{};
  translation.linear_address = virtual_address;
  EMBERVM_TRY(KvmIoctl(fd(), KVM_TRANSLATE, "KVM_TRANSLATE", &translation));
  return translation;
}

Result<VcpuStats> KvmVcpu::OpenStats() const {
  Result<int> stats = KvmIoctl(fd(), KVM_GET_STATS_FD, "KVM_GET_STATS_FD");
  if (!stats) {
    return std::unexpected(
        Error("ERR_UNSUPPORTED", "this host's KVM has no statistics; Linux 5.14 or newer has"));
  }
  return VcpuStats::Create(UniqueFd(*stats));
}

}  // namespace embervm
