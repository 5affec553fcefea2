// popcnt, cmpxchg16b and crc32 at CPL0 on real KVM, in every operand form.
#include <doctest/doctest.h>

#include <array>
#include <bit>
#include <cstdint>
#include <vector>

#include "test/kvm_micro_guest.h"

namespace embervm::test {
namespace {

constexpr std::uint64_t kPattern = 0xfedc'ba98'1234'5678;
constexpr GuestAddr kData = MicroGuest::kData;
constexpr std::uint64_t kAllStatusFlags = 0x8d5;  // OF SF ZF AF PF CF
constexpr std::uint64_t kZero = 1U << 6U;

TEST_CASE("popcnt counts in 16, 32 and 64 bits and sets the flags") {
  if (!HaveKvm()) return;
  MicroGuest guest;
  guest.regs.rcx = kPattern;
  guest.regs.rax = ~std::uint64_t{0};
  guest.regs.rflags = kAllStatusFlags;
  CHECK(guest.Run({0xf3, 0x48, 0x0f, 0xb8, 0xc1}).kind == Outcome::Kind::kHalted);
  CHECK(guest.after.rax == static_cast<std::uint64_t>(std::popcount(kPattern)));
  CHECK((guest.after.rflags & kAllStatusFlags) == 0);

  CHECK(guest.Run({0xf3, 0x0f, 0xb8, 0xc1}).kind == Outcome::Kind::kHalted);
  CHECK(guest.after.rax == static_cast<std::uint64_t>(std::popcount(kPattern & 0xffffffff)));

  CHECK(guest.Run({0x66, 0xf3, 0x0f, 0xb8, 0xc1}).kind == Outcome::Kind::kHalted);
  CHECK(guest.after.rax ==
        (0xffff'ffff'ffff'0000 | static_cast<std::uint64_t>(std::popcount(kPattern & 0xffff))));

  guest.regs.rcx = 0;
  CHECK(guest.Run({0xf3, 0x48, 0x0f, 0xb8, 0xc1}).kind == Outcome::Kind::kHalted);
  CHECK(guest.after.rax == 0);
  CHECK((guest.after.rflags & kAllStatusFlags) == kZero);
  CHECK(guest.Counted("popcnt", 4));
}

TEST_CASE("memory operands: every way to name one") {
  if (!HaveKvm()) return;
  MicroGuest guest;
  guest.Put(kData, kPattern);
  guest.EditSregs([](kvm_sregs& sregs) {
    sregs.fs.base = kData - 0x100;
    sregs.gs.base = kData - 0x200;
  });
  struct Form {
    const char* name;
    std::vector<std::uint8_t> code;
  };
  const auto displacement = static_cast<std::uint32_t>(kData - (MicroGuest::kCode + 9));
  const auto byte = [&](unsigned n) { return static_cast<std::uint8_t>(displacement >> (8 * n)); };
  const std::vector<Form> forms = {
      {"(%rsi)", {0xf3, 0x48, 0x0f, 0xb8, 0x06}},
      {"8(%rdi)", {0xf3, 0x48, 0x0f, 0xb8, 0x47, 0x08}},
      {"-8(%rbp)", {0xf3, 0x48, 0x0f, 0xb8, 0x45, 0xf8}},
      {"0x1000(%rbx)", {0xf3, 0x48, 0x0f, 0xb8, 0x83, 0x00, 0x10, 0, 0}},
      {"(%rdx,%rcx,8)", {0xf3, 0x48, 0x0f, 0xb8, 0x04, 0xca}},
      {"(%rsp) by SIB", {0xf3, 0x48, 0x0f, 0xb8, 0x04, 0x24}},
      {"(%r12)", {0xf3, 0x49, 0x0f, 0xb8, 0x04, 0x24}},
      {"0(%r13)", {0xf3, 0x49, 0x0f, 0xb8, 0x45, 0x00}},
      {"-0x80(%r13,%r14,2)", {0xf3, 0x4b, 0x0f, 0xb8, 0x44, 0x75, 0x80}},
      {"disp32 absolute", {0xf3, 0x48, 0x0f, 0xb8, 0x04, 0x25, 0, 0, 4, 0}},
      {"disp32(,%rcx,1)", {0xf3, 0x48, 0x0f, 0xb8, 0x04, 0x0d, 0xf0, 0xff, 3, 0}},
      {"rip-relative", {0xf3, 0x48, 0x0f, 0xb8, 0x05, byte(0), byte(1), byte(2), byte(3)}},
      {"%fs:0x100", {0x64, 0xf3, 0x48, 0x0f, 0xb8, 0x04, 0x25, 0, 1, 0, 0}},
      {"%gs:(%r9)", {0x65, 0xf3, 0x49, 0x0f, 0xb8, 0x01}},
      {"addr32 (%r10d)", {0x67, 0xf3, 0x49, 0x0f, 0xb8, 0x02}},
  };
  for (const Form& form : forms) {
    CAPTURE(form.name);
    guest.regs = {};
    guest.regs.rsi = guest.regs.rsp = guest.regs.r12 = guest.regs.r13 = kData;
    guest.regs.rdi = kData - 8;
    guest.regs.rbp = kData + 8;
    guest.regs.rbx = kData - 0x1000;
    guest.regs.rcx = 0x10;
    guest.regs.rdx = kData - 0x80;
    guest.regs.r14 = 0x40;
    guest.regs.r9 = 0x200;
    guest.regs.r10 = kData | 0xabcd'0000'0000'0000;
    CHECK(guest.Run(form.code).kind == Outcome::Kind::kHalted);
    CHECK(guest.after.rax == static_cast<std::uint64_t>(std::popcount(kPattern)));
  }
  CHECK(guest.Counted("popcnt", forms.size()));
}

TEST_CASE("an operand across two pages that are apart in physical memory") {
  if (!HaveKvm()) return;
  MicroGuest guest;
  // The second page of the operand is backed by another frame.
  guest.MapPageTo(kData + 0x1000, kData + 0x5000, MicroGuest::kPresent | MicroGuest::kWritable);
  const std::array<std::uint8_t, 8> bytes = {0xff, 0xff, 0xff, 0x0f, 0x07, 0x03, 0x01, 0x00};
  for (unsigned before = 1; before < 8; ++before) {
    CAPTURE(before);
    const GuestAddr operand = kData + 0x1000 - before;
    guest.Put(kData + 0x1000, ~std::uint64_t{0});  // Never to be read.
    for (unsigned i = 0; i < 8; ++i) {
      const GuestAddr at = i < before ? operand + i : kData + 0x5000 + (i - before);
      guest.Put(at, bytes.at(i));
    }
    guest.regs.rsi = operand;
    CHECK(guest.Run({0xf3, 0x48, 0x0f, 0xb8, 0x06}).kind == Outcome::Kind::kHalted);
    CHECK(guest.after.rax == 24 + 4 + 3 + 2 + 1);
  }
}

TEST_CASE("cmpxchg16b swaps when equal and loads when not") {
  if (!HaveKvm()) return;
  MicroGuest guest;
  guest.Put(kData, std::uint64_t{0x1111});
  guest.Put(kData + 8, std::uint64_t{0x2222});
  guest.regs.rsi = kData;
  guest.regs.rax = 0x1111;
  guest.regs.rdx = 0x2222;
  guest.regs.rbx = 0x3333;
  guest.regs.rcx = 0x4444;
  for (const bool lock : {true, false}) {
    CAPTURE(lock);
    guest.Put(kData, std::uint64_t{0x1111});
    guest.Put(kData + 8, std::uint64_t{0x2222});
    const auto outcome =
        lock ? guest.Run({0xf0, 0x48, 0x0f, 0xc7, 0x0e}) : guest.Run({0x48, 0x0f, 0xc7, 0x0e});
    CHECK(outcome.kind == Outcome::Kind::kHalted);
    CHECK(guest.Get<std::uint64_t>(kData) == 0x3333);
    CHECK(guest.Get<std::uint64_t>(kData + 8) == 0x4444);
    CHECK((guest.after.rflags & kZero) != 0);
  }
  // Now the memory differs: registers get it, memory stays.
  guest.regs.rflags = kAllStatusFlags;
  CHECK(guest.Run({0xf0, 0x48, 0x0f, 0xc7, 0x0e}).kind == Outcome::Kind::kHalted);
  CHECK(guest.after.rax == 0x3333);
  CHECK(guest.after.rdx == 0x4444);
  CHECK(guest.Get<std::uint64_t>(kData) == 0x3333);
  // Only ZF changes.
  CHECK((guest.after.rflags & kAllStatusFlags) == (kAllStatusFlags & ~kZero));
  CHECK(guest.Counted("cmpxchg16b", 3));
}

TEST_CASE("crc32 of each width") {
  if (!HaveKvm()) return;
  MicroGuest guest;
  // "123456789" has the CRC-32C 0xe3069283, inverted before and after.
  const std::array<char, 9> text = {'1', '2', '3', '4', '5', '6', '7', '8', '9'};
  guest.Put(kData, text);
  guest.regs.rsi = kData;
  guest.regs.rax = 0xffff'ffff'ffff'ffff;
  // crc32q (%rsi), %rax; crc32b 8(%rsi), %eax
  CHECK(guest.Run({0xf2, 0x48, 0x0f, 0x38, 0xf1, 0x06, 0xf2, 0x0f, 0x38, 0xf0, 0x46, 0x08}).kind ==
        Outcome::Kind::kHalted);
  CHECK(guest.after.rax == (0xe3069283 ^ 0xffffffff));
  // crc32l (%rsi), %eax; crc32w 4(%rsi), %eax; crc32b %dh, %eax; crc32b %sil... by byte
  guest.regs.rdx = std::uint64_t{'7'} << 8U;
  guest.regs.rbx = '8';
  guest.regs.r9 = '9';
  CHECK(guest
            .Run({0xf2, 0x0f, 0x38, 0xf1, 0x06,              // crc32l (%rsi), %eax
                  0x66, 0xf2, 0x0f, 0x38, 0xf1, 0x46, 0x04,  // crc32w 4(%rsi), %eax
                  0xf2, 0x0f, 0x38, 0xf0, 0xc6,              // crc32b %dh, %eax
                  0xf2, 0x0f, 0x38, 0xf0, 0xc3,              // crc32b %bl, %eax
                  0xf2, 0x41, 0x0f, 0x38, 0xf0, 0xc1})       // crc32b %r9b, %eax
            .kind == Outcome::Kind::kHalted);
  CHECK(guest.after.rax == (0xe3069283 ^ 0xffffffff));
  CHECK(guest.Counted("crc32", 7));
}

}  // namespace
}  // namespace embervm::test
