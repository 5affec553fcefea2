#include "napi/pty_relay_wrap.h"

#include <fcntl.h>

#include <cerrno>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "napi/addon_data.h"
#include "napi/convert.h"

namespace embervm::napi {

namespace {

const char* ToString(pty::RelayEnd end) {
  switch (end) {
    case pty::RelayEnd::kStreamEnded:
      return "ended";
    case pty::RelayEnd::kDetached:
      return "detached";
    case pty::RelayEnd::kTerminalGone:
      return "gone";
    case pty::RelayEnd::kStopped:
      break;
  }
  return "stopped";
}

std::optional<int> FdFromJs(const Napi::Value& value) {
  if (!value.IsNumber()) return std::nullopt;
  const int fd = value.As<Napi::Number>().Int32Value();
  return fd >= 0 ? std::optional(fd) : std::nullopt;
}

Error Closed() { return Error("ERR_INTERNAL", "the terminal relay is closed, or has run"); }

}  // namespace

Napi::Function PtyRelayWrap::DefineClass(Napi::Env env) {
  return ObjectWrap::DefineClass(env, "NativeTerminalRelay",
                                 {
                                     InstanceMethod<&PtyRelayWrap::Size>("size"),
                                     InstanceMethod<&PtyRelayWrap::Run>("run"),
                                     InstanceMethod<&PtyRelayWrap::Stop>("stop"),
                                     InstanceMethod<&PtyRelayWrap::Close>("close"),
                                 });
}

PtyRelayWrap::PtyRelayWrap(const Napi::CallbackInfo& info) : ObjectWrap(info), env_(info.Env()) {
  auto* const data = info.Env().GetInstanceData<AddonData>();
  if (!std::exchange(data->constructing_relay, false)) {
    Throw(info.Env(),
          Error("ERR_INTERNAL", "NativeTerminalRelay is made by createTerminalRelay()"));
  }
}

PtyRelayWrap::~PtyRelayWrap() = default;

Napi::Value PtyRelayWrap::CreateRelay(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto options = info[0].IsObject() ? info[0].As<Napi::Object>() : Napi::Object::New(env);
  const auto input = FdFromJs(options.Get("input"));
  const auto output = FdFromJs(options.Get("output"));
  const auto stream = FdFromJs(options.Get("stream"));
  const Napi::Value keys = options.Get("detachKeys");
  if (!input.has_value() || !output.has_value() || !stream.has_value() || !keys.IsBuffer()) {
    Throw(env, Error("ERR_INTERNAL", "createTerminalRelay({ input, output, stream, detachKeys })"));
    return {};
  }
  auto terminal = pty::HostTerminal::Open(*input, *output);
  if (!terminal.has_value()) {
    Throw(env, terminal.error());
    return {};
  }
  UniqueFd copy(::fcntl(*stream, F_DUPFD_CLOEXEC, 0));
  if (!copy.valid()) {
    Throw(env, Error::FromErrno("ERR_RESOURCE_LIMIT", "fcntl", errno, "keep the raw stream"));
    return {};
  }
  auto* const data = env.GetInstanceData<AddonData>();
  data->constructing_relay = true;
  const Napi::Object object = data->relay_class.New({});
  data->constructing_relay = false;
  PtyRelayWrap* const wrap = Unwrap(object);
  wrap->terminal_ = std::move(terminal).value();
  wrap->stream_ = std::move(copy);
  const auto bytes = keys.As<Napi::Buffer<std::byte>>();
  wrap->detach_keys_.assign(bytes.Data(), bytes.Data() + bytes.Length());
  return object;
}

Napi::Value PtyRelayWrap::Size(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (terminal_ == nullptr && relay_ == nullptr) {
    Throw(env, Closed());
    return {};
  }
  const auto size = relay_ == nullptr ? terminal_->Size() : relay_->Size();
  if (!size.has_value()) {
    Throw(env, size.error());
    return {};
  }
  const auto object = Napi::Object::New(env);
  object.Set("rows", Napi::Number::New(env, size->rows));
  object.Set("cols", Napi::Number::New(env, size->cols));
  return object;
}

Napi::Value PtyRelayWrap::Run(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto deferred = Napi::Promise::Deferred::New(env);
  const auto reject = [&](const Error& error) {
    deferred.Reject(ToJs(env, error));
    return deferred.Promise();
  };
  if (terminal_ == nullptr) return reject(Closed());
  queue_ = JsQueue::Create(env, [](Napi::Env) {});
  if (queue_ == nullptr) {
    return reject(Error("ERR_RESOURCE_LIMIT", "no thread-safe function could be made"));
  }
  auto relay = pty::TerminalRelay::Start(
      std::move(terminal_), std::move(stream_), pty::DetachKeys(std::move(detach_keys_)),
      [this, queue = queue_, deferred](pty::RelayEnd end) {
        queue->Post([this, deferred, end](Napi::Env job_env) {
          // Of the closed relay as well as of the one that ended by itself.
          Release();
          queue_->Unhold(job_env);
          queue_->Close();
          deferred.Resolve(Napi::String::New(job_env, ToString(end)));
          napi_remove_env_cleanup_hook(job_env, &PtyRelayWrap::ReleaseAtExit, this);
          Unref();
        });
      });
  if (!relay.has_value()) {
    queue_->Close();
    return reject(relay.error());
  }
  relay_ = std::move(relay).value();
  // Until the end has been told, the relay's thread knows this object.
  Ref();
  queue_->Hold(env);
  // After the thread-safe function was made, as hooks run in reverse order.
  napi_add_env_cleanup_hook(env, &PtyRelayWrap::ReleaseAtExit, this);
  return deferred.Promise();
}

void PtyRelayWrap::Stop(const Napi::CallbackInfo& /*info*/) {
  if (relay_ != nullptr) relay_->Stop();
}

void PtyRelayWrap::Close(const Napi::CallbackInfo& /*info*/) { Release(); }

void PtyRelayWrap::Release() {
  relay_.reset();
  terminal_.reset();
  stream_.Reset();
}

void PtyRelayWrap::ReleaseAtExit(void* wrap) { static_cast<PtyRelayWrap*>(wrap)->Release(); }

}  // namespace embervm::napi
