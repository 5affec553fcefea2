// NativeMachine: the wrapped object of lib/native/types.ts over one Machine.
#ifndef EMBERVM_NAPI_MACHINE_WRAP_H_
#define EMBERVM_NAPI_MACHINE_WRAP_H_

#include <napi.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "machine/machine.h"
#include "napi/event_relay.h"
#include "napi/js_queue.h"

namespace embervm::napi {

class MachineWrap : public Napi::ObjectWrap<MachineWrap> {
 public:
  static Napi::Function DefineClass(Napi::Env env);
  // createMachine(config, onEvents): Promise<NativeMachine>
  static Napi::Value CreateMachine(const Napi::CallbackInfo& info);
  // restoreMachine(config, onEvents): Promise<NativeMachine>
  static Napi::Value RestoreMachine(const Napi::CallbackInfo& info);

  // Only CreateMachine constructs: a call from JS throws.
  explicit MachineWrap(const Napi::CallbackInfo& info);
  ~MachineWrap() override;

 private:
  Napi::Value GetState(const Napi::CallbackInfo& info);
  Napi::Value Start(const Napi::CallbackInfo& info);
  Napi::Value Pause(const Napi::CallbackInfo& info);
  Napi::Value Resume(const Napi::CallbackInfo& info);
  Napi::Value InstructionPointers(const Napi::CallbackInfo& info);
  Napi::Value Kill(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);
  Napi::Value AttachDrive(const Napi::CallbackInfo& info);
  Napi::Value AttachSharedDir(const Napi::CallbackInfo& info);
  Napi::Value SwapDrive(const Napi::CallbackInfo& info);
  Napi::Value ResizeDrive(const Napi::CallbackInfo& info);
  Napi::Value SetBalloon(const Napi::CallbackInfo& info);
  Napi::Value ResizeMemory(const Napi::CallbackInfo& info);
  Napi::Value BalloonStatistics(const Napi::CallbackInfo& info);
  Napi::Value Detach(const Napi::CallbackInfo& info);
  Napi::Value Snapshot(const Napi::CallbackInfo& info);
  Napi::Value ConnectVsock(const Napi::CallbackInfo& info);
  void ListenVsock(const Napi::CallbackInfo& info);
  void UnlistenVsock(const Napi::CallbackInfo& info);
  Napi::Value ConsoleTail(const Napi::CallbackInfo& info);
  Napi::Value Stats(const Napi::CallbackInfo& info);
  Napi::Value ResidentBytes(const Napi::CallbackInfo& info);
  void Reference(const Napi::CallbackInfo& info);
  void Unreference(const Napi::CallbackInfo& info);

  // Makes the wrapped object around the machine that `maker` makes.
  using Maker = std::move_only_function<Result<std::unique_ptr<machine::Machine>>(
      machine::MachineObserver& observer, machine::Machine::Callback created)>;
  static Napi::Value Launch(const Napi::CallbackInfo& info, Maker maker);

  // Runs one operation of the machine as a promise of what it answers, as ToJs() shows that;
  // of undefined where the answer is void.
  template <class Answer, class Ask>
  Napi::Value RunFor(Napi::Env env, Ask ask);
  // Recomputes whether the machine alone keeps the event loop alive.
  void UpdateHold(Napi::Env env);
  void FinishClose(Napi::Env env);
  static void CloseAtExit(void* wrap);

  std::shared_ptr<JsQueue> queue_;
  std::unique_ptr<EventRelay> relay_;
  std::unique_ptr<machine::Machine> machine_;
  std::vector<Napi::Promise::Deferred> closers_;
  napi_env env_ = nullptr;
  bool cleanup_hooked_ = false;
  // The caller's ref()/unref(); the hold itself is on the queue.
  bool referenced_ = true;
  bool holding_ = false;
};

}  // namespace embervm::napi

#endif  // EMBERVM_NAPI_MACHINE_WRAP_H_
