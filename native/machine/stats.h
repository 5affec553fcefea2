// Counters of a machine, read without a round trip to its threads.
#ifndef EMBERVM_MACHINE_STATS_H_
#define EMBERVM_MACHINE_STATS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace embervm::machine {

struct VcpuUsage {
  // All, also those that KVM serves itself.
  std::uint64_t exits = 0;
  // Accesses to registers and ports that the monitor served.
  std::uint64_t device_exits = 0;
  // -1 where the host does not count.
  std::int64_t emulated_instructions = -1;
  // Until the last time that it woke; -1 where the host does not count.
  std::int64_t halted_ns = -1;
  std::uint64_t cpu_time_ns = 0;
  // Of that, what devices took to serve registers and ports: the monitor's work on the
  // guest's thread. Fix-ups are not in it: emulating an instruction is the guest's time,
  // whether KVM does it or we. By the monotonic clock, so waits for a lock are in it.
  std::uint64_t device_time_ns = 0;
};

struct DriveStats {
  std::string id;
  std::uint64_t read_bytes = 0;
  std::uint64_t written_bytes = 0;
  std::uint64_t reads = 0;
  std::uint64_t writes = 0;
  std::uint64_t flushes = 0;
  std::uint64_t errors = 0;
};

struct SharedDirStats {
  std::string tag;
  std::uint64_t requests = 0;
  std::uint64_t errors = 0;
  std::uint64_t read_bytes = 0;
  std::uint64_t written_bytes = 0;
  // Descriptors that are held for the guest.
  std::uint64_t open_files = 0;
};

struct BalloonStats {
  std::uint64_t target_bytes = 0;
  std::uint64_t actual_bytes = 0;
  std::uint64_t reported_bytes = 0;
};

// What the guest has and should have, with what it booted with.
struct MemoryStats {
  std::uint64_t bytes = 0;
  std::uint64_t target_bytes = 0;
};

struct MachineStats {
  // CLOCK_MONOTONIC when the vCPUs' counters were read, right after them.
  std::int64_t at_ns = 0;
  std::vector<VcpuUsage> vcpus;
  std::vector<std::pair<std::string, std::uint64_t>> fixups;
  // From the create call to the first KVM_RUN; -1 before the start.
  std::int64_t setup_ns = -1;
  std::uint64_t console_bytes = 0;
  std::uint64_t console_dropped_bytes = 0;
  std::vector<DriveStats> drives;
  std::vector<SharedDirStats> shared_dirs;
  // Absent: no balloon device.
  std::optional<BalloonStats> balloon;
  // Absent: no pluggable memory.
  std::optional<MemoryStats> memory;
  std::uint64_t vsock_connections = 0;
  std::uint64_t vsock_tx_bytes = 0;
  std::uint64_t vsock_rx_bytes = 0;
  std::uint64_t interrupts = 0;
};

}  // namespace embervm::machine

#endif  // EMBERVM_MACHINE_STATS_H_
