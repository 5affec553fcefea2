#include "machine/exit_report.h"

#include <span>
#include <string>
#include <utility>
#include <variant>

namespace embervm::machine {

namespace {

constexpr std::string_view kDigits = "0123456789abcdef";

std::string Hex(std::uint64_t value) {
  std::string digits;
  do {
    digits.insert(digits.begin(), kDigits.at(value % kDigits.size()));
    value /= kDigits.size();
  } while (value != 0);
  return "0x" + digits;
}

std::string HexBytes(std::span<const std::byte> bytes) {
  std::string text;
  for (const std::byte byte : bytes) {
    const auto value = std::to_integer<unsigned>(byte);
    if (!text.empty()) text += ' ';
    text += kDigits.at(value / kDigits.size());
    text += kDigits.at(value % kDigits.size());
  }
  return text;
}

ExitInfo Fault(std::uint32_t index, std::string message) {
  ExitInfo info{.reason = ExitReason::kFault, .message = std::move(message), .context = {}};
  info.context.emplace_back("vcpu", static_cast<std::int64_t>(index));
  return info;
}

}  // namespace

ExitInfo DescribeFatalExit(const VcpuExit& exit, std::uint32_t index) {
  if (std::holds_alternative<Shutdown>(exit)) {
    ExitInfo info = Fault(index, "triple fault: the guest kernel lost its descriptor tables");
    info.reason = ExitReason::kReset;
    return info;
  }
  if (const auto* const failure = std::get_if<EmulationFailure>(&exit)) {
    const std::string bytes = HexBytes(std::span(failure->bytes).first(failure->size));
    ExitInfo info = Fault(
        index, "KVM cannot emulate the guest instruction at " + Hex(failure->rip) + ": " + bytes);
    info.context.emplace_back("rip", Hex(failure->rip));
    info.context.emplace_back("bytes", bytes);
    return info;
  }
  if (const auto* const error = std::get_if<InternalError>(&exit)) {
    ExitInfo info = Fault(index, "KVM internal error, suberror " + std::to_string(error->suberror));
    info.context.emplace_back("suberror", static_cast<std::int64_t>(error->suberror));
    std::string data;
    for (const std::uint64_t word : std::span(error->data).first(error->size)) {
      data += (data.empty() ? "" : " ") + Hex(word);
    }
    info.context.emplace_back("data", data);
    return info;
  }
  if (const auto* const entry = std::get_if<FailEntry>(&exit)) {
    ExitInfo info =
        Fault(index, "the processor refused the vCPU's state, reason " + Hex(entry->reason));
    info.context.emplace_back("hardwareReason", Hex(entry->reason));
    return info;
  }
  if (const auto* const event = std::get_if<SystemEvent>(&exit)) {
    ExitInfo info = Fault(index, "KVM system event " + std::to_string(event->type));
    info.context.emplace_back("type", static_cast<std::int64_t>(event->type));
    return info;
  }
  if (const auto* const unknown = std::get_if<UnknownExit>(&exit)) {
    ExitInfo info =
        Fault(index, "KVM left the guest for reason " + std::to_string(unknown->reason));
    info.context.emplace_back("exitReason", static_cast<std::int64_t>(unknown->reason));
    return info;
  }
  return Fault(index, "the vCPU halted without an interrupt controller");
}

}  // namespace embervm::machine
