// System instructions that KVM's emulator lacks.
#include <array>

#include "base/bytes.h"
#include "kvm/fixups/handlers.h"

namespace embervm::fixups {

namespace {

constexpr std::uint32_t kMsrTsc = 0x10;
constexpr std::uint32_t kMsrTscAux = 0xc000'0103;
constexpr std::uint64_t kCr4Pge = 1U << 7U;
constexpr std::uint64_t kCr4Pcide = 1U << 17U;

constexpr unsigned kHalfBits = 32;
constexpr std::uint64_t kLow32 = 0xffff'ffff;

}  // namespace

Step<> Stac(Context& context) {
  context.SetFlag(kFlagAlignment, true);
  return {};
}

Step<> Clac(Context& context) {
  context.SetFlag(kFlagAlignment, false);
  return {};
}

Step<> Int3(Context& context) {
  context.trap = kBreakpoint;
  return {};
}

Step<> Rdtscp(Context& context) {
  std::array<kvm_msr_entry, 2> msrs{};
  msrs[0].index = kMsrTsc;
  msrs[1].index = kMsrTscAux;
  EMBERVM_STEP(FromResult(context.vcpu.GetMsrs(msrs)));
  context.regs.rax = msrs[0].data & kLow32;
  context.regs.rdx = msrs[0].data >> kHalfBits;
  context.regs.rcx = msrs[1].data & kLow32;
  return {};
}

// SDM volume 2, INVPCID. Flushing everything is always allowed.
Step<> Invpcid(Context& context) {
  constexpr std::uint64_t kLastType = 3;
  constexpr std::uint64_t kPcidMask = 0xfff;
  std::array<std::byte, 16> descriptor{};
  EMBERVM_STEP(context.memory.Read(context.OperandAddress(), descriptor));
  const auto pcid = LoadLe<std::uint64_t>(descriptor, 0);
  const auto linear = LoadLe<std::uint64_t>(descriptor, 8);
  const std::uint64_t type = context.Register(context.instruction.reg);
  const bool one_pcid = type <= 1;
  if (type > kLastType || (pcid & ~kPcidMask) != 0 ||
      (one_pcid && pcid != 0 && (context.sregs.cr4 & kCr4Pcide) == 0) ||
      (type == 0 && !context.memory.IsCanonical(linear))) {
    return std::unexpected(ProtectionFault());
  }
  // A change of CR4.PGE flushes the TLB, global entries too (SDM volume 3
  // §4.10.4.1); KVM does so when it loads the registers.
  kvm_sregs toggled = context.sregs;
  toggled.cr4 ^= kCr4Pge;
  EMBERVM_STEP(FromResult(context.vcpu.SetSregs(toggled)));
  EMBERVM_STEP(FromResult(context.vcpu.SetSregs(context.sregs)));
  return {};
}

// Guest RAM is the host's coherent memory: there is nothing to write back, but
// a bad address must fault.
Step<> Clwb(Context& context) {
  auto mapped = context.memory.Map(context.OperandAddress(), 1, Access::kRead);
  EMBERVM_STEP(mapped);
  return {};
}

// MONITOR and MWAIT: waking up at once is always allowed.
Step<> Nothing(Context& /*context*/) { return {}; }

}  // namespace embervm::fixups
