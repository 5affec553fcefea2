#include "machine/snapshot.h"

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <utility>

#include "arch/x86_64/layout.h"
#include "base/bytes.h"
#include "base/crc64.h"
#include "base/state_stream.h"
#include "devices/mem/protocol.h"

namespace embervm::machine {

namespace {

constexpr std::array<char, 8> kMagic{'E', 'M', 'B', 'V', 'S', 'N', 'A', 'P'};
// Major: older readers cannot understand it. Minor: they can do without what is new.
constexpr std::uint16_t kMajor = 5;
constexpr std::uint16_t kMinor = 0;

struct Header {
  std::array<char, 8> magic;
  std::uint16_t major;
  std::uint16_t minor;
  std::uint32_t reserved;
  std::uint64_t payload_bytes;
  std::uint64_t payload_crc;
  // Of all before it.
  std::uint64_t header_crc;
};
static_assert(sizeof(Header) == 40);

constexpr std::size_t kMaxText = 4096;
constexpr std::size_t kMaxDrives = 64;
constexpr std::size_t kMaxSlots = 64;
constexpr std::size_t kMaxLayers = 64;
constexpr std::size_t kMaxExtents = std::size_t{1} << 21U;
constexpr std::uint64_t kMaxMemoryMib = std::uint64_t{1} << 32U;

void WriteDrive(StateWriter& writer, const DriveConfig& drive, std::uint64_t bytes) {
  writer.Text(drive.id);
  writer.Text(drive.path);
  writer.Value(drive.format);
  writer.Value<std::uint8_t>(drive.read_only ? 1 : 0);
  writer.Value(drive.cache);
  writer.Value(drive.bytes);
  writer.Value(drive.operations);
  writer.Value(bytes);
}

DriveConfig ReadDrive(StateReader& reader, Snapshot& snapshot) {
  DriveConfig drive;
  drive.id = reader.Text(kMaxText);
  drive.path = reader.Text(kMaxText);
  drive.format = reader.Value<devices::BlockFormat>();
  if (drive.format > devices::BlockFormat::kVmdk) reader.Fail();
  drive.read_only = reader.Flag();
  drive.cache = reader.Value<devices::BlockCache>();
  if (drive.cache > devices::BlockCache::kDirect) reader.Fail();
  drive.bytes = reader.Value<RateLimit>();
  drive.operations = reader.Value<RateLimit>();
  snapshot.drive_sizes.push_back(reader.Value<std::uint64_t>());
  return drive;
}

void WriteSlots(StateWriter& writer, const Snapshot& snapshot) {
  const MachineConfig& config = snapshot.config;
  writer.Value(config.hotplug_slots);
  writer.Value(static_cast<std::uint64_t>(config.plugged.size()));
  for (std::size_t index = 0; index < config.plugged.size(); ++index) {
    writer.Value(config.plugged[index].slot);
    WriteDrive(writer, config.plugged[index].drive,
               snapshot.drive_sizes.at(config.drives.size() + index));
  }
}

void ReadSlots(StateReader& reader, Snapshot& snapshot) {
  MachineConfig& config = snapshot.config;
  config.hotplug_slots = reader.Value<std::uint32_t>();
  if (config.hotplug_slots > kMaxHotplugSlots) reader.Fail();
  const std::uint64_t plugged = reader.Count(kMaxHotplugSlots);
  for (std::uint64_t index = 0; index < plugged && reader.ok(); ++index) {
    PluggedDrive device;
    device.slot = reader.Value<std::uint32_t>();
    device.drive = ReadDrive(reader, snapshot);
    const bool taken =
        std::ranges::find(config.plugged, device.slot, &PluggedDrive::slot) != config.plugged.end();
    if (taken || device.slot >= config.hotplug_slots) reader.Fail();
    config.plugged.push_back(std::move(device));
  }
}

void WritePluggable(StateWriter& writer, const std::optional<PluggableMemoryConfig>& pluggable) {
  writer.Value<std::uint8_t>(pluggable.has_value() ? 1 : 0);
  if (!pluggable.has_value()) return;
  writer.Value(pluggable->max_bytes);
  writer.Value(pluggable->requested_bytes);
  writer.List(std::span(pluggable->plugged));
}

// The blocks are checked against the region, by whoever makes it.
std::optional<PluggableMemoryConfig> ReadPluggable(StateReader& reader) {
  if (!reader.Flag()) return std::nullopt;
  PluggableMemoryConfig pluggable;
  pluggable.max_bytes = reader.Value<std::uint64_t>();
  pluggable.requested_bytes = reader.Value<std::uint64_t>();
  pluggable.plugged = reader.List<GuestMemory::Extent>(kMaxExtents);
  const auto is_possible = [](std::uint64_t bytes) {
    return bytes <= kMaxMemoryMib * layout::kMiB && bytes % devices::mem::kBlockBytes == 0;
  };
  if (pluggable.max_bytes == 0 || !is_possible(pluggable.max_bytes) ||
      !is_possible(pluggable.requested_bytes) || pluggable.requested_bytes > pluggable.max_bytes) {
    reader.Fail();
  }
  return pluggable;
}

void WriteConfig(StateWriter& writer, const Snapshot& snapshot) {
  const MachineConfig& config = snapshot.config;
  writer.Value(config.vcpus);
  writer.Value(config.memory_mib);
  WritePluggable(writer, config.pluggable);
  writer.Value(static_cast<std::uint64_t>(config.drives.size()));
  for (std::size_t index = 0; index < config.drives.size(); ++index) {
    WriteDrive(writer, config.drives[index], snapshot.drive_sizes.at(index));
  }
  WriteSlots(writer, snapshot);
  writer.Value<std::uint8_t>(config.vsock_cid.has_value() ? 1 : 0);
  writer.Value(config.vsock_cid.value_or(0));
  writer.Value<std::uint8_t>(config.rng ? 1 : 0);
  writer.Value<std::uint8_t>(config.balloon.has_value() ? 1 : 0);
  writer.Value(config.balloon.value_or(BalloonConfig{}));
  writer.Value<std::uint8_t>(config.console ? 1 : 0);
  writer.Value(static_cast<std::uint64_t>(config.console_bytes));
}

void ReadConfig(StateReader& reader, Snapshot& snapshot) {
  MachineConfig& config = snapshot.config;
  config.vcpus = reader.Value<std::uint32_t>();
  config.memory_mib = reader.Value<std::uint64_t>();
  config.pluggable = ReadPluggable(reader);
  const std::uint64_t drives = reader.Count(kMaxDrives);
  for (std::uint64_t index = 0; index < drives && reader.ok(); ++index) {
    config.drives.push_back(ReadDrive(reader, snapshot));
  }
  ReadSlots(reader, snapshot);
  const bool vsock = reader.Flag();
  const auto cid = reader.Value<std::uint64_t>();
  if (vsock) config.vsock_cid = cid;
  config.rng = reader.Flag();
  const bool balloon = reader.Flag();
  const auto pages = reader.Value<BalloonConfig>();
  if (balloon) config.balloon = pages;
  config.console = reader.Flag();
  config.console_bytes = reader.Value<std::uint64_t>();
  const bool possible = config.vcpus > 0 && config.vcpus <= layout::kMaxVcpus &&
                        config.memory_mib > 0 && config.memory_mib <= kMaxMemoryMib;
  if (!possible) reader.Fail();
}

// A plain name in the snapshot's own directory.
bool IsFileName(const std::string& name) {
  return !name.empty() && name.front() != '.' && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

void ReadMemory(StateReader& reader, Snapshot& snapshot) {
  const std::uint64_t layers = reader.Count(kMaxLayers);
  if (layers == 0) reader.Fail();
  for (std::uint64_t index = 0; index < layers && reader.ok(); ++index) {
    MemoryLayer layer;
    layer.name = reader.Text(kMaxText);
    layer.extents = reader.List<GuestMemory::Extent>(kMaxExtents);
    if (!IsFileName(layer.name)) reader.Fail();
    snapshot.memory.push_back(std::move(layer));
  }
}

std::vector<std::byte> ReadBlob(StateReader& reader) {
  const auto bytes = reader.Blob();
  return {bytes.begin(), bytes.end()};
}

void WriteBlobs(StateWriter& writer, std::span<const std::vector<std::byte>> blobs) {
  writer.Value(static_cast<std::uint64_t>(blobs.size()));
  for (const std::vector<std::byte>& blob : blobs) writer.Blob(blob);
}

std::vector<std::vector<std::byte>> ReadBlobs(StateReader& reader, std::size_t max_count) {
  std::vector<std::vector<std::byte>> blobs;
  const std::uint64_t count = reader.Count(max_count);
  for (std::uint64_t index = 0; index < count && reader.ok(); ++index) {
    blobs.push_back(ReadBlob(reader));
  }
  return blobs;
}

Error Invalid(std::string message) { return Error("ERR_SNAPSHOT_INVALID", std::move(message)); }

std::uint64_t HeaderCrc(const Header& header) {
  return Crc64(AsBytes(header).first(offsetof(Header, header_crc)));
}

}  // namespace

std::vector<std::byte> EncodeSnapshot(const Snapshot& snapshot) {
  StateWriter payload;
  snapshot.cpu.Write(payload);
  WriteConfig(payload, snapshot);
  payload.Value(static_cast<std::uint64_t>(snapshot.memory.size()));
  for (const MemoryLayer& layer : snapshot.memory) {
    payload.Text(layer.name);
    payload.List(std::span(layer.extents));
  }
  payload.Blob(snapshot.vm);
  WriteBlobs(payload, snapshot.vcpus);
  payload.Blob(snapshot.ports);
  WriteBlobs(payload, snapshot.devices);

  Header header{.magic = kMagic,
                .major = kMajor,
                .minor = kMinor,
                .reserved = 0,
                .payload_bytes = payload.bytes().size(),
                .payload_crc = Crc64(payload.bytes()),
                .header_crc = 0};
  header.header_crc = HeaderCrc(header);
  StateWriter file;
  file.Value(header);
  file.Bytes(payload.bytes());
  return file.Take();
}

Result<Snapshot> DecodeSnapshot(std::span<const std::byte> file) {
  if (file.size() < sizeof(Header)) {
    return std::unexpected(Invalid("the state file is too short to be one"));
  }
  const auto header = LoadLe<Header>(file);
  if (header.magic != kMagic) {
    return std::unexpected(Invalid("the state file was not written by embervm"));
  }
  if (header.major != kMajor || header.minor > kMinor) {
    return std::unexpected(
        Error("ERR_SNAPSHOT_VERSION",
              "the snapshot has another version than this package reads: take it anew, or use the "
              "package that took it")
            .With("version", std::to_string(header.major) + "." + std::to_string(header.minor))
            .With("supported", std::to_string(kMajor) + "." + std::to_string(kMinor)));
  }
  if (header.header_crc != HeaderCrc(header)) {
    return std::unexpected(Invalid("the state file is damaged (its header's checksum is wrong)"));
  }
  const std::span<const std::byte> payload = file.subspan(sizeof(Header));
  if (header.payload_bytes != payload.size()) {
    return std::unexpected(
        Invalid("the state file was cut off, or something was added to it")
            .With("bytes", static_cast<std::int64_t>(payload.size()))
            .With("expectedBytes", static_cast<std::int64_t>(header.payload_bytes)));
  }
  if (header.payload_crc != Crc64(payload)) {
    return std::unexpected(Invalid("the state file is damaged (its checksum is wrong)"));
  }
  return DecodeSnapshotPayload(payload);
}

Result<Snapshot> DecodeSnapshotPayload(std::span<const std::byte> payload) {
  StateReader reader(payload);
  Snapshot snapshot;
  EMBERVM_TRY_ASSIGN(snapshot.cpu, CpuFeatures::Read(reader));
  ReadConfig(reader, snapshot);
  ReadMemory(reader, snapshot);
  snapshot.vm = ReadBlob(reader);
  snapshot.vcpus = ReadBlobs(reader, layout::kMaxVcpus);
  snapshot.ports = ReadBlob(reader);
  snapshot.devices = ReadBlobs(reader, kMaxSlots);
  if (!reader.Done() || snapshot.vcpus.size() != snapshot.config.vcpus) {
    return std::unexpected(InvalidState("its parts do not fit together"));
  }
  return snapshot;
}

}  // namespace embervm::machine
