#include "machine/port_io.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace embervm::machine {

namespace {

// The keyboard controller: Linux pulses the reset line through it (reboot=k).
constexpr std::uint16_t kKeyboardCommand = 0x64;
constexpr std::uint32_t kPulseReset = 0xfe;

// A PM1a control register where QEMU's PIIX4 has it: SLP_EN with sleep type 0
// is power-off. Our guest kernel writes it without ACPI.
constexpr std::uint16_t kPowerControl = 0x604;
constexpr std::uint32_t kSleepEnable = 0x2000;

// QEMU's pvpanic device (docs/specs/pvpanic.rst): reads as the events it takes.
constexpr std::uint16_t kPanicPort = 0x505;
constexpr std::uint8_t kPanicked = 0x1;

using devices::SerialDevice;

bool IsSerial(std::uint16_t port) {
  return port >= SerialDevice::kPortBase &&
         port < SerialDevice::kPortBase + SerialDevice::kPortCount;
}

}  // namespace

PortIo::PortIo(std::unique_ptr<SerialDevice> serial, std::function<void()> on_panic)
    : serial_(std::move(serial)), on_panic_(std::move(on_panic)) {}

void PortIo::Read(const IoIn& in) {
  std::ranges::fill(in.data, std::byte{0xff});
  for (std::uint32_t i = 0; i < in.count; ++i) {
    std::byte& first = in.data[std::size_t{i} * in.size];
    if (IsSerial(in.port)) {
      first =
          std::byte{serial_->Read(static_cast<std::uint16_t>(in.port - SerialDevice::kPortBase))};
    } else if (in.port == kKeyboardCommand) {
      first = std::byte{0};  // Input buffer empty: a command may be written.
    } else if (in.port == kPanicPort) {
      first = std::byte{kPanicked};
    }
  }
}

std::optional<ExitInfo> PortIo::Write(const IoOut& out) {
  for (std::uint32_t i = 0; i < out.count; ++i) {
    std::uint32_t value = 0;
    const auto item = out.data.subspan(std::size_t{i} * out.size, out.size);
    std::memcpy(&value, item.data(), std::min(item.size(), sizeof(value)));
    if (auto end = WriteOne(out.port, value); end.has_value()) return end;
  }
  return std::nullopt;
}

void PortIo::Save(StateWriter& writer) {
  writer.Value<std::uint8_t>(panicked_.load() ? 1 : 0);
  serial_->Save(writer);
}

Result<> PortIo::Restore(StateReader& reader) {
  panicked_.store(reader.Flag());
  return serial_->Restore(reader);
}

std::optional<ExitInfo> PortIo::WriteOne(std::uint16_t port, std::uint32_t value) {
  if (IsSerial(port)) {
    serial_->Write(static_cast<std::uint16_t>(port - SerialDevice::kPortBase),
                   static_cast<std::uint8_t>(value));
    return std::nullopt;
  }
  if (port == kPanicPort && (value & kPanicked) != 0) {
    if (!panicked_.exchange(true)) on_panic_();
    return std::nullopt;
  }
  if (port == kKeyboardCommand && value == kPulseReset) {
    if (panicked_.load()) {
      return ExitInfo{
          .reason = ExitReason::kPanic, .message = "the guest kernel panicked", .context = {}};
    }
    return ExitInfo{
        .reason = ExitReason::kReset, .message = "the guest asked for a reset", .context = {}};
  }
  if (port == kPowerControl && (value & kSleepEnable) != 0) {
    return ExitInfo{
        .reason = ExitReason::kPowerOff, .message = "the guest powered off", .context = {}};
  }
  return std::nullopt;
}

}  // namespace embervm::machine
