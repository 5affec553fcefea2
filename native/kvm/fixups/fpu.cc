// The few x87, MMX and SSE control instructions of a kernel's FPU code.
#include <algorithm>
#include <bit>

#include "kvm/fixups/handlers.h"
#include "kvm/fixups/xsave_image.h"

namespace embervm::fixups {

namespace {

constexpr std::uint64_t kX87 = 1U << 0U;
constexpr std::uint64_t kSse = 1U << 1U;

// x87 status word, SDM volume 1 §8.1.3.
constexpr unsigned kFswInvalid = 1U << 0U;
constexpr unsigned kFswStackFault = 1U << 6U;
constexpr unsigned kFswErrorSummary = 1U << 7U;
constexpr unsigned kFswC1 = 1U << 9U;
constexpr unsigned kFswTopShift = 11;
constexpr unsigned kFswTopMask = 7U << kFswTopShift;
// FNCLEX clears the exception flags, SF, ES and B.
constexpr unsigned kFswExceptions = 0x80ff;
constexpr unsigned kFcwExceptionMasks = 0x3f;

Step<XsaveImage> LoadImage(const Context& context) {
  auto state = FromResult(context.vcpu.GetXsave());
  EMBERVM_STEP(state);
  return XsaveImage(*state);
}

// Both legacy components are marked as in use: what was not saved reads as its
// initial values, and KVM then loads all of it.
Step<> StoreImage(Context& context, XsaveImage& image) {
  image.set_in_use(image.in_use() | kX87 | kSse);
  return FromResult(context.vcpu.SetXsave(image.state()));
}

// x87 and MMX instructions but WAIT: #UD (EM, for MMX), #NM, then #MF for an
// exception that an earlier instruction left pending.
Step<XsaveImage> BeginX87(const Context& context, bool waiting) {
  if ((context.sregs.cr0 & (kCr0Em | kCr0Ts)) != 0) {
    return std::unexpected(MakeFault(kDeviceNotAvailable));
  }
  auto image = LoadImage(context);
  EMBERVM_STEP(image);
  if (waiting && (image->Load<std::uint16_t>(kFswOffset) & kFswErrorSummary) != 0) {
    return std::unexpected(MakeFault(kMathFault));
  }
  return image;
}

Step<> CheckSse(const Context& context) {
  if ((context.sregs.cr0 & kCr0Em) != 0 || (context.sregs.cr4 & kCr4OsFxsr) == 0) {
    return std::unexpected(MakeFault(kInvalidOpcode));
  }
  if ((context.sregs.cr0 & kCr0Ts) != 0) return std::unexpected(MakeFault(kDeviceNotAvailable));
  return {};
}

// A 32-bit integer as an 80-bit float: 64 bits of significand, then sign and
// exponent.
struct Float80 {
  std::uint64_t significand;
  std::uint16_t sign_exponent;
};

Float80 ToFloat80(std::int32_t value) {
  constexpr unsigned kBias = 16383;
  constexpr unsigned kSignificandBits = 64;
  constexpr unsigned kSignBit = 0x8000;
  if (value == 0) return {.significand = 0, .sign_exponent = 0};
  const std::uint64_t magnitude =
      value < 0 ? std::uint64_t{0} - static_cast<std::uint64_t>(std::int64_t{value})
                : static_cast<std::uint64_t>(value);
  const auto shift = static_cast<unsigned>(std::countl_zero(magnitude));
  const unsigned exponent = kBias + kSignificandBits - 1 - shift;
  return {.significand = magnitude << shift,
          .sign_exponent = static_cast<std::uint16_t>(exponent | (value < 0 ? kSignBit : 0U))};
}

}  // namespace

Step<> Fwait(Context& context) {
  // SDM volume 3 §2.5: with MP set, WAIT heeds TS.
  constexpr std::uint64_t kBoth = kCr0Mp | kCr0Ts;
  if ((context.sregs.cr0 & kBoth) == kBoth) {
    return std::unexpected(MakeFault(kDeviceNotAvailable));
  }
  auto fpu = FromResult(context.vcpu.GetFpu());
  EMBERVM_STEP(fpu);
  if ((fpu->fsw & kFswErrorSummary) != 0) return std::unexpected(MakeFault(kMathFault));
  return {};
}

Step<> Fnclex(Context& context) {
  auto image = BeginX87(context, false);
  EMBERVM_STEP(image);
  const auto status = image->Load<std::uint16_t>(kFswOffset);
  image->Store(kFswOffset, static_cast<std::uint16_t>(status & ~kFswExceptions));
  return StoreImage(context, *image);
}

Step<> Emms(Context& context) {
  if ((context.sregs.cr0 & kCr0Em) != 0) return std::unexpected(MakeFault(kInvalidOpcode));
  auto image = BeginX87(context, true);
  EMBERVM_STEP(image);
  // The tag word of FXSAVE is abridged: a clear bit is an empty register.
  image->Store(kFtwOffset, std::uint8_t{0});
  return StoreImage(context, *image);
}

Step<> FnstswAx(Context& context) {
  auto image = BeginX87(context, false);
  EMBERVM_STEP(image);
  context.SetRegister(0, sizeof(std::uint16_t), image->Load<std::uint16_t>(kFswOffset));
  return {};
}

Step<> Fldcw(Context& context) {
  auto image = BeginX87(context, true);
  EMBERVM_STEP(image);
  auto control = context.memory.Load<std::uint16_t>(context.OperandAddress());
  EMBERVM_STEP(control);
  // Bit 6 is reserved and reads as 1. Unmasking a flag that is set makes it pending.
  constexpr unsigned kReservedSet = 0x40;
  image->Store(kFcwOffset, static_cast<std::uint16_t>(*control | kReservedSet));
  unsigned status = image->Load<std::uint16_t>(kFswOffset);
  constexpr unsigned kBusy = 1U << 15U;
  const bool pending = (status & ~unsigned{*control} & kFcwExceptionMasks) != 0;
  status &= ~(kFswErrorSummary | kBusy);
  if (pending) status |= kFswErrorSummary | kBusy;
  image->Store(kFswOffset, static_cast<std::uint16_t>(status));
  return StoreImage(context, *image);
}

// Kernels load a constant this way so that the x87 pointers no longer tell of
// the process before (the FXSAVE leak of older AMD processors).
Step<> Fild32(Context& context) {
  auto image = BeginX87(context, true);
  EMBERVM_STEP(image);
  auto value = context.memory.Load<std::int32_t>(context.OperandAddress());
  EMBERVM_STEP(value);
  unsigned status = image->Load<std::uint16_t>(kFswOffset);
  const unsigned top = (((status & kFswTopMask) >> kFswTopShift) - 1) % kStCount;
  const unsigned tags = image->Load<std::uint8_t>(kFtwOffset);
  Float80 result = ToFloat80(*value);
  status &= ~kFswC1;
  if ((tags & (1U << top)) != 0) {
    // Stack overflow: the indefinite QNaN where that is masked, else no push.
    status |= kFswInvalid | kFswStackFault | kFswC1;
    if ((image->Load<std::uint16_t>(kFcwOffset) & kFswInvalid) == 0) {
      image->Store(kFswOffset, static_cast<std::uint16_t>(status | kFswErrorSummary));
      return StoreImage(context, *image);
    }
    result = {.significand = 0xc000'0000'0000'0000, .sign_exponent = 0xffff};
  }
  // The image keeps the registers relative to the top of the stack.
  const auto stack = image->bytes().subspan(kStOffset, kStSize * kStCount);
  std::ranges::rotate(stack, stack.end() - kStSize);
  std::ranges::fill(stack.first(kStSize), std::byte{0});
  StoreLe(stack, 0, result.significand);
  StoreLe(stack, sizeof(result.significand), result.sign_exponent);
  image->Store(kFtwOffset, static_cast<std::uint8_t>(tags | (1U << top)));
  image->Store(kFswOffset,
               static_cast<std::uint16_t>((status & ~kFswTopMask) | (top << kFswTopShift)));
  image->Store(kFipOffset, context.regs.rip);
  image->Store(kFdpOffset, context.OperandAddress());
  return StoreImage(context, *image);
}

Step<> Ldmxcsr(Context& context) {
  EMBERVM_STEP(CheckSse(context));
  auto value = context.memory.Load<std::uint32_t>(context.OperandAddress());
  EMBERVM_STEP(value);
  auto image = LoadImage(context);
  EMBERVM_STEP(image);
  if ((*value & ~image->Load<std::uint32_t>(kMxcsrMaskOffset)) != 0) {
    return std::unexpected(ProtectionFault());
  }
  image->Store(kMxcsrOffset, *value);
  return StoreImage(context, *image);
}

Step<> Stmxcsr(Context& context) {
  EMBERVM_STEP(CheckSse(context));
  auto image = LoadImage(context);
  EMBERVM_STEP(image);
  return context.memory.Write(context.OperandAddress(),
                              image->bytes().subspan(kMxcsrOffset, sizeof(std::uint32_t)));
}

}  // namespace embervm::fixups
