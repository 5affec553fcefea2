#include "napi/machine_wrap.h"

#include <limits>
#include <string>
#include <type_traits>
#include <utility>

#include "napi/addon_data.h"
#include "napi/convert.h"
#include "napi/resident_worker.h"

namespace embervm::napi {

namespace {

Napi::Promise Rejected(Napi::Env env, const Error& error) {
  const auto deferred = Napi::Promise::Deferred::New(env);
  deferred.Reject(ToJs(env, error));
  return deferred.Promise();
}

}  // namespace

Napi::Function MachineWrap::DefineClass(Napi::Env env) {
  return ObjectWrap::DefineClass(
      env, "NativeMachine",
      {
          InstanceAccessor<&MachineWrap::GetState>("state"),
          InstanceMethod<&MachineWrap::Start>("start"),
          InstanceMethod<&MachineWrap::Pause>("pause"),
          InstanceMethod<&MachineWrap::Resume>("resume"),
          InstanceMethod<&MachineWrap::InstructionPointers>("instructionPointers"),
          InstanceMethod<&MachineWrap::Kill>("kill"),
          InstanceMethod<&MachineWrap::Close>("close"),
          InstanceMethod<&MachineWrap::AttachDrive>("attachDrive"),
          InstanceMethod<&MachineWrap::AttachSharedDir>("attachSharedDir"),
          InstanceMethod<&MachineWrap::Detach>("detach"),
          InstanceMethod<&MachineWrap::SwapDrive>("swapDrive"),
          InstanceMethod<&MachineWrap::ResizeDrive>("resizeDrive"),
          InstanceMethod<&MachineWrap::SetBalloon>("setBalloon"),
          InstanceMethod<&MachineWrap::ResizeMemory>("resizeMemory"),
          InstanceMethod<&MachineWrap::BalloonStatistics>("balloonStatistics"),
          InstanceMethod<&MachineWrap::Snapshot>("snapshot"),
          InstanceMethod<&MachineWrap::ConnectVsock>("connectVsock"),
          InstanceMethod<&MachineWrap::ListenVsock>("listenVsock"),
          InstanceMethod<&MachineWrap::UnlistenVsock>("unlistenVsock"),
          InstanceMethod<&MachineWrap::ConsoleTail>("consoleTail"),
          InstanceMethod<&MachineWrap::Stats>("stats"),
          InstanceMethod<&MachineWrap::ResidentBytes>("residentBytes"),
          InstanceMethod<&MachineWrap::Reference>("ref"),
          InstanceMethod<&MachineWrap::Unreference>("unref"),
      });
}

MachineWrap::MachineWrap(const Napi::CallbackInfo& info) : ObjectWrap(info), env_(info.Env()) {
  auto* const data = info.Env().GetInstanceData<AddonData>();
  if (!std::exchange(data->constructing_machine, false)) {
    Throw(info.Env(), Error("ERR_INTERNAL", "NativeMachine is made by createMachine()"));
  }
}

MachineWrap::~MachineWrap() = default;

Napi::Value MachineWrap::CreateMachine(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (info.Length() < 2 || !info[1].IsFunction()) {
    return Rejected(env, Error("ERR_INTERNAL", "createMachine(config, onEvents)"));
  }
  auto config = MachineConfigFromJs(info[0]);
  if (!config.has_value()) return Rejected(env, config.error());
  return Launch(info,
                [config = std::move(config).value()](machine::MachineObserver& observer,
                                                     machine::Machine::Callback created) mutable {
                  return machine::Machine::Create(std::move(config), observer, std::move(created));
                });
}

Napi::Value MachineWrap::RestoreMachine(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (info.Length() < 2 || !info[1].IsFunction()) {
    return Rejected(env, Error("ERR_INTERNAL", "restoreMachine(config, onEvents)"));
  }
  auto config = RestoreConfigFromJs(info[0]);
  if (!config.has_value()) return Rejected(env, config.error());
  return Launch(info,
                [config = std::move(config).value()](machine::MachineObserver& observer,
                                                     machine::Machine::Callback created) mutable {
                  return machine::Machine::Restore(std::move(config), observer, std::move(created));
                });
}

Napi::Value MachineWrap::Launch(const Napi::CallbackInfo& info, Maker maker) {
  const Napi::Env env = info.Env();
  auto* const data = env.GetInstanceData<AddonData>();
  data->constructing_machine = true;
  const Napi::Object object = data->machine_class.New({});
  data->constructing_machine = false;
  MachineWrap* const wrap = Unwrap(object);
  wrap->relay_ = std::make_unique<EventRelay>(info[1].As<Napi::Function>());
  wrap->queue_ = JsQueue::Create(env, [wrap](Napi::Env batch_env) {
    wrap->relay_->Deliver(batch_env);
    wrap->UpdateHold(batch_env);
  });
  if (wrap->queue_ == nullptr) {
    return Rejected(env, Error("ERR_RESOURCE_LIMIT", "no thread-safe function could be made"));
  }
  wrap->relay_->SetQueue(wrap->queue_);

  const auto deferred = Napi::Promise::Deferred::New(env);
  auto created =
      maker(*wrap->relay_, [wrap, queue = wrap->queue_, deferred](Result<> result) mutable {
        queue->Post([wrap, deferred, result = std::move(result)](Napi::Env job_env) {
          wrap->queue_->Unhold(job_env);
          if (result.has_value()) {
            deferred.Resolve(wrap->Value());
          } else {
            deferred.Reject(ToJs(job_env, result.error()));
            wrap->FinishClose(job_env);
          }
        });
      });
  if (!created.has_value()) {
    wrap->queue_->Close();
    return Rejected(env, created.error());
  }
  wrap->machine_ = std::move(created).value();
  // From here until FinishClose the machine's threads know this object.
  wrap->Ref();
  wrap->queue_->Hold(env);
  // After the thread-safe function was made: hooks run in reverse order, and
  // the threads must be gone before their way to JS is.
  napi_add_env_cleanup_hook(env, &MachineWrap::CloseAtExit, wrap);
  wrap->cleanup_hooked_ = true;
  return deferred.Promise();
}

void MachineWrap::CloseAtExit(void* wrap) {
  auto* const self = static_cast<MachineWrap*>(wrap);
  self->cleanup_hooked_ = false;
  self->machine_.reset();
}

template <class Answer, class Ask>
Napi::Value MachineWrap::RunFor(Napi::Env env, Ask ask) {
  if (machine_ == nullptr) return Rejected(env, MachineClosed());
  const auto deferred = Napi::Promise::Deferred::New(env);
  queue_->Hold(env);
  ask(*machine_, [this, queue = queue_, deferred](Result<Answer> answer) {
    queue->Post([this, deferred, answer = std::move(answer)](Napi::Env job_env) mutable {
      queue_->Unhold(job_env);
      if (!answer.has_value()) {
        deferred.Reject(ToJs(job_env, answer.error()));
      } else if constexpr (std::is_void_v<Answer>) {
        deferred.Resolve(job_env.Undefined());
      } else {
        deferred.Resolve(ToJs(job_env, *std::move(answer)));
      }
    });
  });
  return deferred.Promise();
}

Napi::Value MachineWrap::GetState(const Napi::CallbackInfo& info) {
  const auto state = machine_ == nullptr ? machine::MachineState::kClosed : machine_->state();
  return Napi::String::New(info.Env(), std::string(ToString(state)));
}

Napi::Value MachineWrap::Start(const Napi::CallbackInfo& info) {
  return RunFor<void>(info.Env(), [](machine::Machine& machine, machine::Machine::Callback done) {
    machine.Start(std::move(done));
  });
}

Napi::Value MachineWrap::Pause(const Napi::CallbackInfo& info) {
  return RunFor<void>(info.Env(), [](machine::Machine& machine, machine::Machine::Callback done) {
    machine.Pause(std::move(done));
  });
}

Napi::Value MachineWrap::Resume(const Napi::CallbackInfo& info) {
  return RunFor<void>(info.Env(), [](machine::Machine& machine, machine::Machine::Callback done) {
    machine.Resume(std::move(done));
  });
}

Napi::Value MachineWrap::InstructionPointers(const Napi::CallbackInfo& info) {
  return RunFor<std::vector<std::uint64_t>>(
      info.Env(), [](machine::Machine& machine, machine::Machine::AddressesCallback done) {
        machine.InstructionPointers(std::move(done));
      });
}

Napi::Value MachineWrap::Kill(const Napi::CallbackInfo& info) {
  return RunFor<void>(info.Env(), [](machine::Machine& machine, machine::Machine::Callback done) {
    machine.Kill(std::move(done));
  });
}

Napi::Value MachineWrap::Close(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto deferred = Napi::Promise::Deferred::New(env);
  if (machine_ == nullptr) {
    deferred.Resolve(env.Undefined());
    return deferred.Promise();
  }
  closers_.push_back(deferred);
  if (closers_.size() > 1) return deferred.Promise();
  queue_->Hold(env);
  machine_->Close([this, queue = queue_] {
    queue->Post([this](Napi::Env job_env) {
      queue_->Unhold(job_env);
      FinishClose(job_env);
    });
  });
  return deferred.Promise();
}

void MachineWrap::FinishClose(Napi::Env env) {
  // The device thread has made its last call: joining it does not wait.
  machine_->Join();
  machine_.reset();
  if (std::exchange(cleanup_hooked_, false)) {
    napi_remove_env_cleanup_hook(env, &MachineWrap::CloseAtExit, this);
  }
  relay_->Deliver(env);
  relay_->Close();
  UpdateHold(env);
  queue_->Close();
  for (const Napi::Promise::Deferred& closer : closers_) closer.Resolve(env.Undefined());
  closers_.clear();
  Unref();
}

void MachineWrap::UpdateHold(Napi::Env env) {
  bool wanted = false;
  if (referenced_ && machine_ != nullptr) {
    const machine::MachineState state = machine_->state();
    wanted = state == machine::MachineState::kRunning || state == machine::MachineState::kPaused;
  }
  if (wanted == holding_) return;
  holding_ = wanted;
  if (wanted) {
    queue_->Hold(env);
  } else {
    queue_->Unhold(env);
  }
}

Napi::Value MachineWrap::AttachDrive(const Napi::CallbackInfo& info) {
  auto drive = DriveConfigFromJs(info[0]);
  if (!drive.has_value()) return Rejected(info.Env(), drive.error());
  return RunFor<machine::PluggedDevice>(
      info.Env(), [&](machine::Machine& machine, machine::Machine::PluggedCallback done) {
        machine.AttachDrive(std::move(drive).value(), std::move(done));
      });
}

Napi::Value MachineWrap::AttachSharedDir(const Napi::CallbackInfo& info) {
  auto directory = SharedDirFromJs(info[0]);
  if (!directory.has_value()) return Rejected(info.Env(), directory.error());
  return RunFor<machine::PluggedDevice>(
      info.Env(), [&](machine::Machine& machine, machine::Machine::PluggedCallback done) {
        machine.AttachSharedDir(std::move(directory).value(), std::move(done));
      });
}

Napi::Value MachineWrap::Detach(const Napi::CallbackInfo& info) {
  auto id = TextFromJs(info[0]);
  if (!id.has_value()) return Rejected(info.Env(), id.error());
  return RunFor<void>(info.Env(),
                      [&id](machine::Machine& machine, machine::Machine::Callback done) {
                        machine.Detach(std::move(id).value(), std::move(done));
                      });
}

Napi::Value MachineWrap::SwapDrive(const Napi::CallbackInfo& info) {
  auto id = TextFromJs(info[0]);
  if (!id.has_value()) return Rejected(info.Env(), id.error());
  auto path = TextFromJs(info[1]);
  if (!path.has_value()) return Rejected(info.Env(), path.error());
  return RunFor<std::uint64_t>(
      info.Env(), [&](machine::Machine& machine, machine::Machine::SizeCallback done) {
        machine.SwapDrive(std::move(id).value(), std::move(path).value(), std::move(done));
      });
}

Napi::Value MachineWrap::ResizeDrive(const Napi::CallbackInfo& info) {
  auto id = TextFromJs(info[0]);
  if (!id.has_value()) return Rejected(info.Env(), id.error());
  return RunFor<std::uint64_t>(info.Env(),
                               [&](machine::Machine& machine, machine::Machine::SizeCallback done) {
                                 machine.ResizeDrive(std::move(id).value(), std::move(done));
                               });
}

Napi::Value MachineWrap::SetBalloon(const Napi::CallbackInfo& info) {
  const auto bytes = BytesFromJs(info[0]);
  if (!bytes.has_value()) return Rejected(info.Env(), bytes.error());
  return RunFor<void>(info.Env(), [&](machine::Machine& machine, machine::Machine::Callback done) {
    machine.SetBalloon(*bytes, std::move(done));
  });
}

Napi::Value MachineWrap::ResizeMemory(const Napi::CallbackInfo& info) {
  const auto bytes = BytesFromJs(info[0]);
  if (!bytes.has_value()) return Rejected(info.Env(), bytes.error());
  const auto patience = MillisecondsFromJs(info[1]);
  if (!patience.has_value()) return Rejected(info.Env(), patience.error());
  return RunFor<std::uint64_t>(info.Env(),
                               [&](machine::Machine& machine, machine::Machine::SizeCallback done) {
                                 machine.ResizeMemory(*bytes, *patience, std::move(done));
                               });
}

Napi::Value MachineWrap::BalloonStatistics(const Napi::CallbackInfo& info) {
  return RunFor<devices::BalloonStatistics>(
      info.Env(), [](machine::Machine& machine, machine::Machine::StatisticsCallback done) {
        machine.RequestBalloonStatistics(std::move(done));
      });
}

Napi::Value MachineWrap::Snapshot(const Napi::CallbackInfo& info) {
  auto request = SnapshotRequestFromJs(info[0]);
  if (!request.has_value()) return Rejected(info.Env(), request.error());
  return RunFor<machine::SnapshotReport>(
      info.Env(), [&](machine::Machine& machine, machine::Machine::SnapshotCallback done) {
        machine.Snapshot(std::move(request).value(), std::move(done));
      });
}

Napi::Value MachineWrap::ConnectVsock(const Napi::CallbackInfo& info) {
  const auto port = PortFromJs(info[0]);
  if (!port.has_value()) return Rejected(info.Env(), port.error());
  return RunFor<UniqueFd>(info.Env(),
                          [&](machine::Machine& machine, machine::Machine::StreamCallback done) {
                            machine.ConnectVsock(*port, std::move(done));
                          });
}

void MachineWrap::ListenVsock(const Napi::CallbackInfo& info) {
  const auto port = PortFromJs(info[0]);
  if (!port.has_value()) return Throw(info.Env(), port.error());
  if (machine_ == nullptr) return Throw(info.Env(), MachineClosed());
  machine_->ListenVsock(*port);
}

void MachineWrap::UnlistenVsock(const Napi::CallbackInfo& info) {
  const auto port = PortFromJs(info[0]);
  if (!port.has_value()) return Throw(info.Env(), port.error());
  if (machine_ != nullptr) machine_->UnlistenVsock(*port);
}

Napi::Value MachineWrap::ConsoleTail(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const double wanted = info[0].IsNumber() ? info[0].As<Napi::Number>().DoubleValue() : 0;
  // Past 4 GiB, or NaN, everything is meant: the ring is smaller than that.
  constexpr std::size_t kAll = std::numeric_limits<std::uint32_t>::max();
  const std::size_t limit =
      wanted >= 0 && wanted < static_cast<double>(kAll) ? static_cast<std::size_t>(wanted) : kAll;
  const std::vector<std::byte> tail =
      machine_ == nullptr ? std::vector<std::byte>() : machine_->ConsoleTail(limit);
  return Napi::Buffer<std::byte>::Copy(env, tail.data(), tail.size());
}

Napi::Value MachineWrap::Stats(const Napi::CallbackInfo& info) {
  if (machine_ == nullptr) {
    Throw(info.Env(), MachineClosed());
    return {};
  }
  return ToJs(info.Env(), machine_->Stats());
}

Napi::Value MachineWrap::ResidentBytes(const Napi::CallbackInfo& info) {
  if (machine_ == nullptr) return Rejected(info.Env(), MachineClosed());
  return CountResidentBytes(info.Env(), machine_->ResidentCounter());
}

void MachineWrap::Reference(const Napi::CallbackInfo& info) {
  referenced_ = true;
  UpdateHold(info.Env());
}

void MachineWrap::Unreference(const Napi::CallbackInfo& info) {
  referenced_ = false;
  UpdateHold(info.Env());
}

}  // namespace embervm::napi
