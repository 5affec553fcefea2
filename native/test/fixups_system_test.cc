// The system instructions of the fix-ups at CPL0 on real KVM.
#include <doctest/doctest.h>

#include <array>
#include <cstdint>

#include "kvm/host_kind.h"
#include "test/kvm_micro_guest.h"

namespace embervm::test {
namespace {

constexpr GuestAddr kData = MicroGuest::kData;
constexpr std::uint64_t kAlignmentCheck = 1U << 18U;
constexpr std::uint64_t kZero = 1U << 6U;
constexpr std::uint64_t kCr4Smap = 1U << 21U;

TEST_CASE("stac and clac switch EFLAGS.AC") {
  if (!HaveKvm()) return;
  MicroGuest guest;
  guest.EditSregs([](kvm_sregs& sregs) { sregs.cr4 |= kCr4Smap; });
  CHECK(guest.Run({0x0f, 0x01, 0xcb}).kind == Outcome::Kind::kHalted);
  CHECK((guest.after.rflags & kAlignmentCheck) != 0);
  guest.regs.rflags = kAlignmentCheck;
  CHECK(guest.Run({0x0f, 0x01, 0xca}).kind == Outcome::Kind::kHalted);
  CHECK((guest.after.rflags & kAlignmentCheck) == 0);
  CHECK(guest.Counted("stac", 1));
  CHECK(guest.Counted("clac", 1));
}

TEST_CASE("int3 traps behind itself") {
  if (!HaveKvm()) return;
  MicroGuest guest;
  const Outcome outcome = guest.Run({0x90, 0xcc});
  REQUIRE(outcome.kind == Outcome::Kind::kException);
  CHECK(outcome.vector == 3);
  CHECK(outcome.fault_rip == MicroGuest::kCode + 2);
  CHECK(guest.Counted("int3", 1));
}

TEST_CASE("rdtscp gives the time stamp counter and TSC_AUX") {
  if (!HaveKvm()) return;
  MicroGuest guest;
  const std::array aux{kvm_msr_entry{.index = 0xc0000103, .reserved = 0, .data = 0x1234}};
  REQUIRE(guest.vcpu().SetMsrs(aux).has_value());
  // rdtsc; mov %eax,%esi; mov %edx,%edi; rdtscp
  CHECK(guest.Run({0x0f, 0x31, 0x89, 0xc6, 0x89, 0xd7, 0x0f, 0x01, 0xf9}).kind ==
        Outcome::Kind::kHalted);
  CHECK(guest.after.rcx == 0x1234);
  const std::uint64_t before = guest.after.rdi << 32U | guest.after.rsi;
  const std::uint64_t after = guest.after.rdx << 32U | guest.after.rax;
  CHECK(after > before);
  CHECK(after - before < 100'000'000'000);
}

TEST_CASE("verr, verw, lar and lsl read the descriptor tables") {
  if (!HaveKvm()) return;
  MicroGuest guest;
  // The guest's GDT: 0x08 64-bit code, 0x10 flat data.
  struct Case {
    std::uint64_t selector;
    bool readable;
    bool writable;
    bool present_in_table;
  };
  const std::array cases = {
      Case{0x08, true, false, true},     Case{0x10, true, true, true},
      Case{0x00, false, false, false},   Case{0x18, false, false, false},
      Case{0x14, false, false, false},  // In an LDT that is not there.
      Case{0x13, false, false, false},  // RPL 3 may not see DPL 0.
      Case{0xfff8, false, false, false},
  };
  for (const Case& test : cases) {
    CAPTURE(test.selector);
    guest.regs.rcx = test.selector;
    guest.regs.rax = 0x5555;
    CHECK(guest.Run({0x0f, 0x00, 0xe1}).kind == Outcome::Kind::kHalted);  // verr %cx
    CHECK(((guest.after.rflags & kZero) != 0) == test.readable);
    CHECK(guest.Run({0x0f, 0x00, 0xe9}).kind == Outcome::Kind::kHalted);  // verw %cx
    CHECK(((guest.after.rflags & kZero) != 0) == test.writable);
    CHECK(guest.Run({0x0f, 0x02, 0xc1}).kind == Outcome::Kind::kHalted);  // lar %ecx,%eax
    CHECK(((guest.after.rflags & kZero) != 0) == test.present_in_table);
    if (!test.present_in_table) CHECK(guest.after.rax == 0x5555);
    CHECK(guest.Run({0x0f, 0x03, 0xc1}).kind == Outcome::Kind::kHalted);  // lsl %ecx,%eax
    CHECK(((guest.after.rflags & kZero) != 0) == test.present_in_table);
    CHECK(guest.after.rax == (test.present_in_table ? 0xffffffff : 0x5555));
  }
  guest.regs.rcx = 0x10;
  CHECK(guest.Run({0x0f, 0x02, 0xc1}).kind == Outcome::Kind::kHalted);
  CHECK(guest.after.rax == 0x00c09300);
}

TEST_CASE("verw with a memory operand, as mitigations use it") {
  if (!HaveKvm()) return;
  MicroGuest guest;
  guest.Put(kData, std::uint16_t{0x10});
  guest.regs.rsi = kData;
  CHECK(guest.Run({0x0f, 0x00, 0x2e}).kind == Outcome::Kind::kHalted);
  CHECK((guest.after.rflags & kZero) != 0);
}

TEST_CASE("invpcid makes a changed mapping visible") {
  if (!HaveKvm()) return;
  if (!NeedsEmulationFixups(DetectHostKind())) return;  // May be absent on hardware.
  MicroGuest guest;
  guest.Put(kData, std::uint64_t{0x1111});
  guest.Put(kData + 0x1000, std::uint64_t{0x2222});
  guest.MapPageTo(0x1ff000, kData, MicroGuest::kPresent | MicroGuest::kWritable);
  guest.MapPage(0x4000, MicroGuest::kPresent | MicroGuest::kWritable);
  guest.regs.rsi = 0x1ff000;
  guest.regs.rdi = 0x4000 + (0x1ff000 / 4096) * 8;  // The page's own entry.
  guest.regs.rbx = (kData + 0x1000) | 3U;
  guest.regs.r8 = kData + 0x2000;  // A descriptor of zeroes.
  guest.regs.rcx = 2;              // All contexts, global entries too.
  // mov (%rsi),%rax; mov %rbx,(%rdi); invpcid (%r8),%rcx; mov (%rsi),%rdx
  CHECK(guest
            .Run({0x48, 0x8b, 0x06, 0x48, 0x89, 0x1f, 0x66, 0x41, 0x0f, 0x38, 0x82, 0x08, 0x48,
                  0x8b, 0x16})
            .kind == Outcome::Kind::kHalted);
  CHECK(guest.after.rax == 0x1111);
  CHECK(guest.after.rdx == 0x2222);

  guest.regs.rcx = 4;  // No such type.
  const Outcome outcome = guest.Run({0x66, 0x41, 0x0f, 0x38, 0x82, 0x08});
  REQUIRE(outcome.kind == Outcome::Kind::kException);
  CHECK(outcome.vector == 13);
}

TEST_CASE("clwb does nothing, or faults") {
  if (!HaveKvm()) return;
  if (!NeedsEmulationFixups(DetectHostKind())) return;  // May be absent on hardware.
  MicroGuest guest;
  guest.regs.rsi = kData;
  CHECK(guest.Run({0x66, 0x0f, 0xae, 0x36}).kind == Outcome::Kind::kHalted);
  guest.MapPage(kData, 0);
  const Outcome outcome = guest.Run({0x66, 0x0f, 0xae, 0x36});
  REQUIRE(outcome.kind == Outcome::Kind::kException);
  CHECK(outcome.vector == 14);
  CHECK(outcome.cr2 == kData);
}

TEST_CASE("monitor and mwait go on at once") {
  if (!HaveKvm()) return;
  if (!NeedsEmulationFixups(DetectHostKind())) return;  // KVM decides on hardware.
  MicroGuest guest;
  guest.regs.rax = kData;
  CHECK(guest.Run({0x0f, 0x01, 0xc8, 0x31, 0xc0, 0x0f, 0x01, 0xc9}).kind == Outcome::Kind::kHalted);
  CHECK(guest.Counted("monitor", 1));
  CHECK(guest.Counted("mwait", 1));
}

}  // namespace
}  // namespace embervm::test
