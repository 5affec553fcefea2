// NativeTerminalRelay: the wrapped object of lib/native/types.ts over a terminal of
// the host and the relay that runs on it.
#ifndef EMBERVM_NAPI_PTY_RELAY_WRAP_H_
#define EMBERVM_NAPI_PTY_RELAY_WRAP_H_

#include <napi.h>

#include <memory>
#include <vector>

#include "base/unique_fd.h"
#include "napi/js_queue.h"
#include "pty/host_terminal.h"
#include "pty/relay.h"

namespace embervm::napi {

class PtyRelayWrap : public Napi::ObjectWrap<PtyRelayWrap> {
 public:
  static Napi::Function DefineClass(Napi::Env env);
  // createTerminalRelay({ input, output, stream, detachKeys }): NativeTerminalRelay
  static Napi::Value CreateRelay(const Napi::CallbackInfo& info);

  // Only CreateRelay constructs: a call from JS throws.
  explicit PtyRelayWrap(const Napi::CallbackInfo& info);
  ~PtyRelayWrap() override;

 private:
  Napi::Value Size(const Napi::CallbackInfo& info);
  Napi::Value Run(const Napi::CallbackInfo& info);
  void Stop(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);

  // Stops what runs and waits until the terminal has its mode back.
  void Release();
  static void ReleaseAtExit(void* wrap);

  napi_env env_ = nullptr;
  std::shared_ptr<JsQueue> queue_;
  // Until run(), which hands them to the relay.
  std::unique_ptr<pty::HostTerminal> terminal_;
  UniqueFd stream_;
  std::vector<std::byte> detach_keys_;
  std::unique_ptr<pty::TerminalRelay> relay_;
};

}  // namespace embervm::napi

#endif  // EMBERVM_NAPI_PTY_RELAY_WRAP_H_
