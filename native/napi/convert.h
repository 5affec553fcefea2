// Between JS values and the plain structs of the core. The shapes are those of
// lib/native/types.ts; zod has validated them, so a wrong type here is a bug of
// ours and answered with ERR_INTERNAL, never undefined behaviour.
#ifndef EMBERVM_NAPI_CONVERT_H_
#define EMBERVM_NAPI_CONVERT_H_

#include <napi.h>

#include <chrono>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "machine/config.h"
#include "machine/host_report.h"
#include "machine/machine.h"
#include "machine/observer.h"
#include "machine/stats.h"

namespace embervm::napi {

// The one place where a native failure becomes a JS Error with `code`, `errno`,
// `syscall` and `context`.
Napi::Value ToJs(Napi::Env env, const Error& error);
void Throw(Napi::Env env, const Error& error);
// What every operation of a machine that is gone answers.
Error MachineClosed();

Napi::Object ToJs(Napi::Env env, const std::vector<std::pair<std::string, Error::Value>>& context);
Napi::Object ToJs(Napi::Env env, const machine::MachineStats& stats);
Napi::Object ToJs(Napi::Env env, const machine::HostReport& report);
Napi::Object ToJs(Napi::Env env, const machine::SnapshotReport& report);
Napi::Object ToJs(Napi::Env env, const machine::PluggedDevice& device);
Napi::Object ToJs(Napi::Env env, const devices::BalloonStatistics& statistics);
Napi::Value ToJs(Napi::Env env, std::uint64_t count);
Napi::Value ToJs(Napi::Env env, const std::vector<std::uint64_t>& addresses);
// The descriptor is the caller's from then on.
Napi::Value ToJs(Napi::Env env, UniqueFd&& fd);
std::string_view ToString(machine::SnapshotKind kind);
std::string_view ToString(machine::MachineState state);
std::string_view ToString(machine::ExitReason reason);

Result<machine::MachineConfig> MachineConfigFromJs(const Napi::Value& value);
Result<machine::RestoreConfig> RestoreConfigFromJs(const Napi::Value& value);
Result<machine::DriveConfig> DriveConfigFromJs(const Napi::Value& value);
Result<devices::FsOptions> SharedDirFromJs(const Napi::Value& value);
Result<std::string> TextFromJs(const Napi::Value& value);
Result<machine::SnapshotRequest> SnapshotRequestFromJs(const Napi::Value& value);
// An integer from 0 to 2^53.
Result<std::uint64_t> BytesFromJs(const Napi::Value& value);
// An integer from 0 to 2^31 - 1.
Result<std::chrono::milliseconds> MillisecondsFromJs(const Napi::Value& value);
// A vsock port: an integer from 0 to 2^32 - 1.
Result<std::uint32_t> PortFromJs(const Napi::Value& value);

}  // namespace embervm::napi

#endif  // EMBERVM_NAPI_CONVERT_H_
