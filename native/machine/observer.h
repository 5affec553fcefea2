// MachineObserver: where a machine tells what happened to it. Called on the
// machine's device thread; an implementation hands over and returns.
#ifndef EMBERVM_MACHINE_OBSERVER_H_
#define EMBERVM_MACHINE_OBSERVER_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace embervm::machine {

enum class ExitReason : std::uint8_t { kPowerOff, kReset, kPanic, kKilled, kFault };

struct ExitInfo {
  ExitReason reason = ExitReason::kKilled;
  std::string message;
  std::vector<std::pair<std::string, Error::Value>> context;
};

class MachineObserver {
 public:
  MachineObserver() = default;
  MachineObserver(const MachineObserver&) = delete;
  MachineObserver& operator=(const MachineObserver&) = delete;
  virtual ~MachineObserver() = default;

  // The guest connected to a port that the host listens on.
  virtual void OnVsockConnection(std::uint32_t port, std::uint32_t guest_port, UniqueFd stream) = 0;
  // The vCPUs are gone for good. Once per machine.
  virtual void OnExit(ExitInfo info) = 0;
  // A device was stopped because its driver broke the protocol.
  virtual void OnDeviceError(std::string device, std::string message) = 0;
  // The console ring dropped its first bytes.
  virtual void OnConsoleOverflow(std::uint64_t dropped_bytes) = 0;
};

}  // namespace embervm::machine

#endif  // EMBERVM_MACHINE_OBSERVER_H_
