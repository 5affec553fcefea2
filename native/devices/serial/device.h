// SerialDevice: a 16550A that only transmits, for output before virtio-console is up
// and for panics. Enough for earlyprintk, earlycon and the probing of Linux' 8250
// driver. Called by vCPU threads; output goes to the ConsoleRing.
#ifndef EMBERVM_DEVICES_SERIAL_DEVICE_H_
#define EMBERVM_DEVICES_SERIAL_DEVICE_H_

#include <cstdint>
#include <memory>
#include <mutex>

#include "base/result.h"
#include "base/state_stream.h"
#include "base/unique_fd.h"
#include "devices/console/ring.h"

namespace embervm::devices {

class SerialDevice {
 public:
  static constexpr std::uint16_t kPortBase = 0x3f8;
  static constexpr std::uint16_t kPortCount = 8;
  static constexpr std::uint32_t kIrq = 4;

  // `ring` must outlive the device.
  static Result<std::unique_ptr<SerialDevice>> Create(ConsoleRing& ring);
  SerialDevice(const SerialDevice&) = delete;
  SerialDevice& operator=(const SerialDevice&) = delete;
  ~SerialDevice() = default;

  // `offset` is the port less kPortBase. Offsets past the last register read as 0xff
  // and ignore writes. Any thread.
  [[nodiscard]] std::uint8_t Read(std::uint16_t offset);
  void Write(std::uint16_t offset, std::uint8_t value);

  // While no vCPU runs. A restored port raises an interrupt that was pending again.
  void Save(StateWriter& writer);
  Result<> Restore(StateReader& reader);

  // The machine may bind it to kIrq (edge): the transmitter-empty interrupt.
  [[nodiscard]] int irq_fd() const { return irq_fd_.get(); }

 private:
  SerialDevice(ConsoleRing& ring, UniqueFd irq_fd) : ring_(ring), irq_fd_(std::move(irq_fd)) {}

  // With mutex_ held.
  [[nodiscard]] std::uint8_t ReadInterruptId();
  [[nodiscard]] std::uint8_t ModemStatus() const;
  void WriteInterruptEnable(std::uint8_t value);
  void WriteTransmit(std::uint8_t value);
  void RaiseTransmitEmpty();

  ConsoleRing& ring_;
  const UniqueFd irq_fd_;

  std::mutex mutex_;
  // Guarded by mutex_.
  std::uint8_t interrupt_enable_ = 0;
  std::uint8_t fifo_control_ = 0;
  std::uint8_t line_control_ = 0;
  std::uint8_t modem_control_ = 0;
  std::uint8_t scratch_ = 0;
  std::uint8_t divisor_low_ = 0;
  std::uint8_t divisor_high_ = 0;
  bool transmit_empty_pending_ = false;
};

}  // namespace embervm::devices

#endif  // EMBERVM_DEVICES_SERIAL_DEVICE_H_
