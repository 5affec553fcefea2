// The decoder of the fix-ups, without a vCPU: encodings against what the SDM
// says they mean.
#include <doctest/doctest.h>

#include <cstdint>
#include <optional>
#include <random>
#include <string_view>
#include <vector>

#include "kvm/fixups/instruction.h"
#include "kvm/fixups/table.h"

namespace embervm::fixups {
namespace {

std::optional<Instruction> DecodeBytes(const std::vector<std::uint8_t>& bytes) {
  return Decode(std::as_bytes(std::span(bytes)));
}

struct Case {
  std::vector<std::uint8_t> bytes;
  std::string_view mnemonic;
  std::size_t length;
};

TEST_CASE("every mnemonic of the table is found by its encoding") {
  const std::vector<Case> cases = {
      {{0xf0, 0x48, 0x0f, 0xc7, 0x0e}, "cmpxchg16b", 5},
      {{0xf3, 0x0f, 0xb8, 0xc1}, "popcnt", 4},
      {{0x66, 0xf3, 0x0f, 0xb8, 0xc1}, "popcnt", 5},
      {{0xf3, 0x48, 0x0f, 0xb8, 0xc1}, "popcnt", 5},
      {{0x0f, 0x01, 0xcb}, "stac", 3},
      {{0x0f, 0x01, 0xca}, "clac", 3},
      {{0xcc}, "int3", 1},
      {{0x9b}, "fwait", 1},
      {{0x0f, 0xae, 0x27}, "xsave", 3},
      {{0x48, 0x0f, 0xae, 0x27}, "xsave64", 4},
      {{0x0f, 0xae, 0x2f}, "xrstor", 3},
      {{0x48, 0x0f, 0xae, 0x2f}, "xrstor64", 4},
      {{0x0f, 0xae, 0x37}, "xsaveopt", 3},
      {{0x48, 0x0f, 0xae, 0x37}, "xsaveopt64", 4},
      {{0x66, 0x0f, 0xae, 0x37}, "clwb", 4},
      {{0x0f, 0x01, 0xd0}, "xgetbv", 3},
      {{0xdb, 0xe2}, "fnclex", 2},
      {{0xdf, 0xe0}, "fnstsw", 2},
      {{0xd9, 0x2e}, "fldcw", 2},
      {{0xdb, 0x06}, "fild", 2},
      {{0x0f, 0x77}, "emms", 2},
      {{0x0f, 0xae, 0x16}, "ldmxcsr", 3},
      {{0x0f, 0xae, 0x1e}, "stmxcsr", 3},
      {{0x0f, 0x01, 0xf9}, "rdtscp", 3},
      {{0x0f, 0x01, 0xc8}, "monitor", 3},
      {{0x0f, 0x01, 0xc9}, "mwait", 3},
      {{0x0f, 0x00, 0xe1}, "verr", 3},
      {{0x0f, 0x00, 0xe9}, "verw", 3},
      {{0x0f, 0x02, 0xc1}, "lar", 3},
      {{0x0f, 0x03, 0xc1}, "lsl", 3},
      {{0x66, 0x0f, 0x38, 0x82, 0x06}, "invpcid", 5},
      {{0xf2, 0x0f, 0x38, 0xf0, 0xc1}, "crc32", 5},
      {{0xf2, 0x48, 0x0f, 0x38, 0xf1, 0xc1}, "crc32", 6},
  };
  for (const Case& test : cases) {
    CAPTURE(test.mnemonic);
    const auto instruction = DecodeBytes(test.bytes);
    REQUIRE(instruction.has_value());
    CHECK(instruction->length == test.length);
    const auto entry = FindEntry(*instruction);
    REQUIRE(entry.has_value());
    CHECK(Table()[*entry].mnemonic == test.mnemonic);
  }
}

TEST_CASE("neighbours in the opcode map are not taken") {
  const std::vector<std::vector<std::uint8_t>> others = {
      {0x0f, 0xc7, 0x0e},              // cmpxchg8b
      {0x48, 0x0f, 0xc7, 0xce},        // 0f c7 /1 with a register
      {0x0f, 0xb8, 0xc1},              // no F3
      {0xf2, 0x0f, 0xb8, 0xc1},        // F2
      {0x66, 0x0f, 0x01, 0xcb},        // 66 stac
      {0x0f, 0x01, 0xcc},              // next to stac
      {0xf3, 0x0f, 0xae, 0x27},        // F3 0f ae /4: ptwrite
      {0x0f, 0xae, 0xe8},              // lfence
      {0x48, 0x0f, 0xc7, 0x26},        // xsavec
      {0xdb, 0xe3},                    // fninit
      {0xd9, 0xe8},                    // fld1
      {0x66, 0x0f, 0x38, 0x82, 0xc6},  // invpcid with a register
      {0x0f, 0x38, 0xf1, 0xc1},        // movbe
      {0xf3, 0x48, 0x0f, 0xae, 0xc0},  // rdfsbase
      {0xf4},                          // hlt
      {0x0f, 0x0b},                    // ud2
      {0x0f, 0x3a, 0x0f, 0xc1, 0x08},  // palignr
  };
  for (const auto& bytes : others) {
    const auto instruction = DecodeBytes(bytes);
    CAPTURE(bytes.at(0));
    CHECK((!instruction || !FindEntry(*instruction)));
  }
}

TEST_CASE("operand forms") {
  SUBCASE("rip-relative") {
    const auto i = DecodeBytes({0xf3, 0x0f, 0xb8, 0x05, 0x10, 0, 0, 0});
    REQUIRE(i.has_value());
    CHECK(i->rip_relative);
    CHECK(!i->base);
    CHECK(i->displacement == 0x10);
    CHECK(i->length == 8);
  }
  SUBCASE("absolute by SIB, and REX does not turn base 5 into r13") {
    const auto i = DecodeBytes({0xf3, 0x41, 0x0f, 0xb8, 0x04, 0x25, 0, 0, 4, 0});
    REQUIRE(i.has_value());
    CHECK(!i->rip_relative);
    CHECK(!i->base);
    CHECK(!i->index);
    CHECK(i->displacement == 0x40000);
  }
  SUBCASE("r12 as an index, r13 as a base, scale 8, disp8") {
    const auto i = DecodeBytes({0xf3, 0x4f, 0x0f, 0xb8, 0x7c, 0xe5, 0x80});
    REQUIRE(i.has_value());
    CHECK(i->rex_w);
    CHECK(i->reg == 15);
    CHECK(*i->base == 13);
    CHECK(*i->index == 12);
    CHECK(i->scale == 8);
    CHECK(i->displacement == -128);
  }
  SUBCASE("index 4 without REX.X is none") {
    const auto i = DecodeBytes({0xf3, 0x0f, 0xb8, 0x04, 0x24});
    REQUIRE(i.has_value());
    CHECK(*i->base == 4);
    CHECK(!i->index);
  }
  SUBCASE("a REX before another prefix is ignored") {
    const auto i = DecodeBytes({0x48, 0xf3, 0x0f, 0xb8, 0xc1});
    REQUIRE(i.has_value());
    CHECK(!i->rex_w);
    CHECK(!i->rex);
  }
  SUBCASE("segments and address size") {
    const auto i = DecodeBytes({0x65, 0x67, 0xf3, 0x0f, 0xb8, 0x06});
    REQUIRE(i.has_value());
    CHECK(i->segment == Segment::kGs);
    CHECK(i->address_size_override);
    const auto last = DecodeBytes({0x65, 0x64, 0xf3, 0x0f, 0xb8, 0x06});
    CHECK(last->segment == Segment::kFs);
    const auto kept = DecodeBytes({0x64, 0x3e, 0xf3, 0x0f, 0xb8, 0x06});
    CHECK(kept->segment == Segment::kFs);
  }
}

TEST_CASE("a cut instruction is refused at every length") {
  const std::vector<std::uint8_t> whole = {0x65, 0xf3, 0x48, 0x0f, 0xb8, 0x84, 0xc8, 1, 2, 3, 4};
  for (std::size_t length = 0; length < whole.size(); ++length) {
    CHECK(!DecodeBytes({whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length)}));
  }
  CHECK(DecodeBytes(whole).has_value());
}

TEST_CASE("more than 15 bytes are not an instruction") {
  std::vector<std::uint8_t> bytes(14, 0x66);
  bytes.insert(bytes.end(), {0x0f, 0x01, 0xcb});
  CHECK(!DecodeBytes(bytes));
}

TEST_CASE("random bytes never read past the end") {
  std::mt19937_64 random(1);
  for (int i = 0; i < 200'000; ++i) {
    std::vector<std::uint8_t> bytes(random() % 18);
    for (auto& byte : bytes) byte = static_cast<std::uint8_t>(random());
    // Half of them start like something interesting.
    if (bytes.size() > 3 && (i & 1) != 0) {
      bytes[0] = 0x0f;
      bytes[1] = (i & 2) != 0 ? 0xae : 0x01;
    }
    if (const auto instruction = DecodeBytes(bytes); instruction) {
      CHECK(instruction->length <= bytes.size());
      CHECK(instruction->length <= 15);
      (void)FindEntry(*instruction);
    }
  }
}

}  // namespace
}  // namespace embervm::fixups
