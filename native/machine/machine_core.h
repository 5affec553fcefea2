// MachineCore: the parts of one guest and its state machine. Everything runs on
// the device thread, except what VcpuHost and the counters say.
//
//   created -> running <-> paused -> stopped | crashed -> closed
#ifndef EMBERVM_MACHINE_MACHINE_CORE_H_
#define EMBERVM_MACHINE_MACHINE_CORE_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/mapping.h"
#include "base/result.h"
#include "base/thread.h"
#include "devices/console/ring.h"
#include "kvm/fixups/fixups.h"
#include "kvm/host_kind.h"
#include "kvm/kvm.h"
#include "kvm/state.h"
#include "kvm/vm.h"
#include "machine/completion.h"
#include "machine/config.h"
#include "machine/device_set.h"
#include "machine/machine.h"
#include "machine/observer.h"
#include "machine/port_io.h"
#include "machine/snapshot.h"
#include "machine/snapshot_store.h"
#include "machine/stats.h"
#include "machine/vcpu_thread.h"
#include "memory/guest_memory.h"

namespace embervm::machine {

class MachineCore final : public VcpuHost {
 public:
  // `created_ns`: when the caller asked for the machine (CLOCK_MONOTONIC).
  MachineCore(EventLoop& loop, MachineObserver& observer, std::int64_t created_ns);
  MachineCore(const MachineCore&) = delete;
  MachineCore& operator=(const MachineCore&) = delete;
  ~MachineCore() override;

  Result<> Build(MachineConfig config);
  // Instead of Build(): from a snapshot. The machine is paused then.
  Result<> Restore(const RestoreConfig& restore);
  void Start(Completion<> done);
  void Pause(Completion<> done);
  void Resume(Completion<> done);
  Result<std::vector<std::uint64_t>> InstructionPointers();
  void Kill(Completion<> done);
  // Of a machine that has not ended.
  void AttachDrive(DriveConfig drive, Completion<PluggedDevice> done);
  void AttachSharedDir(devices::FsOptions directory, Completion<PluggedDevice> done);
  void Detach(const std::string& id, Completion<> done);
  void SwapDrive(const std::string& id, const std::string& path, Completion<std::uint64_t> done);
  void ResizeDrive(const std::string& id, Completion<std::uint64_t> done);
  void SetBalloon(std::uint64_t target_bytes, Completion<> done);
  void RequestBalloonStatistics(Completion<devices::BalloonStatistics> done);
  void ResizeMemory(std::uint64_t bytes, std::chrono::milliseconds patience,
                    Completion<std::uint64_t> done);
  void TakeSnapshot(const SnapshotRequest& request, Completion<SnapshotReport> done);
  void ConnectVsock(std::uint32_t port, Completion<UniqueFd> done);
  void ListenVsock(std::uint32_t port);
  void UnlistenVsock(std::uint32_t port);

  // Ends the vCPUs without a word to the observer, then calls back.
  void Shut(std::move_only_function<void()> done);
  // Frees all but the console ring. After Shut(), or after a failed Build().
  void TearDown();

  // Any thread. A save of memory that is under way, or will be, gives up: the machine
  // is about to end.
  void CancelSnapshot() { cancel_snapshot_.store(true); }
  [[nodiscard]] MachineState state() const { return state_.load(); }
  [[nodiscard]] MachineStats Stats() const;
  // Takes milliseconds for each GiB. Nothing once the memory is freed, which waits for it.
  [[nodiscard]] std::optional<std::uint64_t> ResidentBytes() const;
  [[nodiscard]] std::vector<std::byte> ConsoleTail(std::size_t max_bytes) const;

  // VcpuHost, on the vCPUs' threads.
  std::optional<ExitInfo> ServeExit(KvmVcpu& vcpu, VcpuExit& exit) override;
  void VcpuPaused() override;
  void VcpuEnded(std::optional<ExitInfo> info) override;

