// Machine: one guest. It owns a device thread, on which everything but the
// vCPUs runs, and one thread per vCPU. Every public method may be called from
// any thread, returns at once, and answers through its callback on the device
// thread; nothing here ever blocks the caller, except Join().
#ifndef EMBERVM_MACHINE_MACHINE_H_
#define EMBERVM_MACHINE_MACHINE_H_

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "base/event_loop.h"
#include "base/result.h"
#include "base/thread.h"
#include "base/unique_fd.h"
#include "devices/balloon/device.h"
#include "machine/config.h"
#include "machine/observer.h"
#include "machine/stats.h"

namespace embervm::machine {

class MachineCore;

enum class MachineState : std::uint8_t { kCreated, kRunning, kPaused, kStopped, kCrashed, kClosed };

class Machine {
 public:
  using Callback = std::move_only_function<void(Result<>)>;
  using SnapshotCallback = std::move_only_function<void(Result<SnapshotReport>)>;
  using PluggedCallback = std::move_only_function<void(Result<PluggedDevice>)>;
  using AddressesCallback = std::move_only_function<void(Result<std::vector<std::uint64_t>>)>;
  using SizeCallback = std::move_only_function<void(Result<std::uint64_t>)>;
  using StatisticsCallback = std::move_only_function<void(Result<devices::BalloonStatistics>)>;
  using StreamCallback = std::move_only_function<void(Result<UniqueFd>)>;

  // Starts the device thread and builds the guest on it. `observer` outlives
  // the machine. When `created` gets an error, the machine is closed already
  // and only waits for Join().
  static Result<std::unique_ptr<Machine>> Create(MachineConfig config, MachineObserver& observer,
                                                 Callback created);
  // The same from a snapshot; the machine is paused then.
  static Result<std::unique_ptr<Machine>> Restore(RestoreConfig config, MachineObserver& observer,
                                                  Callback created);
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;
  // Closes and joins.
  ~Machine();

  void Start(Callback done);
  void Pause(Callback done);
  void Resume(Callback done);
  // Stops the vCPUs for good; OnExit follows with kKilled. Idempotent.
  void Kill(Callback done);
  // Puts a drive into a free hotplug slot, where the guest can bind a driver to it.
  // ERR_NO_FREE_SLOT, ERR_DEVICE_EXISTS, ERR_DRIVE_….
  void AttachDrive(DriveConfig drive, PluggedCallback done);
  // The same with a directory of the host, by its tag. ERR_SHARED_DIR_….
  void AttachSharedDir(devices::FsOptions directory, PluggedCallback done);
  // Takes it out again; its file is closed then. ERR_DEVICE_NOT_FOUND, and
  // ERR_DEVICE_IN_USE until the guest has unbound its driver.
  void Detach(std::string id, Callback done);
  // Another file, of any size, for a drive, between two of the guest's requests; the answer is its
  // size in bytes. ERR_DEVICE_NOT_FOUND, ERR_DRIVE_…, after which it has the file that it had.
  void SwapDrive(std::string id, std::string path, SizeCallback done);
  // Tells the guest how large the drive's file has become.
  void ResizeDrive(std::string id, SizeCallback done);
  // How much of the guest's memory the balloon should take; the guest gets there by itself.
  // ERR_INVALID_CONFIG for more than there is, ERR_UNSUPPORTED without a balloon.
  void SetBalloon(std::uint64_t target_bytes, Callback done);
  // How much memory the guest should have, with what it booted with; the answer is what it has when
  // it got there, or has come no further for `patience`. ERR_INVALID_CONFIG for what it cannot
  // have, ERR_UNSUPPORTED without pluggable memory, ERR_GUEST_NO_DRIVER.
  void ResizeMemory(std::uint64_t bytes, std::chrono::milliseconds patience, SizeCallback done);
  // What the guest says of its memory. ERR_GUEST_NO_DRIVER.
  void RequestBalloonStatistics(StatisticsCallback done);
  // Of a running or paused machine, which it leaves in that state. The guest stands
  // still while its state is copied, not while the disk takes it.
  void Snapshot(SnapshotRequest request, SnapshotCallback done);
  // Where each vCPU of a paused machine is: its RIP.
  void InstructionPointers(AddressesCallback done);
  void ConnectVsock(std::uint32_t port, StreamCallback done);
  void ListenVsock(std::uint32_t port);
  void UnlistenVsock(std::uint32_t port);
  // Kills, frees everything; `closed` is the last thing that the device thread
  // does. No observer call follows. Later calls answer ERR_MACHINE_CLOSED.
  void Close(std::move_only_function<void()> closed);
  // Waits for the device thread, which must have been told to close.
  void Join();

  [[nodiscard]] MachineState state() const;
  [[nodiscard]] MachineStats Stats() const;
  // What counts the bytes of guest memory that are resident on the host. It takes
  // milliseconds for each GiB, may be called on any thread, outlives the machine, and finds
  // nothing after Close().
  [[nodiscard]] std::function<std::optional<std::uint64_t>()> ResidentCounter() const;
  // The last `max_bytes` of what the guest printed; also after Close().
  [[nodiscard]] std::vector<std::byte> ConsoleTail(std::size_t max_bytes) const;

 private:
  using Builder = std::move_only_function<Result<>(MachineCore& core)>;

  explicit Machine(std::unique_ptr<EventLoop> loop);
  static Result<std::unique_ptr<Machine>> Launch(Builder build, MachineObserver& observer,
                                                 Callback created);

  // Runs `task` with the core on the device thread, or answers with an error
  // when the machine is closed.
  template <class Done, class Task>
  void Dispatch(Done done, Task task);

  std::unique_ptr<EventLoop> loop_;
  std::shared_ptr<MachineCore> core_;
  std::atomic<bool> closing_{false};
  Thread thread_;
};

}  // namespace embervm::machine

#endif  // EMBERVM_MACHINE_MACHINE_H_
