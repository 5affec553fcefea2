// The x87, MMX and SSE control instructions of the fix-ups on real KVM.
#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>

#include "kvm/fixups/xsave_image.h"
#include "test/kvm_micro_guest.h"

namespace embervm::test {
namespace {

using fixups::XsaveImage;

constexpr GuestAddr kData = MicroGuest::kData;
constexpr std::uint64_t kCr0Mp = 1U << 1U;
constexpr std::uint64_t kCr0Ts = 1U << 3U;
constexpr std::uint16_t kFswError = 0x8081;  // B, ES, IE

XsaveImage State(MicroGuest& guest) { return XsaveImage(*guest.vcpu().GetXsave()); }

// FCW with invalid-operation unmasked, and that exception pending.
void SetPendingException(MicroGuest& guest) {
  XsaveImage image = State(guest);
  image.Store(fixups::kFcwOffset, std::uint16_t{0x37e});
  image.Store(fixups::kFswOffset, kFswError);
  image.set_in_use(3);
  REQUIRE(guest.vcpu().SetXsave(image.state()).has_value());
}

TEST_CASE("fwait") {
  if (!HaveKvm()) return;
  MicroGuest guest;
  CHECK(guest.Run({0x9b}).kind == Outcome::Kind::kHalted);
  CHECK(guest.Counted("fwait", 1));
  SetPendingException(guest);
  const Outcome pending = guest.Run({0x9b});
  CHECK(pending.kind == Outcome::Kind::kException);
  CHECK(pending.vector == 16);
  guest.EditSregs([](kvm_sregs& sregs) { sregs.cr0 |= kCr0Mp | kCr0Ts; });
  const Outcome switched = guest.Run({0x9b});
  CHECK(switched.kind == Outcome::Kind::kException);
  CHECK(switched.vector == 7);
}

TEST_CASE("fnclex clears exceptions, fnstsw shows them") {
  if (!HaveKvm()) return;
  MicroGuest guest;
  SetPendingException(guest);
  guest.regs.rax = 0xaaaa'bbbb;
  CHECK(guest.Run({0xdf, 0xe0}).kind == Outcome::Kind::kHalted);
  CHECK(guest.after.rax == (0xaaaa'0000U | kFswError));
  CHECK(guest.Run({0xdb, 0xe2, 0xdf, 0xe0}).kind == Outcome::Kind::kHalted);
  CHECK(guest.after.rax == 0xaaaa'0000);
}

TEST_CASE("emms empties the stack; fild pushes integers") {
  if (!HaveKvm()) return;
  MicroGuest guest;
  struct Case {
    std::int32_t value;
    std::uint64_t significand;
    std::uint16_t sign_exponent;
  };
  const Case cases[] = {
      {0, 0, 0},
      {1, 0x8000'0000'0000'0000, 0x3fff},
      {-1, 0x8000'0000'0000'0000, 0xbfff},
      {10, 0xa000'0000'0000'0000, 0x4002},
      {INT32_MAX, 0xffff'fffe'0000'0000, 0x401d},
      {INT32_MIN, 0x8000'0000'0000'0000, 0xc01e},
  };
  guest.regs.rsi = kData;
  for (const Case& test : cases) {
    CAPTURE(test.value);
    guest.Put(kData, test.value);
    CHECK(guest.Run({0x0f, 0x77, 0xdb, 0x06}).kind == Outcome::Kind::kHalted);
    const XsaveImage image = State(guest);
    CHECK(image.Load<std::uint64_t>(fixups::kStOffset) == test.significand);
    CHECK(image.Load<std::uint16_t>(fixups::kStOffset + 8) == test.sign_exponent);
  }
  // Two on an empty stack: the second is on top.
  guest.Put(kData, std::int32_t{1});
  guest.Put(kData + 4, std::int32_t{10});
  CHECK(guest.Run({0x0f, 0x77, 0xdb, 0x06, 0xdb, 0x46, 0x04}).kind == Outcome::Kind::kHalted);
  const XsaveImage two = State(guest);
  CHECK(two.Load<std::uint16_t>(fixups::kStOffset + 8) == 0x4002);
  CHECK(two.Load<std::uint16_t>(fixups::kStOffset + 16 + 8) == 0x3fff);
}

TEST_CASE("fild on a full stack is a masked overflow") {
  if (!HaveKvm()) return;
  MicroGuest guest;
  XsaveImage image = State(guest);
  image.Store(fixups::kFcwOffset, std::uint16_t{0x37f});
  image.Store(fixups::kFtwOffset, std::uint8_t{0xff});
  image.set_in_use(3);
  REQUIRE(guest.vcpu().SetXsave(image.state()).has_value());
  guest.Put(kData, std::int32_t{5});
  guest.regs.rsi = kData;
  CHECK(guest.Run({0xdb, 0x06}).kind == Outcome::Kind::kHalted);
  const XsaveImage after = State(guest);
  CHECK(after.Load<std::uint16_t>(fixups::kStOffset + 8) == 0xffff);
  CHECK((after.Load<std::uint16_t>(fixups::kFswOffset) & 0x241) == 0x241);
}

TEST_CASE("fldcw loads the control word") {
  if (!HaveKvm()) return;
  MicroGuest guest;
  guest.Put(kData, std::uint16_t{0x27f});
  guest.regs.rsi = kData;
  CHECK(guest.Run({0xd9, 0x2e}).kind == Outcome::Kind::kHalted);
  CHECK(State(guest).Load<std::uint16_t>(fixups::kFcwOffset) == 0x27f);
}

TEST_CASE("ldmxcsr and stmxcsr") {
  if (!HaveKvm()) return;
  MicroGuest guest;
  guest.Put(kData, std::uint32_t{0x1fa0});
  guest.regs.rsi = kData;
  CHECK(guest.Run({0x0f, 0xae, 0x16, 0x0f, 0xae, 0x5e, 0x08}).kind == Outcome::Kind::kHalted);
  CHECK(guest.Get<std::uint32_t>(kData + 8) == 0x1fa0);
  CHECK(State(guest).Load<std::uint32_t>(fixups::kMxcsrOffset) == 0x1fa0);

  guest.Put(kData, std::uint32_t{0x8000'0000});
  const Outcome reserved = guest.Run({0x0f, 0xae, 0x16});
  CHECK(reserved.kind == Outcome::Kind::kException);
  CHECK(reserved.vector == 13);
  guest.EditSregs([](kvm_sregs& sregs) { sregs.cr0 |= kCr0Ts; });
  const Outcome switched = guest.Run({0x0f, 0xae, 0x1e});
  CHECK(switched.kind == Outcome::Kind::kException);
  CHECK(switched.vector == 7);
  guest.EditSregs([](kvm_sregs& sregs) { sregs.cr4 &= ~std::uint64_t{1U << 9U}; });
  const Outcome off = guest.Run({0x0f, 0xae, 0x1e});
  CHECK(off.kind == Outcome::Kind::kException);
  CHECK(off.vector == 6);
}

}  // namespace
}  // namespace embervm::test
