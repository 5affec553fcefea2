// XSAVE, XSAVEOPT, XRSTOR and XGETBV at CPL0 on real KVM.
#include <cpuid.h>
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "kvm/fixups/xsave_image.h"
#include "kvm/host_kind.h"
#include "test/kvm_micro_guest.h"

namespace embervm::test {
namespace {

using fixups::XsaveImage;

constexpr GuestAddr kArea = MicroGuest::kData;
constexpr std::size_t kAreaSize = 4096;
constexpr std::uint64_t kX87 = 1;
constexpr std::uint64_t kSse = 2;
constexpr std::uint64_t kAvx = 4;
constexpr std::uint64_t kCr0Ts = 1U << 3U;
constexpr std::uint64_t kCr4OsXsave = 1U << 18U;

constexpr std::initializer_list<std::uint8_t> kXsave64 = {0x48, 0x0f, 0xae, 0x27};
constexpr std::initializer_list<std::uint8_t> kXrstor64 = {0x48, 0x0f, 0xae, 0x2f};
constexpr std::initializer_list<std::uint8_t> kXsaveopt64 = {0x48, 0x0f, 0xae, 0x37};

std::size_t AvxOffset() {
  unsigned size = 0;
  unsigned offset = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  __get_cpuid_count(0xd, 2, &size, &offset, &ecx, &edx);
  return offset;
}

// A guest with x87, SSE and AVX enabled in XCR0; rdi is the save area.
class XsaveGuest : public MicroGuest {
 public:
  XsaveGuest() {
    kvm_xcrs xcrs{};
    xcrs.nr_xcrs = 1;
    xcrs.xcrs[0].value = kX87 | kSse | kAvx;
    REQUIRE(vcpu().SetXcrs(xcrs).has_value());
    regs.rdi = kArea;
    regs.rax = 0xffffffff;
    regs.rdx = 0xffffffff;
  }

  // Every byte of st, xmm and ymm is made from `seed`.
  void SetState(std::uint8_t seed, std::uint64_t in_use = kX87 | kSse | kAvx) {
    XsaveImage image(*vcpu().GetXsave());
    const auto fill = [&](std::size_t offset, std::size_t size) {
      for (std::size_t i = 0; i < size; ++i) {
        image.Store(offset + i, static_cast<std::uint8_t>(seed + i * 7));
      }
    };
    fill(fixups::kXmmOffset, fixups::kXmmSize);
    fill(AvxOffset(), 256);
    for (std::size_t i = 0; i < fixups::kStCount; ++i) {
      fill(fixups::kStOffset + i * fixups::kStSize, 10);
    }
    // With an exception pending: AMD processors keep the x87 pointers only then.
    image.Store(fixups::kFcwOffset, std::uint16_t{0x27e});
    image.Store(fixups::kFswOffset, std::uint16_t{0x8081});
    image.Store(fixups::kFtwOffset, std::uint8_t{0xff});
    image.Store(fixups::kFipOffset, std::uint64_t{0x1234'5678'9abc});
    image.Store(fixups::kFdpOffset, std::uint64_t{0x4321'8765'cba9});
    image.Store(fixups::kMxcsrOffset, std::uint32_t{0x1fa0});
    image.set_in_use(in_use);
    REQUIRE(vcpu().SetXsave(image.state()).has_value());
  }

  [[nodiscard]] XsaveImage State() { return XsaveImage(*vcpu().GetXsave()); }

