// AddonData: what the addon keeps per JS environment, so that it works in
// worker threads and when it is loaded twice.
#ifndef EMBERVM_NAPI_ADDON_DATA_H_
#define EMBERVM_NAPI_ADDON_DATA_H_

#include <napi.h>

namespace embervm::napi {

struct AddonData {
  Napi::FunctionReference machine_class;
  Napi::FunctionReference relay_class;
  // True only while createMachine() or createTerminalRelay() constructs: the classes
  // are not for callers.
  bool constructing_machine = false;
  bool constructing_relay = false;
};

}  // namespace embervm::napi

#endif  // EMBERVM_NAPI_ADDON_DATA_H_
