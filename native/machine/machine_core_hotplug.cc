// MachineCore: devices that come and go while the guest runs. config_ follows what is in
// the slots, so that a snapshot tells it.
#include <algorithm>
#include <string>
#include <utility>

#include "machine/machine_core.h"

namespace embervm::machine {

void MachineCore::AttachDrive(DriveConfig drive, Completion<PluggedDevice> done) {
  done(Plug(std::move(drive)));
}

void MachineCore::Detach(const std::string& id, Completion<> done) { done(Unplug(id)); }

Result<PluggedDevice> MachineCore::Plug(DriveConfig drive) {
  if (HasEnded()) return std::unexpected(WrongState("attach a drive to"));
  if (FindDrive(drive.id) != nullptr) {
    return std::unexpected(
        Error("ERR_DEVICE_EXISTS", "the machine has a drive " + drive.id + " already")
            .With("id", drive.id));
  }
  std::vector<PluggedDrive>& plugged = config_.plugged;
  std::uint32_t slot = 0;
  while (std::ranges::find(plugged, slot, &PluggedDrive::slot) != plugged.end()) ++slot;
  if (slot >= config_.hotplug_slots) {
    return std::unexpected(
        Error("ERR_NO_FREE_SLOT",
              config_.hotplug_slots == 0
                  ? "the machine was made without hotplug slots"
                  : "every hotplug slot of the machine has a device: detach one first")
            .With("slots", static_cast<std::int64_t>(config_.hotplug_slots)));
  }
  PluggedDrive device{.slot = slot, .drive = std::move(drive)};
  EMBERVM_TRY_ASSIGN(const PluggedDevice where, devices_->AttachDrive(device));
  plugged.push_back(std::move(device));
  return where;
}

Result<> MachineCore::Unplug(const std::string& id) {
  if (HasEnded()) return std::unexpected(WrongState("detach a device from"));
  std::vector<PluggedDrive>& plugged = config_.plugged;
  const auto device = std::ranges::find(
      plugged, id, [](const PluggedDrive& candidate) { return candidate.drive.id; });
  if (device == plugged.end()) {
    return std::unexpected(
        Error("ERR_DEVICE_NOT_FOUND", "no hotplug slot of the machine has a device " + id)
            .With("id", id));
  }
  EMBERVM_TRY(devices_->Detach(device->slot));
  plugged.erase(device);
  return {};
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
