// XSAVE, XSAVEOPT, XRSTOR and XGETBV in the standard format (SDM volume 1
// §13.7-13.9). The compacted forms are switched off in the guest's CPUID.
#include <cpuid.h>

#include <algorithm>
#include <array>
#include <bit>
#include <vector>

#include "base/checked.h"
#include "kvm/fixups/handlers.h"
#include "kvm/fixups/xsave_image.h"

namespace embervm::fixups {

namespace {

constexpr std::uint64_t kX87 = 1U << 0U;
constexpr std::uint64_t kSse = 1U << 1U;
constexpr std::uint64_t kAvx = 1U << 2U;
constexpr unsigned kFirstExtended = 2;
constexpr unsigned kComponents = 63;
constexpr std::uint32_t kCpuidXsave = 0xd;
constexpr std::uint64_t kAlignment = 64;

struct Piece {
  std::size_t offset;
  std::size_t size;
};

struct Layout {
  std::array<Piece, kComponents> extended{};
};

// Where the host's processor, and so KVM's image and the guest, keeps each
// component. Read once: CPUID is slow in a guest, which this host may be.
const Layout& HostLayout() {
  static const Layout layout = [] {
    Layout found;
    for (unsigned i = kFirstExtended; i < kComponents; ++i) {
      std::uint32_t size = 0;
      std::uint32_t offset = 0;
      std::uint32_t ecx = 0;
      std::uint32_t edx = 0;
      if (__get_cpuid_count(kCpuidXsave, i, &size, &offset, &ecx, &edx) == 0) break;
      found.extended.at(i) = {.offset = offset, .size = size};
    }
    return found;
  }();
  return layout;
}

// The conditions of all XSAVE instructions, and the requested components.
Step<std::uint64_t> RequestedComponents(const Context& context) {
  if ((context.sregs.cr4 & kCr4OsXsave) == 0) return std::unexpected(MakeFault(kInvalidOpcode));
  if ((context.sregs.cr0 & kCr0Ts) != 0) return std::unexpected(MakeFault(kDeviceNotAvailable));
  if (context.OperandAddress() % kAlignment != 0) return std::unexpected(ProtectionFault());
  auto xcrs = FromResult(context.vcpu.GetXcrs());
  EMBERVM_STEP(xcrs);
  constexpr unsigned kHalfBits = 32;
  constexpr std::uint64_t kLow32 = 0xffff'ffff;
  const std::uint64_t mask =
      (context.regs.rax & kLow32) | ((context.regs.rdx & kLow32) << kHalfBits);
  return xcrs->xcrs[0].value & mask;
}

// The bytes of extended component `number`, checked against the image.
Step<Piece> ExtendedPiece(unsigned number) {
  const Piece piece = HostLayout().extended.at(number);
  if (piece.size == 0 || !RangeFits(piece.offset, piece.size, sizeof(kvm_xsave))) {
    return std::unexpected(
        Stop(Error("ERR_EMULATION_FAILURE", "an XSAVE component does not fit KVM's state image")
                 .With("component", number)));
  }
  return piece;
}

// Adds the bytes of `components` that are registers of their own.
Step<> AddPieces(std::uint64_t components, std::vector<Piece>& pieces) {
  if ((components & kX87) != 0) {
    pieces.push_back({.offset = 0, .size = kMxcsrOffset});
    pieces.push_back({.offset = kStOffset, .size = kStSize * kStCount});
  }
  if ((components & kSse) != 0) pieces.push_back({.offset = kXmmOffset, .size = kXmmSize});
  for (std::uint64_t left = components & ~(kX87 | kSse); left != 0; left &= left - 1) {
    auto piece = ExtendedPiece(static_cast<unsigned>(std::countr_zero(left)));
    EMBERVM_STEP(piece);
    pieces.push_back(*piece);
  }
  return {};
}

Step<XsaveImage> LoadImage(const Context& context) {
  auto state = FromResult(context.vcpu.GetXsave());
  EMBERVM_STEP(state);
  return XsaveImage(*state);
}

// Without REX.W the x87 pointers are 32-bit offsets with selectors, which
// processors that deprecate FCS and FDS store as 0.
void ShortenPointers(XsaveImage& image) {
  image.Store(kFipOffset, std::uint64_t{image.Load<std::uint32_t>(kFipOffset)});
  image.Store(kFdpOffset, std::uint64_t{image.Load<std::uint32_t>(kFdpOffset)});
}

// `written` are the components whose bytes go to memory.
Step<> Save(Context& context, bool skip_initial) {
  auto requested = RequestedComponents(context);
  EMBERVM_STEP(requested);
  auto image = LoadImage(context);
  EMBERVM_STEP(image);
  if (!context.instruction.rex_w) ShortenPointers(*image);
  const std::uint64_t addr = context.OperandAddress();
  const std::uint64_t written = skip_initial ? *requested & image->in_use() : *requested;

  std::vector<Piece> pieces;
  EMBERVM_STEP(AddPieces(written, pieces));
  if ((*requested & (kSse | kAvx)) != 0) {
    pieces.push_back({.offset = kMxcsrOffset, .size = kStOffset - kMxcsrOffset});
  }
  // Everything is mapped before anything is written: a fault changes nothing.
  auto old = context.memory.Load<std::uint64_t>(addr + kHeaderOffset);
  EMBERVM_STEP(old);
  for (const Piece& piece : pieces) {
    EMBERVM_STEP(context.memory.Map(addr + piece.offset, piece.size, Access::kWrite));
  }
  // Only XSTATE_BV of the header is written.
  const std::uint64_t state_bv = (*old & ~*requested) | (image->in_use() & *requested);
  EMBERVM_STEP(context.memory.Write(addr + kHeaderOffset, AsBytes(state_bv)));
  for (const Piece& piece : pieces) {
    EMBERVM_STEP(context.memory.Write(addr + piece.offset,
                                      image->bytes().subspan(piece.offset, piece.size)));
  }
  return {};
}

// SDM volume 1 §13.6: the initial configuration.
void Initialize(XsaveImage& image, std::uint64_t components) {
  if ((components & kX87) != 0) {
    std::ranges::fill(image.bytes().first(kMxcsrOffset), std::byte{0});
    std::ranges::fill(image.bytes().subspan(kStOffset, kStSize * kStCount), std::byte{0});
    image.Store(kFcwOffset, kInitialFcw);
  }
  if ((components & kSse) != 0) {
    std::ranges::fill(image.bytes().subspan(kXmmOffset, kXmmSize), std::byte{0});
  }
}

// SDM volume 1 §13.8.1, the checks of the standard form.
bool HeaderIsValid(std::span<const std::byte, kHeaderSize> header, std::uint64_t xcr0) {
  constexpr std::size_t kMustBeZero = 24;  // XSTATE_BV, then 16 bytes of zero.
  const auto state_bv = LoadLe<std::uint64_t>(header);
  return (state_bv & ~xcr0) == 0 &&
         std::ranges::all_of(header.first(kMustBeZero).subspan(sizeof(state_bv)),
                             [](std::byte byte) { return byte == std::byte{0}; });
}

}  // namespace

Step<> Xsave(Context& context) { return Save(context, false); }

Step<> Xsaveopt(Context& context) { return Save(context, true); }

Step<> Xrstor(Context& context) {
  auto requested = RequestedComponents(context);
  EMBERVM_STEP(requested);
  auto xcrs = FromResult(context.vcpu.GetXcrs());
  EMBERVM_STEP(xcrs);
  const std::uint64_t addr = context.OperandAddress();

  std::array<std::byte, kHeaderSize> header{};
  EMBERVM_STEP(context.memory.Read(addr + kHeaderOffset, header));
  if (!HeaderIsValid(header, xcrs->xcrs[0].value)) return std::unexpected(ProtectionFault());
  const std::uint64_t loaded = *requested & LoadLe<std::uint64_t>(header);

  auto image = LoadImage(context);
  EMBERVM_STEP(image);
  // MXCSR is loaded whether or not XSTATE_BV has SSE.
  if ((*requested & (kSse | kAvx)) != 0) {
    auto mxcsr = context.memory.Load<std::uint32_t>(addr + kMxcsrOffset);
    EMBERVM_STEP(mxcsr);
    if ((*mxcsr & ~image->Load<std::uint32_t>(kMxcsrMaskOffset)) != 0) {
      return std::unexpected(ProtectionFault());
    }
    image->Store(kMxcsrOffset, *mxcsr);
  }
  std::vector<Piece> pieces;
  EMBERVM_STEP(AddPieces(loaded, pieces));
  for (const Piece& piece : pieces) {
    EMBERVM_STEP(
        context.memory.Read(addr + piece.offset, image->bytes().subspan(piece.offset, piece.size)));
  }
  if ((loaded & kX87) != 0 && !context.instruction.rex_w) ShortenPointers(*image);
  const std::uint64_t initialized = *requested & ~loaded;
  Initialize(*image, initialized);
  // KVM takes MXCSR only with a legacy component in use, so those stay marked
  // even when they hold their initial values.
  image->set_in_use((image->in_use() & ~initialized) | loaded | kX87 | kSse);
  return FromResult(context.vcpu.SetXsave(image->state()));
}

Step<> Xgetbv(Context& context) {
  if ((context.sregs.cr4 & kCr4OsXsave) == 0) return std::unexpected(MakeFault(kInvalidOpcode));
  constexpr std::uint64_t kLow32 = 0xffff'ffff;
  constexpr unsigned kHalfBits = 32;
  const std::uint64_t number = context.regs.rcx & kLow32;
  if (number > 1) return std::unexpected(ProtectionFault());
  auto xcrs = FromResult(context.vcpu.GetXcrs());
  EMBERVM_STEP(xcrs);
  std::uint64_t value = xcrs->xcrs[0].value;
  // XCR 1 reads as the components of XCR0 that are in use.
  if (number == 1) {
    auto image = LoadImage(context);
    EMBERVM_STEP(image);
    value &= image->in_use();
  }
  context.regs.rax = value & kLow32;
  context.regs.rdx = value >> kHalfBits;
  return {};
}

}  // namespace embervm::fixups
