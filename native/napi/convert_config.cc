#include <cmath>
#include <limits>
#include <string>

#include "napi/convert.h"

namespace embervm::napi {

namespace {

Error WrongType(std::string_view key, std::string_view expected) {
  return Error("ERR_INTERNAL",
               "native configuration: " + std::string(key) + " must be " + std::string(expected));
}

Result<std::string> ToText(const Napi::Value& value, const char* key) {
  if (!value.IsString()) return std::unexpected(WrongType(key, "a string"));
  std::string text = value.As<Napi::String>().Utf8Value();
  // The system calls would silently stop at it.
  if (text.find('\0') != std::string::npos) {
    return std::unexpected(
        Error("ERR_INVALID_CONFIG", std::string(key) + " must not contain a NUL byte"));
  }
  return text;
}

Result<std::string> GetString(const Napi::Object& object, const char* key) {
  return ToText(object.Get(key), key);
}

Result<bool> GetBool(const Napi::Object& object, const char* key) {
  const Napi::Value value = object.Get(key);
  if (!value.IsBoolean()) return std::unexpected(WrongType(key, "a boolean"));
  return value.As<Napi::Boolean>().Value();
}

Result<std::uint64_t> ToInteger(const Napi::Value& value, std::string_view key,
                                std::uint64_t maximum) {
  if (!value.IsNumber()) return std::unexpected(WrongType(key, "a number"));
  const double number = value.As<Napi::Number>().DoubleValue();
  // Exact in a double up to 2^53; the negated test refuses NaN too.
  if (!(number >= 0 && number <= static_cast<double>(maximum)) || number != std::floor(number)) {
    return std::unexpected(WrongType(key, "an integer from 0 to " + std::to_string(maximum)));
  }
  return static_cast<std::uint64_t>(number);
}

Result<std::uint64_t> GetInteger(const Napi::Object& object, const char* key,
                                 std::uint64_t maximum) {
  return ToInteger(object.Get(key), key, maximum);
}

Result<std::vector<machine::DriveConfig>> GetDrives(const Napi::Object& object) {
  const Napi::Value value = object.Get("drives");
  if (!value.IsArray()) return std::unexpected(WrongType("drives", "an array"));
  const auto array = value.As<Napi::Array>();
  std::vector<machine::DriveConfig> drives;
  for (std::uint32_t i = 0; i < array.Length(); ++i) {
    EMBERVM_TRY_ASSIGN(machine::DriveConfig drive, DriveConfigFromJs(array.Get(i)));
    drives.push_back(std::move(drive));
  }
  return drives;
}

// Absent: none.
Result<RateLimit> GetRateLimit(const Napi::Object& object, const char* key) {
  constexpr std::uint64_t kMost = std::uint64_t{1} << 53U;
  const Napi::Value value = object.Get(key);
  if (value.IsUndefined()) return RateLimit{};
  if (!value.IsObject()) return std::unexpected(WrongType(key, "an object"));
  const auto entry = value.As<Napi::Object>();
  RateLimit limit;
  EMBERVM_TRY_ASSIGN(limit.per_second, GetInteger(entry, "perSecond", kMost));
  EMBERVM_TRY_ASSIGN(limit.burst, GetInteger(entry, "burst", kMost));
  return limit;
}

Result<devices::FsCache> GetCache(const Napi::Object& object) {
  EMBERVM_TRY_ASSIGN(const std::string cache, GetString(object, "cache"));
  if (cache == "none") return devices::FsCache::kNone;
  if (cache == "auto") return devices::FsCache::kAuto;
  if (cache == "always") return devices::FsCache::kAlways;
  return std::unexpected(WrongType("cache", "none, auto or always"));
}

Result<std::vector<devices::FsOptions>> GetSharedDirs(const Napi::Object& object) {
  const Napi::Value value = object.Get("sharedDirs");
  if (!value.IsArray()) return std::unexpected(WrongType("sharedDirs", "an array"));
  const auto array = value.As<Napi::Array>();
  std::vector<devices::FsOptions> dirs;
  for (std::uint32_t i = 0; i < array.Length(); ++i) {
    EMBERVM_TRY_ASSIGN(devices::FsOptions options, SharedDirFromJs(array.Get(i)));
    dirs.push_back(std::move(options));
  }
  return dirs;
}

Result<devices::BlockFormat> GetBlockFormat(const Napi::Object& drive) {
  EMBERVM_TRY_ASSIGN(const std::string name, GetString(drive, "format"));
  if (name == "raw") return devices::BlockFormat::kRaw;
  if (name == "qcow2") return devices::BlockFormat::kQcow2;
  if (name == "vmdk") return devices::BlockFormat::kVmdk;
  return std::unexpected(WrongType("format", "raw, qcow2 or vmdk"));
}

Result<devices::BlockCache> GetBlockCache(const Napi::Object& drive) {
  EMBERVM_TRY_ASSIGN(const std::string name, GetString(drive, "cache"));
  if (name == "writeback") return devices::BlockCache::kWriteback;
  if (name == "writethrough") return devices::BlockCache::kWritethrough;
  if (name == "direct") return devices::BlockCache::kDirect;
  return std::unexpected(WrongType("cache", "writeback, writethrough or direct"));
}

}  // namespace

Result<machine::DriveConfig> DriveConfigFromJs(const Napi::Value& value) {
  if (!value.IsObject()) return std::unexpected(WrongType("drive", "an object"));
  const auto entry = value.As<Napi::Object>();
  machine::DriveConfig drive;
  EMBERVM_TRY_ASSIGN(drive.id, GetString(entry, "id"));
  EMBERVM_TRY_ASSIGN(drive.path, GetString(entry, "path"));
  EMBERVM_TRY_ASSIGN(drive.format, GetBlockFormat(entry));
  EMBERVM_TRY_ASSIGN(drive.read_only, GetBool(entry, "readOnly"));
  EMBERVM_TRY_ASSIGN(drive.cache, GetBlockCache(entry));
  EMBERVM_TRY_ASSIGN(drive.bytes, GetRateLimit(entry, "bytes"));
  EMBERVM_TRY_ASSIGN(drive.operations, GetRateLimit(entry, "operations"));
  return drive;
}

Result<devices::FsOptions> SharedDirFromJs(const Napi::Value& value) {
  constexpr std::uint64_t kMaxU32 = std::numeric_limits<std::uint32_t>::max();
  // What a double counts exactly.
  constexpr std::uint64_t kMaxQuota = std::uint64_t{1} << 53U;
  if (!value.IsObject()) return std::unexpected(WrongType("a shared directory", "an object"));
  const auto entry = value.As<Napi::Object>();
  devices::FsOptions options;
  EMBERVM_TRY_ASSIGN(options.tag, GetString(entry, "tag"));
  EMBERVM_TRY_ASSIGN(options.path, GetString(entry, "path"));
  EMBERVM_TRY_ASSIGN(options.single_file, GetBool(entry, "singleFile"));
  EMBERVM_TRY_ASSIGN(options.read_only, GetBool(entry, "readOnly"));
  EMBERVM_TRY_ASSIGN(options.quota_bytes, GetInteger(entry, "quotaBytes", kMaxQuota));
  EMBERVM_TRY_ASSIGN(options.cache, GetCache(entry));
  EMBERVM_TRY_ASSIGN(options.writeback, GetBool(entry, "writeback"));
  EMBERVM_TRY_ASSIGN(options.cross_mounts, GetBool(entry, "crossMounts"));
  EMBERVM_TRY_ASSIGN(options.host_locks, GetBool(entry, "hostLocks"));
  EMBERVM_TRY_ASSIGN(const std::uint64_t files, GetInteger(entry, "maxOpenFiles", kMaxU32));
  options.max_open_files = static_cast<std::uint32_t>(files);
  options.squash.reset();
  if (const Napi::Value owner = entry.Get("owner"); owner.IsObject()) {
    const auto ids = owner.As<Napi::Object>();
    EMBERVM_TRY_ASSIGN(const std::uint64_t uid, GetInteger(ids, "uid", kMaxU32));
    EMBERVM_TRY_ASSIGN(const std::uint64_t gid, GetInteger(ids, "gid", kMaxU32));
    options.squash =
        devices::FsOwner{.uid = static_cast<uid_t>(uid), .gid = static_cast<gid_t>(gid)};
  }
  return options;
}

Result<std::string> TextFromJs(const Napi::Value& value) { return ToText(value, "text"); }

Result<machine::MachineConfig> MachineConfigFromJs(const Napi::Value& value) {
  if (!value.IsObject()) return std::unexpected(WrongType("config", "an object"));
  const auto object = value.As<Napi::Object>();
  // One MiB more than any address space holds; keeps the byte count in 64 bits.
  constexpr std::uint64_t kMaxMemoryMib = std::uint64_t{1} << 32;
  constexpr std::uint64_t kMaxU32 = std::numeric_limits<std::uint32_t>::max();

  machine::MachineConfig config;
  EMBERVM_TRY_ASSIGN(config.kernel_path, GetString(object, "kernelPath"));
  if (!object.Get("initrdPath").IsUndefined()) {
    EMBERVM_TRY_ASSIGN(config.initrd_path, GetString(object, "initrdPath"));
  }
  EMBERVM_TRY_ASSIGN(config.command_line, GetString(object, "commandLine"));
  EMBERVM_TRY_ASSIGN(const std::uint64_t vcpus, GetInteger(object, "vcpus", kMaxU32));
  config.vcpus = static_cast<std::uint32_t>(vcpus);
  EMBERVM_TRY_ASSIGN(config.memory_mib, GetInteger(object, "memoryMib", kMaxMemoryMib));
  EMBERVM_TRY_ASSIGN(const std::uint64_t pluggable,
                     GetInteger(object, "pluggableBytes", kMaxMemoryMib << 20U));
  if (pluggable > 0) {
    config.pluggable = {.max_bytes = pluggable, .requested_bytes = 0, .plugged = {}};
  }
  EMBERVM_TRY_ASSIGN(config.drives, GetDrives(object));
  EMBERVM_TRY_ASSIGN(config.shared_dirs, GetSharedDirs(object));
  EMBERVM_TRY_ASSIGN(const std::uint64_t slots, GetInteger(object, "hotplugSlots", kMaxU32));
  config.hotplug_slots = static_cast<std::uint32_t>(slots);
  if (!object.Get("vsockCid").IsUndefined()) {
    EMBERVM_TRY_ASSIGN(config.vsock_cid, GetInteger(object, "vsockCid", kMaxU32));
  }
  EMBERVM_TRY_ASSIGN(config.rng, GetBool(object, "rng"));
  EMBERVM_TRY_ASSIGN(const bool balloon, GetBool(object, "balloon"));
  if (balloon) config.balloon.emplace();
  EMBERVM_TRY_ASSIGN(config.console, GetBool(object, "console"));
  EMBERVM_TRY_ASSIGN(config.console_bytes, GetInteger(object, "consoleBytes", kMaxU32));
  return config;
}

Result<machine::RestoreConfig> RestoreConfigFromJs(const Napi::Value& value) {
  if (!value.IsObject()) return std::unexpected(WrongType("config", "an object"));
  const auto object = value.As<Napi::Object>();
  constexpr std::uint64_t kMaxU32 = std::numeric_limits<std::uint32_t>::max();
  machine::RestoreConfig config;
  EMBERVM_TRY_ASSIGN(config.directory, GetString(object, "directory"));
  const Napi::Value drives = object.Get("drives");
  if (!drives.IsArray()) return std::unexpected(WrongType("drives", "an array"));
  const auto array = drives.As<Napi::Array>();
  for (std::uint32_t i = 0; i < array.Length(); ++i) {
    const Napi::Value item = array.Get(i);
    if (!item.IsObject()) return std::unexpected(WrongType("drives[]", "an object"));
    machine::RestoreConfig::Drive drive;
    const auto entry = item.As<Napi::Object>();
    EMBERVM_TRY_ASSIGN(drive.id, GetString(entry, "id"));
    EMBERVM_TRY_ASSIGN(drive.path, GetString(entry, "path"));
    if (!entry.Get("readOnly").IsUndefined()) {
      EMBERVM_TRY_ASSIGN(drive.read_only, GetBool(entry, "readOnly"));
    }
    config.drives.push_back(std::move(drive));
  }
  EMBERVM_TRY_ASSIGN(config.only_these_drives, GetBool(object, "onlyTheseDrives"));
  if (!object.Get("vsockCid").IsUndefined()) {
    EMBERVM_TRY_ASSIGN(config.vsock_cid, GetInteger(object, "vsockCid", kMaxU32));
  }
  if (!object.Get("consoleBytes").IsUndefined()) {
    EMBERVM_TRY_ASSIGN(config.console_bytes, GetInteger(object, "consoleBytes", kMaxU32));
  }
  return config;
}

Result<machine::SnapshotRequest> SnapshotRequestFromJs(const Napi::Value& value) {
  if (!value.IsObject()) return std::unexpected(WrongType("request", "an object"));
  const auto object = value.As<Napi::Object>();
  machine::SnapshotRequest request;
  EMBERVM_TRY_ASSIGN(request.directory, GetString(object, "directory"));
  EMBERVM_TRY_ASSIGN(const std::string kind, GetString(object, "kind"));
  for (const auto known : {machine::SnapshotKind::kFull, machine::SnapshotKind::kDiff}) {
    if (kind != ToString(known)) continue;
    request.kind = known;
    return request;
  }
  return std::unexpected(WrongType("kind", "full or diff"));
}

Result<std::uint64_t> BytesFromJs(const Napi::Value& value) {
  return ToInteger(value, "bytes", std::uint64_t{1} << 53U);
}

Result<std::chrono::milliseconds> MillisecondsFromJs(const Napi::Value& value) {
  EMBERVM_TRY_ASSIGN(const std::uint64_t count,
                     ToInteger(value, "milliseconds", std::numeric_limits<std::int32_t>::max()));
  return std::chrono::milliseconds(count);
}

Result<std::uint32_t> PortFromJs(const Napi::Value& value) {
  EMBERVM_TRY_ASSIGN(const std::uint64_t port,
                     ToInteger(value, "port", std::numeric_limits<std::uint32_t>::max()));
  return static_cast<std::uint32_t>(port);
}

}  // namespace embervm::napi
