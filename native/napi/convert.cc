#include "napi/convert.h"

#include <type_traits>
#include <variant>

namespace embervm::napi {

namespace {

// A count in JS: exact up to 2^53.
Napi::Number Count(Napi::Env env, std::uint64_t count) {
  return Napi::Number::New(env, static_cast<double>(count));
}

Napi::Number Count(Napi::Env env, std::int64_t count) {
  return Napi::Number::New(env, static_cast<double>(count));
}

Napi::Array VcpusToJs(Napi::Env env, const std::vector<machine::VcpuUsage>& vcpus) {
  const auto array = Napi::Array::New(env, vcpus.size());
  std::uint32_t index = 0;
  for (const machine::VcpuUsage& vcpu : vcpus) {
    const auto object = Napi::Object::New(env);
    object.Set("exits", Count(env, vcpu.exits));
    object.Set("emulatedInstructions", Count(env, vcpu.emulated_instructions));
    object.Set("haltedNs", Count(env, vcpu.halted_ns));
    object.Set("cpuTimeNs", Count(env, vcpu.cpu_time_ns));
    object.Set("deviceExits", Count(env, vcpu.device_exits));
    object.Set("deviceTimeNs", Count(env, vcpu.device_time_ns));
    array.Set(index++, object);
  }
  return array;
}

Napi::Object DrivesToJs(Napi::Env env, const std::vector<machine::DriveStats>& drives) {
  const auto object = Napi::Object::New(env);
  for (const machine::DriveStats& drive : drives) {
    const auto entry = Napi::Object::New(env);
    entry.Set("readBytes", Count(env, drive.read_bytes));
    entry.Set("writtenBytes", Count(env, drive.written_bytes));
    entry.Set("reads", Count(env, drive.reads));
    entry.Set("writes", Count(env, drive.writes));
    entry.Set("flushes", Count(env, drive.flushes));
    entry.Set("errors", Count(env, drive.errors));
    object.Set(drive.id, entry);
  }
  return object;
}

Napi::Object SharedDirsToJs(Napi::Env env, const std::vector<machine::SharedDirStats>& dirs) {
  const auto object = Napi::Object::New(env);
  for (const machine::SharedDirStats& dir : dirs) {
    const auto entry = Napi::Object::New(env);
    entry.Set("requests", Count(env, dir.requests));
    entry.Set("errors", Count(env, dir.errors));
    entry.Set("readBytes", Count(env, dir.read_bytes));
    entry.Set("writtenBytes", Count(env, dir.written_bytes));
    entry.Set("openFiles", Count(env, dir.open_files));
    object.Set(dir.tag, entry);
  }
  return object;
}

}  // namespace

Napi::Object ToJs(Napi::Env env, const std::vector<std::pair<std::string, Error::Value>>& context) {
  const auto object = Napi::Object::New(env);
  for (const auto& [key, value] : context) {
    std::visit(
        [&]<class T>(const T& held) {
          if constexpr (std::is_same_v<T, std::int64_t>) {
            // NOLINTNEXTLINE(clang-analyzer-core.CallAndMessage): `held` is what visit() passes.
            object.Set(key, Count(env, held));
          } else {
            // NOLINTNEXTLINE(clang-analyzer-core.CallAndMessage): `held` is what visit() passes.
            object.Set(key, Napi::String::New(env, held));
          }
        },
        value);
  }
  return object;
}

Napi::Value ToJs(Napi::Env env, const Error& error) {
  const Napi::Object object = Napi::Error::New(env, error.message()).Value();
  object.Set("code", error.code());
  if (error.errno_value() != 0) object.Set("errno", ErrnoName(error.errno_value()));
  if (!error.syscall().empty()) object.Set("syscall", error.syscall());
  if (!error.context().empty()) object.Set("context", ToJs(env, error.context()));
  return object;
}

void Throw(Napi::Env env, const Error& error) { napi_throw(env, ToJs(env, error)); }

Error MachineClosed() { return Error("ERR_MACHINE_CLOSED", "the machine is closed"); }

Napi::Object ToJs(Napi::Env env, const machine::MachineStats& stats) {
  const auto object = Napi::Object::New(env);
  object.Set("atNs", Count(env, stats.at_ns));
  object.Set("vcpus", VcpusToJs(env, stats.vcpus));
  const auto fixups = Napi::Object::New(env);
  for (const auto& [mnemonic, count] : stats.fixups) fixups.Set(mnemonic, Count(env, count));
  object.Set("fixups", fixups);
  object.Set("setupNs", Count(env, stats.setup_ns));
  const auto console = Napi::Object::New(env);
  console.Set("bytes", Count(env, stats.console_bytes));
  console.Set("droppedBytes", Count(env, stats.console_dropped_bytes));
  object.Set("console", console);
  object.Set("drives", DrivesToJs(env, stats.drives));
  object.Set("sharedDirs", SharedDirsToJs(env, stats.shared_dirs));
  if (stats.balloon.has_value()) {
    const auto balloon = Napi::Object::New(env);
    balloon.Set("targetBytes", Count(env, stats.balloon->target_bytes));
    balloon.Set("actualBytes", Count(env, stats.balloon->actual_bytes));
    balloon.Set("reportedBytes", Count(env, stats.balloon->reported_bytes));
    object.Set("balloon", balloon);
  }
  if (stats.memory.has_value()) {
    const auto memory = Napi::Object::New(env);
    memory.Set("bytes", Count(env, stats.memory->bytes));
    memory.Set("targetBytes", Count(env, stats.memory->target_bytes));
    object.Set("memory", memory);
  }
  const auto vsock = Napi::Object::New(env);
  vsock.Set("connections", Count(env, stats.vsock_connections));
  vsock.Set("txBytes", Count(env, stats.vsock_tx_bytes));
  vsock.Set("rxBytes", Count(env, stats.vsock_rx_bytes));
  object.Set("vsock", vsock);
  object.Set("interrupts", Count(env, stats.interrupts));
  return object;
}

Napi::Object ToJs(Napi::Env env, const machine::SnapshotReport& report) {
  const auto object = Napi::Object::New(env);
  object.Set("kind", std::string(ToString(report.kind)));
  object.Set("pauseNs", static_cast<double>(report.pause_ns));
  object.Set("memoryBytes", Count(env, report.memory_bytes));
  object.Set("stateBytes", Count(env, report.state_bytes));
  return object;
}

Napi::Object ToJs(Napi::Env env, const machine::PluggedDevice& device) {
  const auto object = Napi::Object::New(env);
  object.Set("slot", std::uint32_t{device.index});
  object.Set("address", Count(env, device.address));
  object.Set("irq", std::uint32_t{device.irq});
  return object;
}

Napi::Value ToJs(Napi::Env env, std::uint64_t count) { return Count(env, count); }

Napi::Value ToJs(Napi::Env env, const std::vector<std::uint64_t>& addresses) {
  const Napi::Array list = Napi::Array::New(env, addresses.size());
  for (std::uint32_t index = 0; index < addresses.size(); ++index) {
    list.Set(index, Napi::BigInt::New(env, addresses[index]));
  }
  return list;
}

Napi::Value ToJs(Napi::Env env, UniqueFd&& fd) { return Napi::Number::New(env, fd.Release()); }

Napi::Object ToJs(Napi::Env env, const devices::BalloonStatistics& statistics) {
  const auto object = Napi::Object::New(env);
  const auto set = [&](const char* name, const std::optional<std::uint64_t>& value) {
    if (value.has_value()) object.Set(name, Count(env, *value));
  };
  set("swappedInBytes", statistics.swapped_in_bytes);
  set("swappedOutBytes", statistics.swapped_out_bytes);
  set("majorFaults", statistics.major_faults);
  set("minorFaults", statistics.minor_faults);
  set("freeBytes", statistics.free_bytes);
  set("totalBytes", statistics.total_bytes);
  set("availableBytes", statistics.available_bytes);
  set("cacheBytes", statistics.cache_bytes);
  return object;
}

std::string_view ToString(machine::SnapshotKind kind) {
  return kind == machine::SnapshotKind::kFull ? "full" : "diff";
}

Napi::Object ToJs(Napi::Env env, const machine::HostReport& report) {
  const auto object = Napi::Object::New(env);
  object.Set("kvm", report.kvm);
  object.Set("apiVersion", report.api_version);
  object.Set("maxVcpus", report.max_vcpus);
  object.Set("memoryMib", Count(env, report.memory_mib));
  object.Set("cpus", report.cpus);
  const auto capabilities = Napi::Array::New(env, report.capabilities.size());
  std::uint32_t index = 0;
  for (const machine::HostCapability& capability : report.capabilities) {
    const auto entry = Napi::Object::New(env);
    entry.Set("name", capability.name);
    entry.Set("available", capability.available);
    entry.Set("reason", capability.reason);
    entry.Set("cure", capability.cure);
    capabilities.Set(index++, entry);
  }
  object.Set("capabilities", capabilities);
  return object;
}

std::string_view ToString(machine::MachineState state) {
  switch (state) {
    case machine::MachineState::kCreated:
      return "created";
    case machine::MachineState::kRunning:
      return "running";
    case machine::MachineState::kPaused:
      return "paused";
    case machine::MachineState::kStopped:
      return "stopped";
    case machine::MachineState::kCrashed:
      return "crashed";
    case machine::MachineState::kClosed:
      break;
  }
  return "closed";
}

std::string_view ToString(machine::ExitReason reason) {
  switch (reason) {
    case machine::ExitReason::kPowerOff:
      return "poweroff";
    case machine::ExitReason::kReset:
      return "reset";
    case machine::ExitReason::kPanic:
      return "panic";
    case machine::ExitReason::kKilled:
      return "killed";
    case machine::ExitReason::kFault:
      break;
  }
  return "fault";
}

}  // namespace embervm::napi
