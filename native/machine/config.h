// What a machine is made of: plain, complete, defaulted by the caller.
#ifndef EMBERVM_MACHINE_CONFIG_H_
#define EMBERVM_MACHINE_CONFIG_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace embervm::machine {

struct DriveConfig {
  // What the guest reads by GET_ID: at most 20 bytes.
  std::string id;
  std::string path;
  bool read_only = false;
};

struct MachineConfig {
  std::string kernel_path;
  // Empty: the kernel needs none.
  std::string initrd_path;
  // The caller's part; what the host kind and the devices need is appended.
  std::string command_line;
  std::uint32_t vcpus = 1;
  std::uint64_t memory_mib = 0;
  std::vector<DriveConfig> drives;
  // Absent: no vsock device.
  std::optional<std::uint64_t> vsock_cid;
  bool rng = true;
  bool console = true;
  std::size_t console_bytes = 0;
};

}  // namespace embervm::machine

#endif  // EMBERVM_MACHINE_CONFIG_H_
