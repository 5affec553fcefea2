// MachineCore: taking snapshots and continuing from them. KVM's calls depend on each
// other: save devices, vCPUs, VM, memory; restore memory, vCPUs, VM, devices.
#include <algorithm>
#include <string>
#include <utility>

#include "arch/x86_64/layout.h"
#include "base/clock.h"
#include "kvm/cpu_features.h"
#include "kvm/state.h"
#include "machine/host_report.h"
#include "machine/machine_core.h"
#include "memory/memory_file.h"

namespace embervm::machine {

void MachineCore::TakeSnapshot(const SnapshotRequest& request, Completion<SnapshotReport> done) {
  if (snapshot_ != nullptr) {
    return done(std::unexpected(
        Error("ERR_SNAPSHOT_BUSY", "another snapshot of this machine is being taken")));
  }
  const MachineState state = state_.load();
  const bool running = state == MachineState::kRunning;
  if ((!running && state != MachineState::kPaused) || ending_.has_value() || pausing_.has_value()) {
    return done(std::unexpected(WrongState("snapshot")));
  }
  auto writer = SnapshotWriter::Open(request.directory);
  if (!writer.has_value()) return done(std::unexpected(std::move(writer).error()));
  snapshot_ = std::make_unique<PendingSnapshot>(PendingSnapshot{.kind = request.kind,
                                                                .writer = std::move(*writer),
                                                                .done = std::move(done),
                                                                .resume = running,
                                                                .pause_began_ns = MonotonicNs()});
  if (!running) return SaveNow();
  Pause(Completion<>([this](Result<> paused) { OnPausedForSnapshot(std::move(paused)); }));
}

void MachineCore::OnPausedForSnapshot(Result<> paused) {
  if (!paused.has_value()) return FinishSnapshot(std::unexpected(std::move(paused).error()));
  SaveNow();
}

void MachineCore::SaveNow() {
  PendingSnapshot& pending = *snapshot_;
  std::vector<std::byte> state;
  const auto save = [&]() -> Result<SnapshotReport> {
    EMBERVM_TRY_ASSIGN(Snapshot snapshot, SaveState());
    EMBERVM_TRY_ASSIGN(SnapshotReport report, SaveMemory(pending.kind, pending.writer, snapshot));
    state = EncodeSnapshot(snapshot);
    if (state.size() > kMaxStateBytes) {
      return std::unexpected(Error("ERR_SNAPSHOT_WRITE", "the machine's state is too large"));
    }
    report.state_bytes = state.size();
    return report;
  };
  Result<SnapshotReport> saved = save();
  if (pending.resume) {
    Result<> running = RunVcpus();
    if (!running.has_value()) saved = std::unexpected(std::move(running).error());
  }
  if (!saved.has_value()) return FinishSnapshot(std::move(saved));
  saved->pause_ns = MonotonicNs() - pending.pause_began_ns;

  auto thread =
      Thread::Start("ember-snapshot", [this, &pending, report = *saved, state = std::move(state)] {
        Result<SnapshotReport> result = report;
        if (auto committed = pending.writer.Commit(state); !committed.has_value()) {
          result = std::unexpected(std::move(committed).error());
        }
        loop_.Post([this, result = std::move(result)]() mutable {
          snapshot_thread_.Join();
          FinishSnapshot(std::move(result));
        });
      });
  if (!thread.has_value()) return FinishSnapshot(std::unexpected(std::move(thread).error()));
  snapshot_thread_ = std::move(thread).value();
}

void MachineCore::FinishSnapshot(Result<SnapshotReport> result) {
  Completion<SnapshotReport> done = std::move(snapshot_->done);
  // Before the answer: whoever gets it may take the next one.
  snapshot_.reset();
  done(std::move(result));
}

Result<Snapshot> MachineCore::SaveState() {
  Snapshot snapshot;
  EMBERVM_TRY_ASSIGN(const CpuidTable supported, kvm_->SupportedCpuid());
  snapshot.cpu = CpuFeatures::OfHost(supported, DetectHostKind());
  snapshot.config = config_;
  if (const auto balloon = devices_->Balloon()) {
    snapshot.config.balloon->actual_pages = balloon->actual_pages;
  }
  if (const auto pluggable = devices_->PluggableMemory()) {
    snapshot.config.pluggable->requested_bytes = pluggable->requested_bytes;
    snapshot.config.pluggable->plugged = devices_->PluggedMemory();
  }
  snapshot.drive_sizes = devices_->DriveSizes();
  EMBERVM_TRY_ASSIGN(snapshot.devices, devices_->Save());
  StateWriter ports;
  ports_->Save(ports);
  snapshot.ports = ports.Take();

  EMBERVM_TRY_ASSIGN(const std::vector<std::uint32_t> msrs, kvm_->MsrIndexList());
  for (const auto& vcpu : vcpus_) {
    EMBERVM_TRY_ASSIGN(const VcpuState state, SaveVcpu(vcpu->vcpu(), *vm_, msrs));
    StateWriter writer;
    state.Write(writer);
    snapshot.vcpus.push_back(writer.Take());
  }
  EMBERVM_TRY_ASSIGN(const VmState vm, SaveVm(*vm_));
  StateWriter writer;
  vm.Write(writer);
  snapshot.vm = writer.Take();
  return snapshot;
}

std::vector<GuestMemory::Extent> MachineCore::PresentMemory() const {
  const std::uint64_t boot_bytes = memory_->boot_size();
  std::vector<GuestMemory::Extent> present{{.offset = 0, .length = boot_bytes}};
  for (const GuestMemory::Extent& plugged : devices_->PluggedMemory()) {
    present.push_back({.offset = boot_bytes + plugged.offset, .length = plugged.length});
  }
  return present;
}

Result<SnapshotReport> MachineCore::SaveMemory(SnapshotKind kind, SnapshotWriter& writer,
                                               Snapshot& snapshot) {
  // Layers are mapped one over the other when they are restored: few, or it takes long.
  constexpr std::size_t kMaxSharedLayers = 16;
  const std::vector<GuestMemory::Layer>& layers = memory_->layers();
  bool diff = kind == SnapshotKind::kDiff && !layers.empty() && layers.size() < kMaxSharedLayers;
  for (std::size_t index = 0; diff && index < layers.size(); ++index) {
    diff = writer.Adopt(memory_layers_.at(index).name, layers[index].file.get());
  }
  const std::vector<GuestMemory::Extent> present = PresentMemory();
  EMBERVM_TRY_ASSIGN(
      MemoryFileReport file,
      diff ? WriteChangedMemory(*memory_, present, writer.memory_fd(), cancel_snapshot_)
           : WriteWholeMemory(*memory_, present, writer.memory_fd(), cancel_snapshot_));
  if (diff) snapshot.memory = memory_layers_;
  // A diff without extents would be read as whole: nothing changed, nothing to add.
  if (!diff || !file.extents.empty()) {
    snapshot.memory.push_back({.name = writer.memory_name(), .extents = std::move(file.extents)});
  }
  return SnapshotReport{.kind = diff ? SnapshotKind::kDiff : SnapshotKind::kFull,
                        .pause_ns = 0,
                        .memory_bytes = file.data_bytes,
                        .state_bytes = 0};
}

namespace {

// What is created is bounded by the configuration's own checks; a snapshot says itself how much
// memory it has, and only the kernel's out-of-memory killer would object when it is used.
Result<> RequireHostMemory(std::uint64_t memory_mib) {
  const std::uint64_t host_mib = HostMemoryMib();
  if (memory_mib <= host_mib) return {};
  return std::unexpected(Error("ERR_SNAPSHOT_HOST",
                               "the snapshot's machine has " + std::to_string(memory_mib) +
                                   " MiB of memory, and this host has " + std::to_string(host_mib))
                             .With("memoryMib", static_cast<std::int64_t>(memory_mib))
                             .With("hostMemoryMib", static_cast<std::int64_t>(host_mib)));
}

// Both are bounded by the decoder.
std::uint64_t MaxMemoryMib(const MachineConfig& config) {
  const std::uint64_t pluggable = config.pluggable.has_value() ? config.pluggable->max_bytes : 0;
  return config.memory_mib + pluggable / layout::kMiB;
}

}  // namespace

Result<> MachineCore::Restore(const RestoreConfig& restore) {
  EMBERVM_TRY_ASSIGN(OpenedSnapshot opened, OpenSnapshot(restore.directory));
  EMBERVM_TRY(RequireHostMemory(MaxMemoryMib(opened.snapshot.config)));
  EMBERVM_TRY(Configure(opened.snapshot, restore));
  EMBERVM_TRY_ASSIGN(kvm_, Kvm::Open());
  EMBERVM_TRY_ASSIGN(GuestMemory memory,
                     GuestMemory::FromFiles(config_.memory_mib * layout::kMiB,
                                            std::move(opened.memory), PluggableBytes()));
  if (config_.pluggable.has_value() &&
      !devices::mem::IsBlockList(config_.pluggable->plugged, PluggableBytes(),
                                 devices::mem::kBlockBytes)) {
    return std::unexpected(InvalidState("it has memory where none can be"));
  }
  memory_layers_ = opened.snapshot.memory;
  EMBERVM_TRY(BuildVm(std::move(memory)));
  const HostKind host_kind = DetectHostKind();
  EMBERVM_TRY_ASSIGN(std::vector<RestoredVcpu> vcpus,
                     CreateVcpusWhileMemoryIsSet(opened.snapshot, host_kind));
  EMBERVM_TRY(BuildDevices(host_kind));
  EMBERVM_TRY(RestoreState(opened.snapshot, std::move(vcpus), host_kind));
  state_.store(MachineState::kPaused);
  return {};
}

// KVM lets a grace period pass before it uses a memory slot: most of the time that a restore takes,
// and none of it work. Whatever does not look into the guest's memory is done meanwhile.
Result<std::vector<MachineCore::RestoredVcpu>> MachineCore::CreateVcpusWhileMemoryIsSet(
    const Snapshot& snapshot, HostKind host_kind) {
  Result<> set;
  EMBERVM_TRY_ASSIGN(Thread setter,
                     Thread::Start("ember-memory", [&] { set = vm_->SetMemory(*memory_); }));
  EMBERVM_TRY(BuildConsole());
  EMBERVM_TRY_ASSIGN(const CpuidTable supported, kvm_->SupportedCpuid());
  EMBERVM_TRY(snapshot.cpu.RequireFrom(CpuFeatures::OfHost(supported, host_kind)));
  std::vector<RestoredVcpu> vcpus;
  for (std::uint32_t index = 0; index < config_.vcpus; ++index) {
    StateReader reader(snapshot.vcpus.at(index));
    EMBERVM_TRY_ASSIGN(VcpuState state, VcpuState::Read(reader));
    if (!reader.Done()) return std::unexpected(InvalidState("a vCPU's state is too long"));
    EMBERVM_TRY_ASSIGN(KvmVcpu vcpu, vm_->CreateVcpu(index));
    vcpus.push_back({.vcpu = std::move(vcpu), .state = std::move(state)});
  }
  setter.Join();
  EMBERVM_TRY(std::move(set));
  return vcpus;
}

Result<> MachineCore::Configure(const Snapshot& snapshot, const RestoreConfig& restore) {
  config_ = snapshot.config;
  for (const RestoreConfig::Drive& change : restore.drives) {
    DriveConfig* const drive = FindDrive(change.id);
    if (drive == nullptr) {
      return std::unexpected(
          Error("ERR_SNAPSHOT_MISMATCH", "the snapshot's machine has no drive " + change.id)
              .With("drive", change.id));
    }
    if (change.read_only.value_or(drive->read_only) != drive->read_only) {
      return std::unexpected(Error("ERR_SNAPSHOT_MISMATCH",
                                   "the snapshot's machine " +
                                       std::string(drive->read_only ? "only reads" : "writes to") +
                                       " the drive " + change.id)
                                 .With("drive", change.id));
    }
    drive->path = change.path;
  }
  // All of the given ones are there: as many means no others, whatever ids repeat.
  const std::size_t drives = config_.drives.size() + config_.plugged.size();
  if (restore.only_these_drives && drives != restore.drives.size()) {
    return std::unexpected(
        Error("ERR_SNAPSHOT_MISMATCH", "the snapshot's machine has other drives than expected")
            .With("drives", static_cast<std::int64_t>(drives)));
  }
  if (restore.vsock_cid.has_value()) {
    if (!config_.vsock_cid.has_value()) {
      return std::unexpected(
          Error("ERR_SNAPSHOT_MISMATCH", "the snapshot's machine has no vsock device"));
    }
    config_.vsock_cid = restore.vsock_cid;
  }
  if (restore.console_bytes.has_value()) config_.console_bytes = *restore.console_bytes;
  return {};
}

Result<> MachineCore::RestoreState(const Snapshot& snapshot, std::vector<RestoredVcpu> vcpus,
                                   HostKind host_kind) {
  const std::vector<std::uint64_t> sizes = devices_->DriveSizes();
  for (std::size_t index = 0; index < sizes.size(); ++index) {
    if (sizes[index] == snapshot.drive_sizes.at(index)) continue;
    const std::size_t boot_drives = config_.drives.size();
    const DriveConfig& drive =
        index < boot_drives ? config_.drives[index] : config_.plugged.at(index - boot_drives).drive;
    return std::unexpected(
        Error("ERR_SNAPSHOT_MISMATCH",
              "drive " + drive.id + " has another size than when the snapshot was taken")
            .With("drive", drive.id)
            .With("path", drive.path)
            .With("bytes", static_cast<std::int64_t>(sizes[index]))
            .With("expectedBytes", static_cast<std::int64_t>(snapshot.drive_sizes[index])));
  }
  for (RestoredVcpu& restored : vcpus) {
    EMBERVM_TRY(RestoreVcpu(restored.vcpu, *vm_, restored.state));
    EMBERVM_TRY(AddVcpu(std::move(restored.vcpu)));
  }
  StateReader vm(snapshot.vm);
  EMBERVM_TRY_ASSIGN(const VmState state, VmState::Read(vm));
  if (!vm.Done()) return std::unexpected(InvalidState("the VM's state is too long"));
  EMBERVM_TRY(RestoreVm(*vm_, state, host_kind));

  StateReader ports(snapshot.ports);
  EMBERVM_TRY(ports_->Restore(ports));
  if (!ports.Done()) return std::unexpected(InvalidState("the ports' state is too long"));
  return devices_->Restore(snapshot.devices);
}

}  // namespace embervm::machine
