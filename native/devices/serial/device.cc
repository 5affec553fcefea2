#include "devices/serial/device.h"

#include <sys/eventfd.h>

#include <cerrno>
#include <utility>

namespace embervm::devices {

namespace {

// Offsets from the port base; the first two change their meaning with DLAB.
constexpr std::uint16_t kData = 0;
constexpr std::uint16_t kInterruptEnable = 1;
constexpr std::uint16_t kInterruptId = 2;  // FIFO control when written.
constexpr std::uint16_t kLineControl = 3;
constexpr std::uint16_t kModemControl = 4;
constexpr std::uint16_t kLineStatus = 5;
constexpr std::uint16_t kModemStatus = 6;
constexpr std::uint16_t kScratch = 7;

constexpr std::uint8_t kEnableMask = 0x0f;
constexpr std::uint8_t kEnableTransmitEmpty = 0x02;
constexpr std::uint8_t kIdNone = 0x01;
constexpr std::uint8_t kIdTransmitEmpty = 0x02;
constexpr std::uint8_t kIdFifoEnabled = 0xc0;
constexpr std::uint8_t kFifoEnable = 0x01;
constexpr std::uint8_t kDivisorLatch = 0x80;
constexpr std::uint8_t kModemControlMask = 0x1f;
constexpr std::uint8_t kModemDtr = 0x01;
constexpr std::uint8_t kModemRts = 0x02;
constexpr std::uint8_t kModemOut1 = 0x04;
constexpr std::uint8_t kModemOut2 = 0x08;
constexpr std::uint8_t kModemLoop = 0x10;
constexpr std::uint8_t kStatusCts = 0x10;
constexpr std::uint8_t kStatusDsr = 0x20;
constexpr std::uint8_t kStatusRing = 0x40;
constexpr std::uint8_t kStatusCarrier = 0x80;
// A byte leaves the moment it is written: THRE and TEMT always hold.
constexpr std::uint8_t kLineStatusIdle = 0x60;
constexpr std::uint8_t kFloating = 0xff;

}  // namespace

Result<std::unique_ptr<SerialDevice>> SerialDevice::Create(ConsoleRing& ring) {
  UniqueFd irq_fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!irq_fd.valid()) {
    return std::unexpected(Error::FromErrno("ERR_RESOURCE_LIMIT", "eventfd", errno, "serial port"));
  }
  return std::unique_ptr<SerialDevice>(new SerialDevice(ring, std::move(irq_fd)));
}

std::uint8_t SerialDevice::Read(std::uint16_t offset) {
  const std::lock_guard lock(mutex_);
  const bool divisor = (line_control_ & kDivisorLatch) != 0;
  switch (offset) {
    case kData:
      return divisor ? divisor_low_ : 0;
    case kInterruptEnable:
      return divisor ? divisor_high_ : interrupt_enable_;
    case kInterruptId:
      return ReadInterruptId();
    case kLineControl:
      return line_control_;
    case kModemControl:
      return modem_control_;
    case kLineStatus:
      return kLineStatusIdle;
    case kModemStatus:
      return ModemStatus();
    case kScratch:
      return scratch_;
    default:
      return kFloating;
  }
}

void SerialDevice::Write(std::uint16_t offset, std::uint8_t value) {
  const std::lock_guard lock(mutex_);
  const bool divisor = (line_control_ & kDivisorLatch) != 0;
  switch (offset) {
    case kData:
      if (divisor) {
        divisor_low_ = value;
      } else {
        WriteTransmit(value);
      }
      return;
    case kInterruptEnable:
      if (divisor) {
        divisor_high_ = value;
      } else {
        WriteInterruptEnable(value);
      }
      return;
    case kInterruptId:
      fifo_control_ = value;
      return;
    case kLineControl:
      line_control_ = value;
      return;
    case kModemControl:
      modem_control_ = value & kModemControlMask;
      return;
    case kScratch:
      scratch_ = value;
      return;
    default:
      return;
  }
}

std::uint8_t SerialDevice::ReadInterruptId() {
  const std::uint8_t fifo = (fifo_control_ & kFifoEnable) != 0 ? kIdFifoEnabled : 0;
  // Reading the cause acknowledges it.
  const bool pending = std::exchange(transmit_empty_pending_, false);
  return static_cast<std::uint8_t>(fifo | (pending ? kIdTransmitEmpty : kIdNone));
}

std::uint8_t SerialDevice::ModemStatus() const {
  if ((modem_control_ & kModemLoop) == 0) return kStatusCts | kStatusDsr | kStatusCarrier;
  // In loopback the outputs feed the inputs; drivers use it to find out that we are here.
  const auto wire = [this](std::uint8_t output, std::uint8_t input) {
    return (modem_control_ & output) != 0 ? input : std::uint8_t{0};
  };
  return static_cast<std::uint8_t>(wire(kModemRts, kStatusCts) | wire(kModemDtr, kStatusDsr) |
                                   wire(kModemOut1, kStatusRing) |
                                   wire(kModemOut2, kStatusCarrier));
}

void SerialDevice::WriteInterruptEnable(std::uint8_t value) {
  const std::uint8_t old = std::exchange(interrupt_enable_, value & kEnableMask);
  const auto enabled = static_cast<std::uint8_t>(interrupt_enable_ & ~old);
  // Enabling it while the transmitter is empty raises it at once; Linux tests for this.
  if ((enabled & kEnableTransmitEmpty) != 0) RaiseTransmitEmpty();
  if ((interrupt_enable_ & kEnableTransmitEmpty) == 0) transmit_empty_pending_ = false;
}

void SerialDevice::WriteTransmit(std::uint8_t value) {
  // In loopback the byte would come back on the receiver, which there is none of.
  if ((modem_control_ & kModemLoop) == 0) ring_.Append(std::byte{value});
  if ((interrupt_enable_ & kEnableTransmitEmpty) != 0) RaiseTransmitEmpty();
}

void SerialDevice::RaiseTransmitEmpty() {
  transmit_empty_pending_ = true;
  const std::uint64_t one = 1;
  // Cannot fail: a full counter is an interrupt that is pending already.
  [[maybe_unused]] const ssize_t written = ::write(irq_fd_.get(), &one, sizeof(one));
}

void SerialDevice::Save(StateWriter& writer) {
  const std::lock_guard lock(mutex_);
  for (const std::uint8_t value : {interrupt_enable_, fifo_control_, line_control_, modem_control_,
                                   scratch_, divisor_low_, divisor_high_}) {
    writer.Value(value);
  }
  writer.Value<std::uint8_t>(transmit_empty_pending_ ? 1 : 0);
}

Result<> SerialDevice::Restore(StateReader& reader) {
  const std::lock_guard lock(mutex_);
  for (std::uint8_t* const value : {&interrupt_enable_, &fifo_control_, &line_control_,
                                    &modem_control_, &scratch_, &divisor_low_, &divisor_high_}) {
    *value = reader.Value<std::uint8_t>();
  }
  const bool pending = reader.Flag();
  if (!reader.ok()) return std::unexpected(InvalidState("the serial port"));
  interrupt_enable_ &= kEnableMask;
  modem_control_ &= kModemControlMask;
  // A driver that waits for it would wait for ever.
  if (pending) RaiseTransmitEmpty();
  return {};
}

}  // namespace embervm::devices
