#include "machine/machine.h"

#include <string>
#include <utility>

#include "base/clock.h"
#include "machine/completion.h"
#include "machine/machine_core.h"

namespace embervm::machine {

Result<std::unique_ptr<Machine>> Machine::Create(MachineConfig config, MachineObserver& observer,
                                                 Callback created) {
  return Launch([config = std::move(config)](
                    MachineCore& core) mutable { return core.Build(std::move(config)); },
                observer, std::move(created));
}

Result<std::unique_ptr<Machine>> Machine::Restore(RestoreConfig config, MachineObserver& observer,
                                                  Callback created) {
  return Launch([config = std::move(config)](MachineCore& core) { return core.Restore(config); },
                observer, std::move(created));
}

Result<std::unique_ptr<Machine>> Machine::Launch(Builder build, MachineObserver& observer,
                                                 Callback created) {
  const std::int64_t created_ns = MonotonicNs();
  EMBERVM_TRY_ASSIGN(std::unique_ptr<EventLoop> loop, EventLoop::Create());
  std::unique_ptr<Machine> machine(new Machine(std::move(loop)));
  machine->core_ = std::make_shared<MachineCore>(*machine->loop_, observer, created_ns);
  EMBERVM_TRY_ASSIGN(machine->thread_,
                     Thread::Start("ember-device", [self = machine.get(), build = std::move(build),
                                                    created = std::move(created)]() mutable {
                       Result<> built = build(*self->core_);
                       if (!built.has_value()) {
                         self->core_->TearDown();
                         self->closing_.store(true);
                         // What was asked meanwhile is still answered, by Run().
                         self->loop_->Stop();
                       }
                       created(std::move(built));
                       self->loop_->Run();
                     }));
  return machine;
}

Machine::Machine(std::unique_ptr<EventLoop> loop) : loop_(std::move(loop)) {}

Machine::~Machine() {
  Close([] {});
  Join();
}

template <class Done, class Task>
void Machine::Dispatch(Done done, Task task) {
  if (closing_.load()) return;  // `done` answers ERR_MACHINE_CLOSED as it goes.
  loop_->Post([core = core_, done = std::move(done), task = std::move(task)]() mutable {
    task(*core, std::move(done));
  });
}

void Machine::Start(Callback done) {
  Dispatch(Completion<>(std::move(done)),
           [](MachineCore& core, Completion<> owed) { core.Start(std::move(owed)); });
}

void Machine::Pause(Callback done) {
  Dispatch(Completion<>(std::move(done)),
           [](MachineCore& core, Completion<> owed) { core.Pause(std::move(owed)); });
}

void Machine::Resume(Callback done) {
  Dispatch(Completion<>(std::move(done)),
           [](MachineCore& core, Completion<> owed) { core.Resume(std::move(owed)); });
}

void Machine::Kill(Callback done) {
  core_->CancelSnapshot();
  Dispatch(Completion<>(std::move(done)),
           [](MachineCore& core, Completion<> owed) { core.Kill(std::move(owed)); });
}

void Machine::AttachDrive(DriveConfig drive, PluggedCallback done) {
  Dispatch(Completion<PluggedDevice>(std::move(done)),
           [drive = std::move(drive)](MachineCore& core, Completion<PluggedDevice> owed) mutable {
             core.AttachDrive(std::move(drive), std::move(owed));
           });
}

void Machine::AttachSharedDir(devices::FsOptions directory, PluggedCallback done) {
  Dispatch(Completion<PluggedDevice>(std::move(done)),
           [directory = std::move(directory)](MachineCore& core,
                                              Completion<PluggedDevice> owed) mutable {
             core.AttachSharedDir(std::move(directory), std::move(owed));
           });
}

void Machine::Detach(std::string id, Callback done) {
  Dispatch(Completion<>(std::move(done)),
           [id = std::move(id)](MachineCore& core, Completion<> owed) {
             core.Detach(id, std::move(owed));
           });
}

void Machine::SwapDrive(std::string id, std::string path, SizeCallback done) {
  using Size = Completion<std::uint64_t>;
  Dispatch(Size(std::move(done)),
           [id = std::move(id), path = std::move(path)](MachineCore& core, Size owed) {
             core.SwapDrive(id, path, std::move(owed));
           });
}

void Machine::ResizeDrive(std::string id, SizeCallback done) {
  using Size = Completion<std::uint64_t>;
  Dispatch(Size(std::move(done)), [id = std::move(id)](MachineCore& core, Size owed) {
    core.ResizeDrive(id, std::move(owed));
  });
}

void Machine::SetBalloon(std::uint64_t target_bytes, Callback done) {
  Dispatch(Completion<>(std::move(done)), [target_bytes](MachineCore& core, Completion<> owed) {
    core.SetBalloon(target_bytes, std::move(owed));
  });
}

void Machine::ResizeMemory(std::uint64_t bytes, std::chrono::milliseconds patience,
                           SizeCallback done) {
  using Size = Completion<std::uint64_t>;
  Dispatch(Size(std::move(done)), [bytes, patience](MachineCore& core, Size owed) {
    core.ResizeMemory(bytes, patience, std::move(owed));
  });
}

void Machine::RequestBalloonStatistics(StatisticsCallback done) {
  using Statistics = Completion<devices::BalloonStatistics>;
  Dispatch(Statistics(std::move(done)), [](MachineCore& core, Statistics owed) {
    core.RequestBalloonStatistics(std::move(owed));
  });
}

void Machine::Snapshot(SnapshotRequest request, SnapshotCallback done) {
  Dispatch(Completion<SnapshotReport>(std::move(done)),
           [request = std::move(request)](MachineCore& core, Completion<SnapshotReport> owed) {
             core.TakeSnapshot(request, std::move(owed));
           });
}

void Machine::InstructionPointers(AddressesCallback done) {
  using Addresses = Completion<std::vector<std::uint64_t>>;
  Dispatch(Addresses(std::move(done)),
           [](MachineCore& core, Addresses owed) { owed(core.InstructionPointers()); });
}

void Machine::ConnectVsock(std::uint32_t port, StreamCallback done) {
  Dispatch(Completion<UniqueFd>(std::move(done)),
           [port](MachineCore& core, Completion<UniqueFd> owed) {
             core.ConnectVsock(port, std::move(owed));
           });
}

void Machine::ListenVsock(std::uint32_t port) {
  Dispatch(0, [port](MachineCore& core, int) { core.ListenVsock(port); });
}

void Machine::UnlistenVsock(std::uint32_t port) {
  Dispatch(0, [port](MachineCore& core, int) { core.UnlistenVsock(port); });
}

void Machine::Close(std::move_only_function<void()> closed) {
  if (closing_.exchange(true)) return;
  core_->CancelSnapshot();
  loop_->Post([core = core_, loop = loop_.get(), closed = std::move(closed)]() mutable {
    core->Shut([core, loop, closed = std::move(closed)]() mutable {
      core->TearDown();
      loop->Stop();
      closed();
    });
  });
}

void Machine::Join() { thread_.Join(); }

MachineState Machine::state() const { return core_->state(); }

MachineStats Machine::Stats() const { return core_->Stats(); }

std::function<std::optional<std::uint64_t>()> Machine::ResidentCounter() const {
  return [core = core_] { return core->ResidentBytes(); };
}

std::vector<std::byte> Machine::ConsoleTail(std::size_t max_bytes) const {
  return core_->ConsoleTail(max_bytes);
}

}  // namespace embervm::machine
