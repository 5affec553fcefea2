#include "machine/machine_core.h"

#include <utility>
#include <variant>

#include "arch/x86_64/boot.h"
#include "arch/x86_64/layout.h"
#include "base/clock.h"
#include "kvm/host_kind.h"
#include "kvm/kick.h"
#include "kvm/kvm.h"
#include "machine/exit_report.h"

namespace embervm::machine {

namespace {

// After the guest's panic signal, how long its own report and reset may take.
// A report is some hundred lines; an emulating host needs seconds for them.
constexpr auto kPanicGrace = std::chrono::seconds(10);

const char* StateName(MachineState state) {
  switch (state) {
    case MachineState::kCreated:
      return "created";
    case MachineState::kRunning:
      return "running";
    case MachineState::kPaused:
      return "paused";
    case MachineState::kStopped:
      return "stopped";
    case MachineState::kCrashed:
      return "crashed";
    case MachineState::kClosed:
      break;
  }
  return "closed";
}

}  // namespace

MachineCore::MachineCore(EventLoop& loop, MachineObserver& observer, std::int64_t created_ns)
    : loop_(loop), observer_(observer), created_ns_(created_ns) {}

MachineCore::~MachineCore() = default;

Result<> MachineCore::Build(MachineConfig config) {
  config_ = std::move(config);
  if (config_.vcpus == 0 || config_.vcpus > layout::kMaxVcpus) {
    return std::unexpected(
        Error("ERR_INVALID_CONFIG", "vcpus must be from 1 to " + std::to_string(layout::kMaxVcpus))
            .With("vcpus", config_.vcpus));
  }
  if (config_.hotplug_slots > kMaxHotplugSlots) {
    return std::unexpected(
        Error("ERR_INVALID_CONFIG",
              "a machine has at most " + std::to_string(kMaxHotplugSlots) + " hotplug slots")
            .With("hotplugSlots", config_.hotplug_slots));
  }
  if (config_.pluggable.has_value() &&
      (config_.pluggable->max_bytes == 0 ||
       config_.pluggable->max_bytes % devices::mem::kBlockBytes != 0)) {
    return std::unexpected(
        Error("ERR_INVALID_CONFIG", "pluggable memory must be a positive multiple of 4 MiB")
            .With("bytes", static_cast<std::int64_t>(config_.pluggable->max_bytes)));
  }
  EMBERVM_TRY(BuildConsole());
  const HostKind host_kind = DetectHostKind();
  EMBERVM_TRY_ASSIGN(kvm_, Kvm::Open());
  EMBERVM_TRY_ASSIGN(GuestMemory memory,
                     GuestMemory::Create(config_.memory_mib * layout::kMiB, PluggableBytes()));
  EMBERVM_TRY(BuildVm(std::move(memory)));
  EMBERVM_TRY(vm_->SetMemory(*memory_));
  EMBERVM_TRY(BuildDevices(host_kind));
  return BuildVcpus(host_kind);
}

std::uint64_t MachineCore::PluggableBytes() const {
  if (!config_.pluggable.has_value()) return 0;
  return config_.pluggable->RegionBytes(config_.memory_mib * layout::kMiB);
}

Result<> MachineCore::BuildConsole() {
  // Any thread writes to the ring; the observer is called on this loop alone.
  EMBERVM_TRY_ASSIGN(
      console_, devices::ConsoleRing::Create(config_.console_bytes, [this](std::uint64_t dropped) {
        loop_.Post([this, dropped] {
          if (!silent_) observer_.OnConsoleOverflow(dropped);
        });
      }));
  return {};
}

Result<> MachineCore::BuildVm(GuestMemory memory) {
  {
    const std::lock_guard lock(memory_mutex_);
    memory_ = std::make_unique<GuestMemory>(std::move(memory));
  }
  EMBERVM_TRY_ASSIGN(KvmVm vm, kvm_->CreateVm());
  vm_ = std::make_unique<KvmVm>(std::move(vm));
  EMBERVM_TRY(vm_->SetTssAddress(layout::kTss));
  EMBERVM_TRY(vm_->CreateIrqchip());
  return vm_->CreatePit();
}

Result<> MachineCore::BuildDevices(HostKind host_kind) {
  if (NeedsEmulationFixups(host_kind)) {
    EMBERVM_TRY_ASSIGN(fixups_, Fixups::Create(*vm_, *memory_));
  }

  EMBERVM_TRY_ASSIGN(std::unique_ptr<devices::SerialDevice> serial,
                     devices::SerialDevice::Create(*console_));
  EMBERVM_TRY(vm_->AddIrqFd(devices::SerialDevice::kIrq, serial->irq_fd()));
  ports_ = std::make_unique<PortIo>(std::move(serial),
                                    [this] { loop_.Post([this] { OnGuestPanic(); }); });
  EMBERVM_TRY_ASSIGN(register_pages_,
                     Mapping::Create(DeviceSet::kRegisterBytes, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, "virtio registers"));
  EMBERVM_TRY_ASSIGN(
      devices_,
      DeviceSet::Create(config_, *vm_, *memory_, loop_, *console_, register_pages_.bytes(),
                        [this](std::string device, std::string message) {
                          if (silent_) return;
                          observer_.OnDeviceError(std::move(device), std::move(message));
                        }));
  return {};
}

Result<> MachineCore::BuildVcpus(HostKind host_kind) {
  BootConfig boot{.kernel_path = config_.kernel_path,
                  .initrd_path = std::nullopt,
                  .command_line = config_.command_line,
                  .vcpus = config_.vcpus};
  if (!config_.initrd_path.empty()) boot.initrd_path = config_.initrd_path;
  if (const std::string_view host_part = GuestCommandLine(host_kind); !host_part.empty()) {
    boot.command_line.append(" ").append(host_part);
  }
  boot.command_line += devices_->GuestCommandLine();
  EMBERVM_TRY_ASSIGN(const BootInfo info, LoadGuest(*memory_, boot));

  EMBERVM_TRY_ASSIGN(const CpuidTable cpuid, kvm_->SupportedCpuid());
  for (std::uint32_t index = 0; index < config_.vcpus; ++index) {
    EMBERVM_TRY_ASSIGN(KvmVcpu vcpu, vm_->CreateVcpu(index));
    EMBERVM_TRY(ConfigureVcpu(vcpu, index, config_.vcpus, info, cpuid, host_kind));
    EMBERVM_TRY(AddVcpu(std::move(vcpu)));
  }
  return {};
}

Result<> MachineCore::AddVcpu(KvmVcpu vcpu) {
  EMBERVM_TRY_ASSIGN(const int kick_signal, KickSignal());
  vcpus_.push_back(std::make_unique<VcpuThread>(std::move(vcpu), *this, kick_signal));
  return {};
}

Error MachineCore::WrongState(const char* operation) const {
  const char* const name = StateName(state_.load());
  return Error("ERR_MACHINE_STATE",
               std::string("cannot ") + operation + " a machine that is " + name)
      .With("operation", std::string(operation))
      .With("state", std::string(name));
}

void MachineCore::RefuseState(Completion<> done, const char* operation) const {
  done(std::unexpected(WrongState(operation)));
}

void MachineCore::Start(Completion<> done) {
  if (state_.load() != MachineState::kCreated || ending_.has_value()) {
    return RefuseState(std::move(done), "start");
  }
  done(RunVcpus());
}

Result<> MachineCore::RunVcpus() {
  for (const auto& vcpu : vcpus_) {
    if (vcpu->started()) {
      vcpu->Resume();
      continue;
    }
    Result<> started = vcpu->Start();
    if (!started.has_value()) {
      StopVcpus(
          {.reason = ExitReason::kFault, .message = started.error().message(), .context = {}});
      return started;
    }
    ++running_vcpus_;
  }
  state_.store(MachineState::kRunning);
  if (!std::exchange(registers_mapped_, true)) MapRegistersSoon();
  return {};
}

// KVM lets a grace period pass for each memory slot, several milliseconds in which the guest can
// run already. Without the slot reads of registers are served one by one: no reason to fail.
void MachineCore::MapRegistersSoon() {
  auto thread = Thread::Start("ember-registers", [this, devices = devices_.get()] {
    [[maybe_unused]] const Result<> mapped = devices->MapRegisters();
    loop_.Post([this] { registers_thread_.Join(); });
  });
  if (thread.has_value()) registers_thread_ = std::move(thread).value();
}

void MachineCore::Pause(Completion<> done) {
  if (state_.load() == MachineState::kPaused) return done({});
  if (state_.load() != MachineState::kRunning || ending_.has_value() || pausing_.has_value()) {
    return RefuseState(std::move(done), "pause");
  }
  pausing_.emplace(std::move(done));
  paused_vcpus_ = 0;
  for (const auto& vcpu : vcpus_) vcpu->Pause();
}

void MachineCore::OnVcpuPaused() {
  ++paused_vcpus_;
  if (!pausing_.has_value() || paused_vcpus_ < vcpus_.size()) return;
  state_.store(MachineState::kPaused);
  Completion<> done = std::move(*pausing_);
  pausing_.reset();
  done({});
}

void MachineCore::Resume(Completion<> done) {
  if (state_.load() == MachineState::kRunning && !pausing_.has_value() && !ending_.has_value()) {
    return done({});
  }
  if (state_.load() != MachineState::kPaused || ending_.has_value()) {
    return RefuseState(std::move(done), "resume");
  }
  done(RunVcpus());
}

void MachineCore::Kill(Completion<> done) {
  const MachineState state = state_.load();
  if (state == MachineState::kStopped || state == MachineState::kCrashed ||
      state == MachineState::kClosed) {
    return done({});
  }
  killing_.push_back(std::move(done));
  StopVcpus({.reason = ExitReason::kKilled, .message = "the machine was killed", .context = {}});
}

Result<std::vector<std::uint64_t>> MachineCore::InstructionPointers() {
  if (state_.load() != MachineState::kPaused) {
    return std::unexpected(Error("ERR_MACHINE_STATE", "the machine is not paused")
                               .With("state", StateName(state_.load())));
  }
  std::vector<std::uint64_t> addresses;
  for (const auto& vcpu : vcpus_) {
    EMBERVM_TRY_ASSIGN(const kvm_regs regs, vcpu->vcpu().GetRegs());
    addresses.push_back(regs.rip);
  }
  return addresses;
}

void MachineCore::ConnectVsock(std::uint32_t port, Completion<UniqueFd> done) {
  if (state_.load() != MachineState::kRunning && state_.load() != MachineState::kPaused) {
    return done(std::unexpected(Error("ERR_MACHINE_STATE", "the machine is not running")
                                    .With("state", StateName(state_.load()))));
  }
  devices_->ConnectVsock(port, std::move(done));
}

void MachineCore::ListenVsock(std::uint32_t port) {
  if (devices_ == nullptr) return;
  devices_->ListenVsock(port, [this, port](std::uint32_t guest_port, UniqueFd stream) {
    if (!silent_) observer_.OnVsockConnection(port, guest_port, std::move(stream));
  });
}

void MachineCore::UnlistenVsock(std::uint32_t port) {
  if (devices_ != nullptr) devices_->UnlistenVsock(port);
}

void MachineCore::OnGuestPanic() {
  if (ending_.has_value() || panic_timer_ != 0) return;
  panic_timer_ = loop_.AddTimer(kPanicGrace, [this] {
    panic_timer_ = 0;
    StopVcpus(
        {.reason = ExitReason::kPanic, .message = "the guest kernel panicked", .context = {}});
  });
}

void MachineCore::StopVcpus(ExitInfo info) {
  if (!ending_.has_value()) {
    ending_.emplace(std::move(info));
    loop_.CancelTimer(std::exchange(panic_timer_, 0));
    for (const auto& vcpu : vcpus_) vcpu->Stop();
  }
  if (running_vcpus_ == 0) FinishStop();
}

void MachineCore::OnVcpuEnded(std::optional<ExitInfo> info) {
  --running_vcpus_;
  // Without one the vCPU obeyed a stop that is under way.
  StopVcpus(std::move(info).value_or(ExitInfo{}));
}

void MachineCore::FinishStop() {
  const MachineState before = state_.load();
  if (before != MachineState::kStopped && before != MachineState::kCrashed) {
    const bool crashed =
        ending_->reason == ExitReason::kPanic || ending_->reason == ExitReason::kFault;
    state_.store(crashed ? MachineState::kCrashed : MachineState::kStopped);
    if (pausing_.has_value()) RefuseState(std::move(*pausing_), "pause");
    pausing_.reset();
    if (devices_ != nullptr) devices_->CloseStreams();
    if (!silent_) observer_.OnExit(*ending_);
  }
  for (Completion<>& done : std::exchange(killing_, {})) done({});
  for (auto& done : std::exchange(shutting_, {})) done();
}

void MachineCore::Shut(std::move_only_function<void()> done) {
  silent_ = true;
  shutting_.push_back(std::move(done));
  StopVcpus({.reason = ExitReason::kKilled, .message = "the machine was closed", .context = {}});
}

void MachineCore::TearDown() {
  std::vector<std::unique_ptr<VcpuThread>> vcpus;
  std::unique_ptr<DeviceSet> devices;
  std::unique_ptr<Fixups> fixups;
  std::unique_ptr<GuestMemory> memory;
  std::unique_ptr<KvmVm> vm;
  {
    // Taken apart outside the lock: a reader of counters must not wait for KVM.
    const std::lock_guard lock(pieces_mutex_);
    vcpus.swap(vcpus_);
    devices.swap(devices_);
    fixups.swap(fixups_);
    vm.swap(vm_);
  }
  {
    const std::lock_guard lock(memory_mutex_);
    memory.swap(memory_);
  }
  snapshot_thread_.Join();
  registers_thread_.Join();
  vcpus.clear();
  devices.reset();
  ports_.reset();
  fixups.reset();
  vm.reset();
  register_pages_.Reset();
  memory.reset();
  kvm_.reset();
  state_.store(MachineState::kClosed);
}

std::optional<ExitInfo> MachineCore::ServeExit(KvmVcpu& vcpu, VcpuExit& exit) {
  if (const auto* const read = std::get_if<MmioRead>(&exit)) {
    devices_->Read(read->addr, read->data);
    return std::nullopt;
  }
  if (const auto* const write = std::get_if<MmioWrite>(&exit)) {
    devices_->Write(write->addr, write->data);
    return std::nullopt;
  }
  if (const auto* const in = std::get_if<IoIn>(&exit)) {
    ports_->Read(*in);
    return std::nullopt;
  }
  if (const auto* const out = std::get_if<IoOut>(&exit)) return ports_->Write(*out);
  if (const auto* const failure = std::get_if<EmulationFailure>(&exit)) {
    return ServeEmulationFailure(vcpu, *failure);
  }
  return DescribeFatalExit(exit, vcpu.index());
}

std::optional<ExitInfo> MachineCore::ServeEmulationFailure(KvmVcpu& vcpu,
                                                           const EmulationFailure& failure) {
  if (fixups_ != nullptr) {
    const Result<bool> handled = fixups_->Handle(vcpu, failure);
    if (handled.has_value() && *handled) return std::nullopt;
  }
  return DescribeFatalExit(failure, vcpu.index());
}

void MachineCore::VcpuPaused() {
  loop_.Post([this] { OnVcpuPaused(); });
}

void MachineCore::VcpuEnded(std::optional<ExitInfo> info) {
  loop_.Post([this, info = std::move(info)]() mutable { OnVcpuEnded(std::move(info)); });
}

MachineStats MachineCore::Stats() const {
  MachineStats stats;
  const std::lock_guard lock(pieces_mutex_);
  for (const auto& vcpu : vcpus_) stats.vcpus.push_back(vcpu->Usage());
  stats.at_ns = MonotonicNs();
  if (!vcpus_.empty()) {
    const auto first_run = vcpus_.front()->first_run_ns();
    if (first_run.has_value()) stats.setup_ns = *first_run - created_ns_;
  }
  if (fixups_ != nullptr) {
    for (const auto& [mnemonic, count] : fixups_->Counts()) {
      stats.fixups.emplace_back(mnemonic, count);
    }
  }
  if (console_ != nullptr) {
    const devices::ConsoleRing::Counters counters = console_->counters();
    stats.console_bytes = counters.bytes;
    stats.console_dropped_bytes = counters.dropped_bytes;
  }
  if (devices_ != nullptr) devices_->AddStats(stats);
  return stats;
}

std::optional<std::uint64_t> MachineCore::ResidentBytes() const {
  const std::lock_guard lock(memory_mutex_);
  if (memory_ == nullptr) return std::nullopt;
  return memory_->ResidentBytes();
}

std::vector<std::byte> MachineCore::ConsoleTail(std::size_t max_bytes) const {
  return console_ == nullptr ? std::vector<std::byte>() : console_->Tail(max_bytes);
}

}  // namespace embervm::machine
