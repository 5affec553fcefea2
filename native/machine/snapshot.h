// Snapshot: what a machine is besides its memory and its disks, and the file that
// holds it: magic, version, length, checksums, then the state.
#ifndef EMBERVM_MACHINE_SNAPSHOT_H_
#define EMBERVM_MACHINE_SNAPSHOT_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "kvm/cpu_features.h"
#include "machine/config.h"
#include "memory/guest_memory.h"

namespace embervm::machine {

// A file beside the state file; see GuestMemory::FromFiles().
struct MemoryLayer {
  std::string name;
  std::vector<GuestMemory::Extent> extents;
};

struct Snapshot {
  CpuFeatures cpu;
  // How the machine was made; the paths of kernel and initrd are not part of it.
  MachineConfig config;
  // In the order of config.drives, then of config.plugged, in bytes.
  std::vector<std::uint64_t> drive_sizes;
  // The first is whole.
  std::vector<MemoryLayer> memory;
  // States that their owners understand: KVM's VM, each vCPU, ports, each device.
  std::vector<std::byte> vm;
  std::vector<std::vector<std::byte>> vcpus;
  std::vector<std::byte> ports;
  std::vector<std::vector<std::byte>> devices;
};

// Past it a state file is refused unread.
inline constexpr std::uint64_t kMaxStateBytes = std::uint64_t{64} << 20U;

// The whole file. ERR_SNAPSHOT_INVALID for one that is not ours, truncated or
// damaged, ERR_SNAPSHOT_VERSION for one of another version.
[[nodiscard]] std::vector<std::byte> EncodeSnapshot(const Snapshot& snapshot);
Result<Snapshot> DecodeSnapshot(std::span<const std::byte> file);

// What follows the header: for a fuzzer, which cannot guess checksums.
Result<Snapshot> DecodeSnapshotPayload(std::span<const std::byte> payload);

}  // namespace embervm::machine

#endif  // EMBERVM_MACHINE_SNAPSHOT_H_
