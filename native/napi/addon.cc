// The export table of the addon: lib/native/types.ts NativeBinding.
#include <napi.h>

#include <memory>

#include "machine/host_report.h"
#include "napi/addon_data.h"
#include "napi/convert.h"
#include "napi/file_lock.h"
#include "napi/image_build_worker.h"
#include "napi/machine_wrap.h"
#include "napi/next_data.h"
#include "napi/pty_relay_wrap.h"
#include "napi/sparse_copy_worker.h"

namespace embervm::napi {

namespace {

Napi::Value ProbeHost(const Napi::CallbackInfo& info) {
  return ToJs(info.Env(), machine::ProbeHost());
}

}  // namespace

static Napi::Object Init(Napi::Env env, Napi::Object exports) {
  auto data = std::make_unique<AddonData>();
  data->machine_class = Napi::Persistent(MachineWrap::DefineClass(env));
  data->relay_class = Napi::Persistent(PtyRelayWrap::DefineClass(env));
  // The environment owns it from here and deletes it when it ends.
  env.SetInstanceData(data.release());
  exports.Set("version", EMBERVM_VERSION);
  exports.Set("createMachine", Napi::Function::New<&MachineWrap::CreateMachine>(env));
  exports.Set("restoreMachine", Napi::Function::New<&MachineWrap::RestoreMachine>(env));
  exports.Set("createTerminalRelay", Napi::Function::New<&PtyRelayWrap::CreateRelay>(env));
  exports.Set("probeHost", Napi::Function::New<&ProbeHost>(env));
  exports.Set("lockFile", Napi::Function::New<&LockFile>(env));
  exports.Set("copySparse", Napi::Function::New<&CopySparseAsync>(env));
  exports.Set("buildImage", Napi::Function::New<&BuildImageAsync>(env));
  exports.Set("nextData", Napi::Function::New<&NextData>(env));
  exports.Set("isFileLocked", Napi::Function::New<&IsFileLocked>(env));
  return exports;
}

}  // namespace embervm::napi

static Napi::Object InitEmbervm(Napi::Env env, Napi::Object exports) {
  return embervm::napi::Init(env, exports);
}

NODE_API_MODULE(embervm, InitEmbervm)
