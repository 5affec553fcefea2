// What a machine is made of: plain, complete, defaulted by the caller.
#ifndef EMBERVM_MACHINE_CONFIG_H_
#define EMBERVM_MACHINE_CONFIG_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "devices/block/options.h"
#include "devices/fs/options.h"
#include "memory/guest_memory.h"

namespace embervm::machine {

using DriveConfig = devices::BlockOptions;

// Empty slots in which devices can be put later; each takes an interrupt line.
inline constexpr std::uint32_t kMaxHotplugSlots = 8;

// A drive in one of the machine's hotplug slots.
struct PluggedDrive {
  // From 0, below MachineConfig::hotplug_slots.
  std::uint32_t slot = 0;
  DriveConfig drive;
};

// A shared directory in one. A machine that has some cannot be saved.
struct PluggedDirectory {
  std::uint32_t slot = 0;
  devices::FsOptions directory;
};

// Where the guest finds what was put into a slot.
struct PluggedDevice {
  // Of the machine's virtio-mmio slots, in the order of the kernel's command line.
  std::uint32_t index = 0;
  std::uint64_t address = 0;
  std::uint32_t irq = 0;
};

// Numbers of 4 KiB pages.
struct BalloonConfig {
  // How many the balloon should have.
  std::uint32_t target_pages = 0;
  // How many it has: in a snapshot.
  std::uint32_t actual_pages = 0;
};

// Memory that the guest can have beyond what it boots with, in bytes: whole mem::kBlockBytes.
struct PluggableMemoryConfig {
  std::uint64_t max_bytes = 0;
  // How much of it the guest should have.
  std::uint64_t requested_bytes = 0;
  // What it has, by its place in the pluggable region: in a snapshot.
  std::vector<GuestMemory::Extent> plugged;

  // Of the region, for a guest that boots with `boot_bytes`.
  [[nodiscard]] std::uint64_t RegionBytes(std::uint64_t boot_bytes) const {
    const std::uint64_t alignment = GuestMemory::PluggableAlignment(boot_bytes);
    return (max_bytes + alignment - 1) / alignment * alignment;
  }
};

struct MachineConfig {
  std::string kernel_path;
  // Empty: the kernel needs none.
  std::string initrd_path;
  // The caller's part; what the host kind and the devices need is appended.
  std::string command_line;
  std::uint32_t vcpus = 1;
  std::uint64_t memory_mib = 0;
  // Absent: it stays at that.
  std::optional<PluggableMemoryConfig> pluggable;
  std::vector<DriveConfig> drives;
  // A machine that has some cannot be saved.
  std::vector<devices::FsOptions> shared_dirs;
  std::uint32_t hotplug_slots = 0;
  // What is in them now: nothing at boot.
  std::vector<PluggedDrive> plugged;
  std::vector<PluggedDirectory> plugged_dirs;
  // Absent: no vsock device.
  std::optional<std::uint64_t> vsock_cid;
  bool rng = true;
  // Absent: no balloon device.
  std::optional<BalloonConfig> balloon;
  bool console = true;
  std::size_t console_bytes = 0;
};

// What is different from the machine that the snapshot was taken of.
struct RestoreConfig {
  std::string directory;
  // Files for its drives, by their ids; the others keep their paths.
  struct Drive {
    std::string id;
    std::string path;
    // Absent: as it was. Otherwise a snapshot where it was not is refused.
    std::optional<bool> read_only = std::nullopt;
  };
  std::vector<Drive> drives;
  // Refuses a snapshot with other drives: they would be opened by paths that it names.
  bool only_these_drives = false;
  std::optional<std::uint64_t> vsock_cid;
  std::optional<std::size_t> console_bytes;
};

enum class SnapshotKind : std::uint8_t {
  kFull,
  // What differs from the snapshot that the machine was restored from, which the new
  // one shares; full where there is none.
  kDiff,
};

struct SnapshotRequest {
  std::string directory;
  SnapshotKind kind = SnapshotKind::kFull;
};

struct SnapshotReport {
  // What was made, which may be more than was asked for.
  SnapshotKind kind = SnapshotKind::kFull;
  // How long the guest stood still.
  std::int64_t pause_ns = 0;
  std::uint64_t memory_bytes = 0;
  std::uint64_t state_bytes = 0;
};

}  // namespace embervm::machine

#endif  // EMBERVM_MACHINE_CONFIG_H_
