// Bad operands of the fix-ups: the guest gets the exception a processor would
// raise, with its error code and CR2, and nothing has changed.
#include <doctest/doctest.h>

#include <cstdint>
#include <initializer_list>

#include "kvm/host_kind.h"
#include "test/kvm_micro_guest.h"

namespace embervm::test {
namespace {

constexpr GuestAddr kData = MicroGuest::kData;
constexpr auto kPresent = MicroGuest::kPresent;
constexpr auto kWritable = MicroGuest::kWritable;
constexpr auto kUser = MicroGuest::kUser;
constexpr std::uint64_t kCr0Wp = 1U << 16U;
constexpr std::uint64_t kCr4Smap = 1U << 21U;
constexpr std::uint64_t kRflagsAc = 1U << 18U;

constexpr std::initializer_list<std::uint8_t> kPopcnt = {0xf3, 0x48, 0x0f, 0xb8, 0x06};
constexpr std::initializer_list<std::uint8_t> kCmpxchg16b = {0xf0, 0x48, 0x0f, 0xc7, 0x0e};

void CheckPageFault(const Outcome& outcome, std::uint64_t address, std::uint64_t error_code) {
  CHECK(outcome.kind == Outcome::Kind::kException);
  CHECK(outcome.vector == 14);
  CHECK(outcome.cr2 == address);
  CHECK(outcome.error_code == error_code);
  CHECK(outcome.fault_rip == MicroGuest::kCode);
}

void CheckException(const Outcome& outcome, unsigned vector) {
  CHECK(outcome.kind == Outcome::Kind::kException);
  CHECK(outcome.vector == vector);
  CHECK(outcome.error_code == 0);
  CHECK(outcome.fault_rip == MicroGuest::kCode);
}

TEST_CASE("a page that is not present") {
  if (!HaveKvm()) return;
  MicroGuest guest;
  guest.MapPage(kData, 0);
  guest.regs.rsi = kData + 0x10;
  guest.regs.rax = 7;
  CheckPageFault(guest.Run(kPopcnt), kData + 0x10, 0);
  CHECK(guest.after.rax == 7);
  CheckPageFault(guest.Run(kCmpxchg16b), kData + 0x10, 2);
}

TEST_CASE("the second page of an operand is not present") {
  if (!HaveKvm()) return;
  MicroGuest guest;
  guest.MapPage(kData + 0x1000, 0);
  guest.regs.rsi = kData + 0x1000 - 3;
  CheckPageFault(guest.Run(kPopcnt), kData + 0x1000, 0);
}

TEST_CASE("a store to a read-only page faults and writes nothing") {
  if (!HaveKvm()) return;
  MicroGuest guest;
  guest.MapPage(kData, kPresent);
  guest.Put(kData, std::uint64_t{1});
  guest.Put(kData + 8, std::uint64_t{2});
  guest.regs.rsi = kData;
  guest.regs.rax = 1;
  guest.regs.rdx = 2;
  guest.regs.rbx = 3;
  CheckPageFault(guest.Run(kCmpxchg16b), kData, 3);
  CHECK(guest.Get<std::uint64_t>(kData) == 1);
  // Reading it is fine.
  CHECK(guest.Run(kPopcnt).kind == Outcome::Kind::kHalted);
  // Without CR0.WP the supervisor may write.
  guest.EditSregs([](kvm_sregs& sregs) { sregs.cr0 &= ~kCr0Wp; });
  CHECK(guest.Run(kCmpxchg16b).kind == Outcome::Kind::kHalted);
  CHECK(guest.Get<std::uint64_t>(kData) == 3);
}

TEST_CASE("SMAP guards user pages unless AC is set") {
  if (!HaveKvm()) return;
  MicroGuest guest;
  guest.MapPage(kData, kPresent | kWritable | kUser);
  guest.EditSregs([](kvm_sregs& sregs) { sregs.cr4 |= kCr4Smap; });
  guest.regs.rsi = kData;
  CheckPageFault(guest.Run(kPopcnt), kData, 1);
  guest.regs.rflags = kRflagsAc;
  CHECK(guest.Run(kPopcnt).kind == Outcome::Kind::kHalted);
}

TEST_CASE("accessed and dirty bits are kept") {
  if (!HaveKvm()) return;
  MicroGuest guest;
  constexpr auto kAccessed = MicroGuest::kAccessed;
  constexpr auto kDirty = MicroGuest::kDirty;
  guest.regs.rsi = kData;
  CHECK(guest.Run(kPopcnt).kind == Outcome::Kind::kHalted);
  CHECK((guest.PageEntry(kData) & (kAccessed | kDirty)) == kAccessed);
  CHECK(guest.Run(kCmpxchg16b).kind == Outcome::Kind::kHalted);
  CHECK((guest.PageEntry(kData) & (kAccessed | kDirty)) == (kAccessed | kDirty));
}

TEST_CASE("non-canonical and misaligned operands") {
  if (!HaveKvm()) return;
  MicroGuest guest;
  guest.regs.rsi = 0x0123'0000'0000'0000;
  CheckException(guest.Run(kPopcnt), 13);
  CheckException(guest.Run(kCmpxchg16b), 13);
  guest.regs.rsi = kData + 8;
  CheckException(guest.Run(kCmpxchg16b), 13);
  // The last canonical byte, and one more.
  guest.regs.rsi = 0x0000'7fff'ffff'fffc;
  CHECK(guest.Run(kPopcnt).kind == Outcome::Kind::kException);
}

TEST_CASE("a LOCK prefix where none may be") {
  if (!HaveKvm()) return;
  MicroGuest guest;
  guest.regs.rsi = kData;
  CheckException(guest.Run({0xf0, 0xf3, 0x48, 0x0f, 0xb8, 0x06}), 6);
}

TEST_CASE("an operand that is not RAM ends the machine with an error") {
  if (!HaveKvm()) return;
  if (!NeedsEmulationFixups(DetectHostKind())) return;  // Hardware exits with MMIO.
  MicroGuest guest;
  guest.MapPageTo(kData, 0xfeb00000, kPresent | kWritable);
  guest.regs.rsi = kData;
  const Outcome outcome = guest.Run(kPopcnt);
  CHECK(outcome.kind == Outcome::Kind::kOther);
  INFO(outcome.detail);
  CHECK(outcome.detail.find("outside guest memory") != std::string::npos);
}

TEST_CASE("page tables that lead nowhere") {
  if (!HaveKvm()) return;
  if (!NeedsEmulationFixups(DetectHostKind())) return;
  MicroGuest guest;
  // A second gigabyte whose page directory is outside RAM.
  guest.Put(0x2000 + 8, std::uint64_t{0xfeb00003});
  guest.regs.rsi = 0x40000000;
  const Outcome outcome = guest.Run(kPopcnt);
  CHECK(outcome.kind != Outcome::Kind::kHalted);
}

TEST_CASE("an instruction at the end of a mapped page") {
  if (!HaveKvm()) return;
  MicroGuest guest;
  guest.regs.rsi = kData;
  guest.Put(kData, std::uint64_t{0xff});
  // Five bytes, of which the last lies in the next page, which is elsewhere.
  const GuestAddr at = 0x31000 - 4;
  guest.MapPageTo(0x31000, 0x35000, kPresent | kWritable);
  guest.Put(0x35000, std::uint8_t{0x06});
  guest.Put(0x35001, std::uint8_t{0xf4});
  CHECK(guest.Run(kPopcnt, at).kind == Outcome::Kind::kHalted);
  CHECK(guest.after.rax == 8);
}

TEST_CASE("an instruction nobody knows is reported, not guessed") {
  if (!HaveKvm()) return;
  if (!NeedsEmulationFixups(DetectHostKind())) return;
  MicroGuest guest;
  // vzeroupper
  CHECK(guest.Run({0xc5, 0xf8, 0x77}).kind == Outcome::Kind::kEmulationFailure);
}

TEST_CASE("the walk agrees with KVM_TRANSLATE") {
  if (!HaveKvm()) return;
  MicroGuest guest;
  guest.MapPageTo(kData + 0x3000, 0x123000, kPresent | kWritable);
  const auto translation = guest.vcpu().Translate(kData + 0x3010);
  REQUIRE(translation.has_value());
  CHECK(translation->valid == 1);
  CHECK(translation->physical_address == 0x123010);
  guest.Put(0x123010, std::uint64_t{0xf0f});
  guest.regs.rsi = kData + 0x3010;
  CHECK(guest.Run(kPopcnt).kind == Outcome::Kind::kHalted);
  CHECK(guest.after.rax == 8);
}

}  // namespace
}  // namespace embervm::test
