// LAR, LSL, VERR, VERW: questions about a segment selector, answered at CPL 0
// from the descriptor tables (SDM volume 2, at the instructions; volume 3 §3.4).
#include <optional>

#include "kvm/fixups/handlers.h"

namespace embervm::fixups {

namespace {

constexpr std::uint64_t kSelectorLdt = 4;
constexpr std::uint64_t kSelectorRpl = 3;
constexpr std::uint64_t kDescriptorSize = 8;

class Descriptor {
 public:
  explicit Descriptor(std::uint64_t value) : value_(value) {}

  [[nodiscard]] unsigned type() const { return (high() >> 8U) & 0xfU; }
  [[nodiscard]] bool system() const { return (high() & (1U << 12U)) == 0; }
  [[nodiscard]] unsigned privilege() const { return (high() >> 13U) & 3U; }
  [[nodiscard]] bool code() const { return !system() && (type() & 8U) != 0; }
  [[nodiscard]] bool conforming() const { return code() && (type() & 4U) != 0; }
  [[nodiscard]] bool readable() const { return !system() && (!code() || (type() & 2U) != 0); }
  [[nodiscard]] bool writable() const { return !system() && !code() && (type() & 2U) != 0; }
  [[nodiscard]] std::uint32_t access_rights() const { return high() & 0x00f0'ff00U; }
  [[nodiscard]] std::uint32_t limit() const {
    const std::uint32_t raw =
        (static_cast<std::uint32_t>(value_) & 0xffffU) | (high() & 0x000f'0000U);
    constexpr std::uint32_t kGranularity = 1U << 23U;
    return (high() & kGranularity) != 0 ? (raw << 12U) | 0xfffU : raw;
  }

 private:
  [[nodiscard]] std::uint32_t high() const { return static_cast<std::uint32_t>(value_ >> 32U); }

  std::uint64_t value_;
};

// Nothing when the selector names no descriptor that CPL 0 with this RPL sees.
Step<std::optional<Descriptor>> LoadDescriptor(const Context& context) {
  auto selector = context.LoadRm(sizeof(std::uint16_t));
  EMBERVM_STEP(selector);
  const bool local = (*selector & kSelectorLdt) != 0;
  const std::uint64_t offset = *selector & ~(kSelectorLdt | kSelectorRpl);
  if (!local && offset == 0) return std::nullopt;
  if (local && context.sregs.ldt.unusable != 0) return std::nullopt;
  const std::uint64_t base = local ? context.sregs.ldt.base : context.sregs.gdt.base;
  const std::uint64_t limit = local ? context.sregs.ldt.limit : context.sregs.gdt.limit;
  if (offset + kDescriptorSize - 1 > limit) return std::nullopt;
  auto value = context.memory.Load<std::uint64_t>(base + offset);
  EMBERVM_STEP(value);
  const Descriptor descriptor(*value);
  if (!descriptor.conforming() && descriptor.privilege() < (*selector & kSelectorRpl)) {
    return std::nullopt;
  }
  return descriptor;
}

// The system descriptors that 64-bit mode has: LDT, TSS (available and busy).
bool HasLimit(const Descriptor& descriptor) {
  const unsigned type = descriptor.type();
  return !descriptor.system() || type == 0x2 || type == 0x9 || type == 0xb;
}

bool HasAccessRights(const Descriptor& descriptor) {
  constexpr unsigned kCallGate = 0xc;
  return HasLimit(descriptor) || descriptor.type() == kCallGate;
}

}  // namespace

Step<> Lar(Context& context) {
  auto descriptor = LoadDescriptor(context);
  EMBERVM_STEP(descriptor);
  const bool valid = descriptor->has_value() && HasAccessRights(**descriptor);
  context.SetFlag(kFlagZero, valid);
  if (valid) {
    context.SetRegister(context.instruction.reg, context.OperandSize(),
                        (*descriptor)->access_rights());
  }
  return {};
}

Step<> Lsl(Context& context) {
  auto descriptor = LoadDescriptor(context);
  EMBERVM_STEP(descriptor);
  const bool valid = descriptor->has_value() && HasLimit(**descriptor);
  context.SetFlag(kFlagZero, valid);
  if (valid) {
    context.SetRegister(context.instruction.reg, context.OperandSize(), (*descriptor)->limit());
  }
  return {};
}

Step<> Verr(Context& context) {
  auto descriptor = LoadDescriptor(context);
  EMBERVM_STEP(descriptor);
  context.SetFlag(kFlagZero, descriptor->has_value() && (*descriptor)->readable());
  return {};
}

Step<> Verw(Context& context) {
  auto descriptor = LoadDescriptor(context);
  EMBERVM_STEP(descriptor);
  context.SetFlag(kFlagZero, descriptor->has_value() && (*descriptor)->writable());
  return {};
}

}  // namespace embervm::fixups