  [[nodiscard]] std::vector<std::byte> Area(GuestAddr at = kArea) {
    std::vector<std::byte> bytes(kAreaSize);
    REQUIRE(memory().Read(at, bytes).has_value());
    return bytes;
  }
};

bool SameBytes(std::span<const std::byte> a, std::span<const std::byte> b, std::size_t offset,
               std::size_t size) {
  return std::ranges::equal(a.subspan(offset, size), b.subspan(offset, size));
}

bool SameRegisters(const XsaveImage& a, std::span<const std::byte> b) {
  return SameBytes(a.bytes(), b, fixups::kStOffset, 128) &&
         SameBytes(a.bytes(), b, fixups::kXmmOffset, fixups::kXmmSize) &&
         SameBytes(a.bytes(), b, AvxOffset(), 256);
}

TEST_CASE("xsave64 stores every component and its header bit") {
  if (!HaveKvm()) return;
  XsaveGuest guest;
  guest.SetState(1);
  const XsaveImage before = guest.State();
  // Bytes that must stay: XCOMP_BV and the rest of the header.
  REQUIRE(guest.memory().Fill(kArea, kAreaSize, std::byte{0}).has_value());
  guest.Put(kArea + 512, std::uint64_t{1} << 9U);
  guest.Put(kArea + 536, std::uint64_t{0x77});
  CHECK(guest.Run(kXsave64).kind == Outcome::Kind::kHalted);
  const auto area = guest.Area();
  CHECK(SameRegisters(before, area));
  CHECK(LoadLe<std::uint16_t>(area, 0) == 0x27e);
  CHECK(LoadLe<std::uint64_t>(area, 8) == 0x1234'5678'9abc);
  CHECK(LoadLe<std::uint32_t>(area, 24) == 0x1fa0);
  // Bit 9 is not in XCR0: merged, not cleared.
  CHECK(LoadLe<std::uint64_t>(area, 512) == ((std::uint64_t{1} << 9U) | kX87 | kSse | kAvx));
  CHECK(LoadLe<std::uint64_t>(area, 536) == 0x77);
  CHECK(guest.Counted("xsave64", 1));
}

TEST_CASE("xsave without REX.W shortens the x87 pointers") {
  if (!HaveKvm()) return;
  XsaveGuest guest;
  guest.SetState(1);
  CHECK(guest.Run({0x0f, 0xae, 0x27}).kind == Outcome::Kind::kHalted);
  const auto area = guest.Area();
  CHECK(LoadLe<std::uint32_t>(area, 8) == 0x5678'9abc);
  CHECK(LoadLe<std::uint32_t>(area, 16) == 0x8765'cba9);
}

TEST_CASE("edx:eax chooses the components") {
  if (!HaveKvm()) return;
  XsaveGuest guest;
  for (const std::uint64_t mask : {kX87, kSse, kAvx, kX87 | kAvx, std::uint64_t{0}}) {
    CAPTURE(mask);
    guest.SetState(9);
    const XsaveImage before = guest.State();
    REQUIRE(guest.memory().Fill(kArea, kAreaSize, std::byte{0xee}).has_value());
    guest.Put(kArea + 512, std::array<std::uint64_t, 8>{});
    guest.regs.rax = mask;
    guest.regs.rdx = 0;
    CHECK(guest.Run(kXsave64).kind == Outcome::Kind::kHalted);
    const auto area = guest.Area();
    const std::vector<std::byte> untouched(kAreaSize, std::byte{0xee});
    CHECK(SameBytes((mask & kX87) != 0 ? before.bytes() : std::span<const std::byte>(untouched),
                    area, fixups::kStOffset, 10));
    CHECK(SameBytes((mask & kSse) != 0 ? before.bytes() : std::span<const std::byte>(untouched),
                    area, fixups::kXmmOffset, 256));
    CHECK(SameBytes((mask & kAvx) != 0 ? before.bytes() : std::span<const std::byte>(untouched),
                    area, AvxOffset(), 256));
    // MXCSR belongs to SSE and AVX.
    CHECK((LoadLe<std::uint32_t>(area, 24) == 0x1fa0) == ((mask & (kSse | kAvx)) != 0));
    CHECK(LoadLe<std::uint64_t>(area, 512) == mask);
  }
}

TEST_CASE("what xsave stored, xrstor brings back") {
  if (!HaveKvm()) return;
  XsaveGuest guest;
  guest.SetState(3);
  const XsaveImage before = guest.State();
  CHECK(guest.Run(kXsave64).kind == Outcome::Kind::kHalted);
  guest.SetState(200);
  CHECK(!SameRegisters(guest.State(), before.bytes()));
  CHECK(guest.Run(kXrstor64).kind == Outcome::Kind::kHalted);
  const XsaveImage after = guest.State();
  CHECK(SameRegisters(after, before.bytes()));
  CHECK(after.Load<std::uint32_t>(fixups::kMxcsrOffset) == 0x1fa0);
  CHECK(guest.Counted("xrstor64", 1));
}

TEST_CASE("xrstor loads, initializes and leaves components as the masks say") {
  if (!HaveKvm()) return;
  XsaveGuest guest;
  guest.SetState(3);
  const XsaveImage saved = guest.State();
  CHECK(guest.Run(kXsave64).kind == Outcome::Kind::kHalted);
  guest.SetState(100);
  const XsaveImage current = guest.State();
  guest.Put(kArea + 512, kSse);  // Only SSE is in the image.
  guest.regs.rax = kSse | kAvx;  // x87 is not asked for.
  guest.regs.rdx = 0;
  CHECK(guest.Run(kXrstor64).kind == Outcome::Kind::kHalted);
  const XsaveImage after = guest.State();
  CHECK(SameBytes(after.bytes(), saved.bytes(), fixups::kXmmOffset, 256));
  CHECK(SameBytes(after.bytes(), current.bytes(), fixups::kStOffset, 128));
  const std::vector<std::byte> zero(kAreaSize);
  CHECK(SameBytes(after.bytes(), zero, AvxOffset(), 256));

  // All three to their initial state; MXCSR still comes from memory.
  guest.SetState(100);
  guest.Put(kArea + 512, std::uint64_t{0});
  guest.Put(kArea + 24, std::uint32_t{0x1f80});
  guest.regs.rax = 7;
  CHECK(guest.Run(kXrstor64).kind == Outcome::Kind::kHalted);
  const XsaveImage initial = guest.State();
  CHECK(SameRegisters(initial, zero));
  CHECK(initial.Load<std::uint16_t>(fixups::kFcwOffset) == 0x37f);
  CHECK(initial.Load<std::uint32_t>(fixups::kMxcsrOffset) == 0x1f80);
}

TEST_CASE("xsaveopt leaves out what is in its initial state") {
  if (!HaveKvm()) return;
  XsaveGuest guest;
  guest.SetState(5, kX87 | kSse);
  REQUIRE(guest.memory().Fill(kArea, kAreaSize, std::byte{0xee}).has_value());
  guest.Put(kArea + 512, std::array<std::uint64_t, 8>{7});
  CHECK(guest.Run(kXsaveopt64).kind == Outcome::Kind::kHalted);
  const auto area = guest.Area();
  CHECK((LoadLe<std::uint64_t>(area, 512) & kAvx) == 0);
  CHECK(area[AvxOffset()] == std::byte{0xee});
  CHECK(SameBytes(guest.State().bytes(), area, fixups::kXmmOffset, 256));
}

TEST_CASE("a save area across pages that are apart in physical memory") {
  if (!HaveKvm()) return;
  XsaveGuest guest;
  guest.MapPageTo(kArea + 0x1000, kArea + 0x5000, MicroGuest::kPresent | MicroGuest::kWritable);
  for (const std::uint64_t before : {64U, 192U, 512U, 576U, 640U, 768U}) {
    CAPTURE(before);
    guest.SetState(static_cast<std::uint8_t>(before));
    const XsaveImage state = guest.State();
    guest.regs.rdi = kArea + 0x1000 - before;
    REQUIRE(guest.memory().Fill(kArea, kAreaSize, std::byte{0}).has_value());
    REQUIRE(guest.memory().Fill(kArea + 0x5000, kAreaSize, std::byte{0}).has_value());
    CHECK(guest.Run(kXsave64).kind == Outcome::Kind::kHalted);
    std::vector<std::byte> joined = guest.Area(kArea + 0x1000 - before);
    const auto second = guest.Area(kArea + 0x5000);
    std::copy_n(second.begin(), kAreaSize - before,
                joined.begin() + static_cast<std::ptrdiff_t>(before));
    CHECK(SameRegisters(state, joined));
    guest.SetState(0);
    CHECK(guest.Run(kXrstor64).kind == Outcome::Kind::kHalted);
    CHECK(SameRegisters(guest.State(), joined));
  }
}

TEST_CASE("faults of xsave and xrstor") {
  if (!HaveKvm()) return;
  XsaveGuest guest;
  guest.SetState(4);
  CHECK(guest.Run(kXsave64).kind == Outcome::Kind::kHalted);
  const auto general_protection = [&](const Outcome& outcome) {
    CHECK(outcome.kind == Outcome::Kind::kException);
    CHECK(outcome.vector == 13);
    CHECK(outcome.error_code == 0);
  };
  SUBCASE("misaligned") {
    guest.regs.rdi = kArea + 32;
    general_protection(guest.Run(kXsave64));
    general_protection(guest.Run(kXrstor64));
  }
  SUBCASE("a component that XCR0 does not have") {
    guest.Put(kArea + 512, std::uint64_t{7 | 1U << 9U});
    general_protection(guest.Run(kXrstor64));
  }
  SUBCASE("header bytes that must be zero") {
    guest.Put(kArea + 520, std::uint64_t{1});
    general_protection(guest.Run(kXrstor64));
    guest.Put(kArea + 520, std::uint64_t{0});
    guest.Put(kArea + 528, std::uint64_t{1});
    general_protection(guest.Run(kXrstor64));
  }
  SUBCASE("reserved bits of MXCSR") {
    guest.Put(kArea + 24, std::uint32_t{0x8000'1f80});
    general_protection(guest.Run(kXrstor64));
  }
  SUBCASE("no OSXSAVE") {
    guest.EditSregs([](kvm_sregs& sregs) { sregs.cr4 &= ~kCr4OsXsave; });
    const Outcome outcome = guest.Run(kXsave64);
    CHECK(outcome.kind == Outcome::Kind::kException);
    CHECK(outcome.vector == 6);
  }
  SUBCASE("task switched") {
    guest.EditSregs([](kvm_sregs& sregs) { sregs.cr0 |= kCr0Ts; });
    const Outcome outcome = guest.Run(kXrstor64);
    CHECK(outcome.kind == Outcome::Kind::kException);
    CHECK(outcome.vector == 7);
  }
  SUBCASE("the second page is missing, and nothing was changed") {
    guest.MapPage(kArea + 0x1000, 0);
    guest.regs.rdi = kArea + 0x1000 - 576;
    REQUIRE(guest.memory().Fill(kArea + 0x1000 - 576, 512, std::byte{0xee}).has_value());
    guest.Put(kArea + 0x1000 - 64, std::array<std::uint64_t, 8>{7});
    const Outcome save = guest.Run(kXsave64);
    CHECK(save.kind == Outcome::Kind::kException);
    CHECK(save.vector == 14);
    CHECK(save.cr2 == kArea + 0x1000);
    CHECK(save.error_code == 2);
    guest.Put(kArea + 0x1000 - 576 + 24, std::uint32_t{0x1f80});
    const XsaveImage before = guest.State();
    const Outcome restore = guest.Run(kXrstor64);
    CHECK(restore.kind == Outcome::Kind::kException);
    CHECK(restore.cr2 == kArea + 0x1000);
    CHECK(restore.error_code == 0);
    CHECK(SameRegisters(guest.State(), before.bytes()));
  }
  SUBCASE("a read-only page") {
    guest.MapPage(kArea, MicroGuest::kPresent);
    const Outcome outcome = guest.Run(kXsave64);
    CHECK(outcome.kind == Outcome::Kind::kException);
    CHECK(outcome.vector == 14);
    CHECK(outcome.error_code == 3);
    CHECK(guest.Run(kXrstor64).kind == Outcome::Kind::kHalted);
  }
}

TEST_CASE("xgetbv reads XCR0") {
  if (!HaveKvm()) return;
  XsaveGuest guest;
  guest.regs.rcx = 0;
  CHECK(guest.Run({0x0f, 0x01, 0xd0}).kind == Outcome::Kind::kHalted);
  CHECK(guest.after.rax == 7);
  CHECK(guest.after.rdx == 0);
  guest.regs.rcx = 2;
  const Outcome outcome = guest.Run({0x0f, 0x01, 0xd0});
  CHECK(outcome.kind == Outcome::Kind::kException);
  CHECK(outcome.vector == 13);
}

}  // namespace
}  // namespace embervm::test
