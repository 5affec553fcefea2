#include "napi/event_relay.h"

#include <utility>

#include "napi/convert.h"

namespace embervm::napi {

EventRelay::EventRelay(Napi::Function on_events) : on_events_(Napi::Persistent(on_events)) {}

void EventRelay::Deliver(Napi::Env env) {
  if (batch_.empty() || on_events_.IsEmpty()) return;
  const auto events = Napi::Array::New(env, batch_.size());
  std::uint32_t index = 0;
  for (const Napi::ObjectReference& event : batch_) events.Set(index++, event.Value());
  batch_.clear();
  on_events_.Call({events});
}

void EventRelay::Close() {
  batch_.clear();
  on_events_.Reset();
}

void EventRelay::Emit(const char* type, Fill fill) {
  const std::shared_ptr<JsQueue> queue = queue_.lock();
  if (queue == nullptr) return;
  queue->Post([this, type, fill = std::move(fill)](Napi::Env env) mutable {
    const auto event = Napi::Object::New(env);
    event.Set("type", type);
    fill(event);
    batch_.push_back(Napi::Persistent(event));
  });
}

void EventRelay::OnVsockConnection(std::uint32_t port, std::uint32_t guest_port, UniqueFd stream) {
  Emit("vsock-connection",
       [port, guest_port, stream = std::move(stream)](Napi::Object event) mutable {
         event.Set("port", port);
         event.Set("guestPort", guest_port);
         event.Set("fd", stream.Release());
       });
}

void EventRelay::OnExit(machine::ExitInfo info) {
  Emit("exit", [info = std::move(info)](Napi::Object event) {
    event.Set("reason", std::string(ToString(info.reason)));
    event.Set("message", info.message);
    event.Set("context", ToJs(event.Env(), info.context));
  });
}

void EventRelay::OnDeviceError(std::string device, std::string message) {
  Emit("device-error",
       [device = std::move(device), message = std::move(message)](Napi::Object event) {
         event.Set("device", device);
         event.Set("message", message);
       });
}

void EventRelay::OnConsoleOverflow(std::uint64_t dropped_bytes) {
  Emit("console-overflow", [dropped_bytes](Napi::Object event) {
    event.Set("droppedBytes", static_cast<double>(dropped_bytes));
  });
}

}  // namespace embervm::napi
