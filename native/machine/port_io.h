// PortIo: the few x86 I/O ports that a machine answers. Called on vCPU threads,
// by several at once.
#ifndef EMBERVM_MACHINE_PORT_IO_H_
#define EMBERVM_MACHINE_PORT_IO_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "base/result.h"
#include "base/state_stream.h"
#include "devices/serial/device.h"
#include "kvm/vcpu_exit.h"
#include "machine/observer.h"

namespace embervm::machine {

class PortIo {
 public:
  // `on_panic` is called when the guest signals that its kernel panicked.
  PortIo(std::unique_ptr<devices::SerialDevice> serial, std::function<void()> on_panic);

  // Fills in what the guest reads; an absent port reads as all ones.
  void Read(const IoIn& in);
  // A value ends the machine with it.
  std::optional<ExitInfo> Write(const IoOut& out);

  // While no vCPU runs.
  void Save(StateWriter& writer);
  Result<> Restore(StateReader& reader);

 private:
  std::optional<ExitInfo> WriteOne(std::uint16_t port, std::uint32_t value);

  std::unique_ptr<devices::SerialDevice> serial_;
  std::function<void()> on_panic_;
  std::atomic<bool> panicked_{false};
};

}  // namespace embervm::machine

#endif  // EMBERVM_MACHINE_PORT_IO_H_