 private:
  // Of the region that the configuration asks for.
  [[nodiscard]] std::uint64_t PluggableBytes() const;
  // What is not pluggable memory that the guest does not have.
  [[nodiscard]] std::vector<GuestMemory::Extent> PresentMemory() const;
  Result<> BuildConsole();
  Result<PluggedDevice> Plug(DriveConfig drive);
  Result<PluggedDevice> Plug(devices::FsOptions directory);
  Result<std::uint32_t> FreeSlot() const;
  Result<> Unplug(const std::string& id);
  // Without memory slots, which come next.
  Result<> BuildVm(GuestMemory memory);
  Result<> BuildDevices(HostKind host_kind);
  Result<> BuildVcpus(HostKind host_kind);
  Result<> AddVcpu(KvmVcpu vcpu);
  // Takes over the snapshot's configuration with the changes of `restore`.
  Result<> Configure(const Snapshot& snapshot, const RestoreConfig& restore);
  // In its place or in a hotplug slot; null when there is none.
  DriveConfig* FindDrive(const std::string& id);
  struct RestoredVcpu {
    KvmVcpu vcpu;
    VcpuState state;
  };
  Result<std::vector<RestoredVcpu>> CreateVcpusWhileMemoryIsSet(const Snapshot& snapshot,
                                                                HostKind host_kind);
  Result<> RestoreState(const Snapshot& snapshot, std::vector<RestoredVcpu> vcpus,
                        HostKind host_kind);
  Result<Snapshot> SaveState();
  // Chooses between full and diff, and writes the memory file.
  Result<SnapshotReport> SaveMemory(SnapshotKind kind, SnapshotWriter& writer, Snapshot& snapshot);
  void OnPausedForSnapshot(Result<> paused);
  // The vCPUs are paused: copies everything, and leaves the disk to a thread.
  void SaveNow();
  void FinishSnapshot(Result<SnapshotReport> result);
  // Starts those that never ran, and lets the others go on.
  Result<> RunVcpus();
  void MapRegistersSoon();
  std::optional<ExitInfo> ServeEmulationFailure(KvmVcpu& vcpu, const EmulationFailure& failure);
  void OnVcpuPaused();
  void OnVcpuEnded(std::optional<ExitInfo> info);
  void OnGuestPanic();
  // Begins the end: every vCPU is told to stop; FinishStop() when all have.
  void StopVcpus(ExitInfo info);
  void FinishStop();
  [[nodiscard]] bool HasEnded() const;
  // Answers with ERR_MACHINE_STATE, naming what was wanted and what is.
  void RefuseState(Completion<> done, const char* operation) const;
  [[nodiscard]] Error WrongState(const char* operation) const;

  EventLoop& loop_;
  MachineObserver& observer_;
  const std::int64_t created_ns_;
  std::atomic<MachineState> state_{MachineState::kCreated};

  // Guards the pieces below against Stats() of another thread while TearDown()
  // takes them apart; all else about them belongs to the device thread.
  mutable std::mutex pieces_mutex_;
  // The same between ResidentBytes() and the end of memory_: apart from the other, so that
  // nobody's counters wait for a walk over all of RAM.
  mutable std::mutex memory_mutex_;
  // Declared in the order of dependence: the last goes first.
  std::unique_ptr<devices::ConsoleRing> console_;
  std::optional<Kvm> kvm_;
  std::unique_ptr<GuestMemory> memory_;
  Mapping register_pages_;
  std::unique_ptr<KvmVm> vm_;
  std::unique_ptr<Fixups> fixups_;
  std::unique_ptr<DeviceSet> devices_;
  std::unique_ptr<PortIo> ports_;
  std::vector<std::unique_ptr<VcpuThread>> vcpus_;

  // Without the paths of kernel and initrd, which were only needed for Build().
  MachineConfig config_;
  // The names of memory_->layers().
  std::vector<MemoryLayer> memory_layers_;
  std::atomic<bool> cancel_snapshot_{false};
  struct PendingSnapshot {
    SnapshotKind kind;
    SnapshotWriter writer;
    Completion<SnapshotReport> done;
    // The guest was running and goes on afterwards.
    bool resume;
    std::int64_t pause_began_ns;
  };
  // From TakeSnapshot() to its answer.
  std::unique_ptr<PendingSnapshot> snapshot_;
  Thread snapshot_thread_;
  // Of MapRegistersSoon().
  Thread registers_thread_;
  bool registers_mapped_ = false;

  std::size_t running_vcpus_ = 0;
  std::size_t paused_vcpus_ = 0;
  std::optional<ExitInfo> ending_;
  bool silent_ = false;
  EventLoop::TimerId panic_timer_ = 0;
  std::optional<Completion<>> pausing_;
  std::vector<Completion<>> killing_;
  std::vector<std::move_only_function<void()>> shutting_;
};

}  // namespace embervm::machine

#endif  // EMBERVM_MACHINE_MACHINE_CORE_H_
