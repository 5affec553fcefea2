// EventRelay: turns what a machine observes into batches of NativeEvent for
// one JS callback.
#ifndef EMBERVM_NAPI_EVENT_RELAY_H_
#define EMBERVM_NAPI_EVENT_RELAY_H_

#include <napi.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "machine/observer.h"
#include "napi/js_queue.h"

namespace embervm::napi {

class EventRelay final : public machine::MachineObserver {
 public:
  explicit EventRelay(Napi::Function on_events);

  // JS thread, before the machine is created.
  void SetQueue(std::weak_ptr<JsQueue> queue) { queue_ = std::move(queue); }
  // JS thread: calls back with what has gathered, if anything.
  void Deliver(Napi::Env env);
  // JS thread: lets go of the callback, which may well reach the object that owns this relay.
  void Close();

  void OnVsockConnection(std::uint32_t port, std::uint32_t guest_port, UniqueFd stream) override;
  void OnExit(machine::ExitInfo info) override;
  void OnDeviceError(std::string device, std::string message) override;
  void OnConsoleOverflow(std::uint64_t dropped_bytes) override;

 private:
  using Fill = std::move_only_function<void(Napi::Object)>;
  void Emit(const char* type, Fill fill);

  Napi::FunctionReference on_events_;
  std::weak_ptr<JsQueue> queue_;
  // JS thread only: the events of the batch under way.
  std::vector<Napi::ObjectReference> batch_;
};

}  // namespace embervm::napi

#endif  // EMBERVM_NAPI_EVENT_RELAY_H_
