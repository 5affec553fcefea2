// MachineCore: devices that come, go and change while the guest runs. config_ follows, so
// that a snapshot tells it.
#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "arch/x86_64/layout.h"
#include "machine/machine_core.h"

namespace embervm::machine {

void MachineCore::AttachDrive(DriveConfig drive, Completion<PluggedDevice> done) {
  done(Plug(std::move(drive)));
}

void MachineCore::AttachSharedDir(devices::FsOptions directory, Completion<PluggedDevice> done) {
  done(Plug(std::move(directory)));
}

void MachineCore::Detach(const std::string& id, Completion<> done) { done(Unplug(id)); }

Result<PluggedDevice> MachineCore::Plug(DriveConfig drive) {
  if (HasEnded()) return std::unexpected(WrongState("attach a drive to"));
  if (FindDrive(drive.id) != nullptr) {
    return std::unexpected(
        Error("ERR_DEVICE_EXISTS", "the machine has a drive " + drive.id + " already")
            .With("id", drive.id));
  }
  EMBERVM_TRY_ASSIGN(const std::uint32_t slot, FreeSlot());
  PluggedDrive device{.slot = slot, .drive = std::move(drive)};
  EMBERVM_TRY_ASSIGN(const PluggedDevice where, devices_->AttachDrive(device));
  config_.plugged.push_back(std::move(device));
  return where;
}

Result<PluggedDevice> MachineCore::Plug(devices::FsOptions directory) {
  if (HasEnded()) return std::unexpected(WrongState("attach a shared directory to"));
  const auto has_tag = [&](const devices::FsOptions& other) { return other.tag == directory.tag; };
  if (std::ranges::any_of(config_.shared_dirs, has_tag) ||
      std::ranges::any_of(config_.plugged_dirs, has_tag, &PluggedDirectory::directory)) {
    return std::unexpected(Error("ERR_DEVICE_EXISTS",
                                 "the machine has a shared directory " + directory.tag + " already")
                               .With("id", directory.tag));
  }
  EMBERVM_TRY_ASSIGN(const std::uint32_t slot, FreeSlot());
  PluggedDirectory device{.slot = slot, .directory = std::move(directory)};
  EMBERVM_TRY_ASSIGN(const PluggedDevice where, devices_->AttachSharedDir(device));
  config_.plugged_dirs.push_back(std::move(device));
  return where;
}

Result<std::uint32_t> MachineCore::FreeSlot() const {
  const auto is_taken = [this](std::uint32_t slot) {
    return std::ranges::find(config_.plugged, slot, &PluggedDrive::slot) != config_.plugged.end() ||
           std::ranges::find(config_.plugged_dirs, slot, &PluggedDirectory::slot) !=
               config_.plugged_dirs.end();
  };
  std::uint32_t slot = 0;
  while (is_taken(slot)) ++slot;
  if (slot < config_.hotplug_slots) return slot;
  return std::unexpected(
      Error("ERR_NO_FREE_SLOT",
            config_.hotplug_slots == 0
                ? "the machine was made without hotplug slots"
                : "every hotplug slot of the machine has a device: detach one first")
          .With("slots", static_cast<std::int64_t>(config_.hotplug_slots)));
}

Result<> MachineCore::Unplug(const std::string& id) {
  if (HasEnded()) return std::unexpected(WrongState("detach a device from"));
  std::vector<PluggedDrive>& plugged = config_.plugged;
  const auto device = std::ranges::find(
      plugged, id, [](const PluggedDrive& candidate) { return candidate.drive.id; });
  std::vector<PluggedDirectory>& plugged_dirs = config_.plugged_dirs;
  const auto directory = std::ranges::find(
      plugged_dirs, id, [](const PluggedDirectory& candidate) { return candidate.directory.tag; });
  if (device == plugged.end() && directory != plugged_dirs.end()) {
    EMBERVM_TRY(devices_->Detach(directory->slot));
    plugged_dirs.erase(directory);
    return {};
  }
  if (device == plugged.end()) {
    return std::unexpected(
        Error("ERR_DEVICE_NOT_FOUND", "no hotplug slot of the machine has a device " + id)
            .With("id", id));
  }
  EMBERVM_TRY(devices_->Detach(device->slot));
  plugged.erase(device);
  return {};
}

void MachineCore::SwapDrive(const std::string& id, const std::string& path,
                            Completion<std::uint64_t> done) {
  if (HasEnded()) return done(std::unexpected(WrongState("swap a drive of")));
  auto size =
      devices_->ChangeDrive(id, [&path](devices::BlockDevice& drive) { return drive.Swap(path); });
  if (size.has_value()) FindDrive(id)->path = path;
  done(std::move(size));
}

void MachineCore::ResizeDrive(const std::string& id, Completion<std::uint64_t> done) {
  if (HasEnded()) return done(std::unexpected(WrongState("resize a drive of")));
  done(devices_->ChangeDrive(id, [](devices::BlockDevice& drive) { return drive.RefreshSize(); }));
}

void MachineCore::SetBalloon(std::uint64_t target_bytes, Completion<> done) {
  if (HasEnded()) return RefuseState(std::move(done), "set the balloon of");
  const std::uint64_t present =
      memory_->boot_size() +
      devices_->PluggableMemory().value_or(devices::MemDevice::Counters{}).plugged_bytes;
  if (target_bytes > present) {
    return done(std::unexpected(
        Error("ERR_INVALID_CONFIG", "the balloon cannot have more memory than the machine")
            .With("bytes", static_cast<std::int64_t>(target_bytes))
            .With("memoryBytes", static_cast<std::int64_t>(present))));
  }
  const std::uint64_t pages = std::min<std::uint64_t>(target_bytes / devices::balloon::kPageSize,
                                                      std::numeric_limits<std::uint32_t>::max());
  Result<> set = devices_->SetBalloon(static_cast<std::uint32_t>(pages));
  if (set.has_value()) config_.balloon->target_pages = static_cast<std::uint32_t>(pages);
  done(std::move(set));
}

void MachineCore::RequestBalloonStatistics(Completion<devices::BalloonStatistics> done) {
  if (HasEnded()) return done(std::unexpected(WrongState("ask for the statistics of")));
  devices_->RequestBalloonStatistics(std::move(done));
}

void MachineCore::ResizeMemory(std::uint64_t bytes, std::chrono::milliseconds patience,
                               Completion<std::uint64_t> done) {
  if (HasEnded()) return done(std::unexpected(WrongState("resize the memory of")));
  if (!config_.pluggable.has_value()) {
    return done(std::unexpected(
        Error("ERR_UNSUPPORTED", "the machine was made without memory beyond what it boots with")));
  }
  const std::uint64_t boot_bytes = memory_->boot_size();
  const auto refuse = [&](const std::string& message) {
    done(std::unexpected(
        Error("ERR_INVALID_CONFIG", message)
            .With("bytes", static_cast<std::int64_t>(bytes))
            .With("memoryBytes", static_cast<std::int64_t>(boot_bytes))
            .With("maxMemoryBytes",
                  static_cast<std::int64_t>(boot_bytes + config_.pluggable->max_bytes))));
  };
  if (bytes < boot_bytes) return refuse("a machine has at least the memory that it booted with");
  const std::uint64_t extra = bytes - boot_bytes;
  if (extra > config_.pluggable->max_bytes) {
    return refuse("the machine was made for at most " +
                  std::to_string((boot_bytes + config_.pluggable->max_bytes) / layout::kMiB) +
                  " MiB of memory");
  }
  if (extra % devices::mem::kBlockBytes != 0) {
    return refuse("memory comes and goes by 4 MiB, from " +
                  std::to_string(boot_bytes / layout::kMiB) + " MiB on");
  }
  devices_->ResizeMemory(extra, patience,
                         Completion<std::uint64_t>([boot_bytes, done = std::move(done)](
                                                       Result<std::uint64_t> plugged) mutable {
                           if (plugged.has_value()) *plugged += boot_bytes;
                           done(std::move(plugged));
                         }));
}

DriveConfig* MachineCore::FindDrive(const std::string& id) {
  const auto drive = std::ranges::find(config_.drives, id, &DriveConfig::id);
  if (drive != config_.drives.end()) return &*drive;
  for (PluggedDrive& plugged : config_.plugged) {
    if (plugged.drive.id == id) return &plugged.drive;
  }
  return nullptr;
}

bool MachineCore::HasEnded() const {
  const MachineState state = state_.load();
  return ending_.has_value() || devices_ == nullptr || state == MachineState::kStopped ||
         state == MachineState::kCrashed || state == MachineState::kClosed;
}

}  // namespace embervm::machine
