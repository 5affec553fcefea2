// Boot tables as the kernel reads them: boot_params, e820, PVH, MP table, CPUID.
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "arch/x86_64/boot_params.h"
#include "arch/x86_64/cpuid.h"
#include "arch/x86_64/layout.h"
#include "arch/x86_64/memory_map.h"
#include "arch/x86_64/mptable.h"
#include "arch/x86_64/pvh.h"
#include "base/bytes.h"
#include "memory/guest_memory.h"

namespace embervm::test {
namespace {

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30U;

GuestMemory MakeMemory(std::uint64_t size = 128U << 20U) {
  auto memory = GuestMemory::Create(size);
  REQUIRE(memory.has_value());
  return std::move(*memory);
}

template <class T>
T At(const GuestMemory& memory, GuestAddr addr) {
  return LoadLe<T>(*memory.Slice(addr, sizeof(T)));
}

struct E820 {
  std::uint64_t start;
  std::uint64_t size;
  std::uint32_t type;
};

std::vector<E820> ReadE820(const GuestMemory& memory) {
  std::vector<E820> entries;
  const auto count = At<std::uint8_t>(memory, layout::kBootParams + 0x1e8);
  for (unsigned i = 0; i < count; ++i) {
    const GuestAddr at = layout::kBootParams + 0x2d0 + std::uint64_t{i} * 20;
    entries.push_back({At<std::uint64_t>(memory, at), At<std::uint64_t>(memory, at + 8),
                       At<std::uint32_t>(memory, at + 16)});
  }
  return entries;
}

TEST_CASE("boot_params of an ELF kernel") {
  const GuestMemory memory = MakeMemory();
  REQUIRE(WriteBootParams(memory, std::nullopt, LoadedInitrd{0x7f00000, 0x1234}).has_value());
  const auto at = [](std::uint64_t offset) { return layout::kBootParams + offset; };
  CHECK(At<std::uint16_t>(memory, at(0x1fe)) == 0xaa55);
  CHECK(At<std::uint32_t>(memory, at(0x202)) == 0x53726448);
  CHECK(At<std::uint8_t>(memory, at(0x210)) == 0xff);
  CHECK(At<std::uint32_t>(memory, at(0x218)) == 0x7f00000);
  CHECK(At<std::uint32_t>(memory, at(0x21c)) == 0x1234);
  CHECK(At<std::uint32_t>(memory, at(0x228)) == 0x20000);
  CHECK(At<std::uint32_t>(memory, at(0x230)) == 0x1000000);
  CHECK(At<std::uint32_t>(memory, at(0x238)) == 2047);
}

TEST_CASE("boot_params keep a bzImage's own header") {
  const GuestMemory memory = MakeMemory();
  SetupHeader header{};
  header.size = 0x26c - kSetupHeaderOffset;
  std::ranges::fill(header.bytes, std::byte{0x77});
  REQUIRE(WriteBootParams(memory, header, std::nullopt).has_value());
  CHECK(At<std::uint8_t>(memory, layout::kBootParams + 0x26b) == 0x77);
  CHECK(At<std::uint8_t>(memory, layout::kBootParams + 0x26c) == 0);
  CHECK(At<std::uint8_t>(memory, layout::kBootParams + 0x210) == 0xff);
}

TEST_CASE("e820 covers all memory, in order, without overlap") {
  for (const std::uint64_t size : {std::uint64_t{16} << 20U, 3 * kGiB, 3 * kGiB + 4096, 8 * kGiB}) {
    CAPTURE(size);
    const GuestMemory memory = MakeMemory(size);
    REQUIRE(WriteBootParams(memory, std::nullopt, std::nullopt).has_value());
    const auto map = ReadE820(memory);
    REQUIRE(map.size() == (size > 3 * kGiB ? 4 : 3));
    CHECK(map[0].start == 0);
    CHECK(map[0].size == layout::kMpTable);
    CHECK(map[1].type == 2);
    CHECK(map[1].start + map[1].size == layout::kHighMemory);
    std::uint64_t ram = 0;
    for (std::size_t i = 0; i < map.size(); ++i) {
      if (i > 0) CHECK(map[i].start >= map[i - 1].start + map[i - 1].size);
      ram += map[i].size;
      CHECK(memory.Slice(map[i].start, map[i].size).has_value());
    }
    CHECK(ram == size);
    if (map.size() == 4) CHECK(map[3].start == 4 * kGiB);
  }
}

TEST_CASE("the command line, up to its limit") {
  const GuestMemory memory = MakeMemory();
  const std::string longest(2047, 'x');
  REQUIRE(WriteCommandLine(memory, longest).has_value());
  CHECK(At<char>(memory, layout::kCommandLine + 2046) == 'x');
  CHECK(At<char>(memory, layout::kCommandLine + 2047) == '\0');
  // A shorter one leaves nothing of the longer one.
  REQUIRE(WriteCommandLine(memory, "quiet").has_value());
  CHECK(At<std::uint64_t>(memory, layout::kCommandLine) == 0x7465697571);
  CHECK(At<char>(memory, layout::kCommandLine + 2046) == '\0');

  const auto too_long = WriteCommandLine(memory, longest + "x");
  REQUIRE(!too_long.has_value());
  CHECK(too_long.error().code() == "ERR_COMMAND_LINE_TOO_LONG");
  CHECK(too_long.error().message().find("2048") != std::string::npos);
  CHECK(too_long.error().message().find("2047") != std::string::npos);
  CHECK(!WriteCommandLine(memory, std::string_view("a\0b", 3)).has_value());
}

TEST_CASE("hvm_start_info") {
  const GuestMemory memory = MakeMemory(4 * kGiB);
  REQUIRE(WritePvhStartInfo(memory, LoadedInitrd{0xb0000000, 0x999}).has_value());
  const auto at = [](std::uint64_t offset) { return layout::kPvhStartInfo + offset; };
  CHECK(At<std::uint32_t>(memory, at(0)) == 0x336ec578);
  CHECK(At<std::uint32_t>(memory, at(4)) == 1);
  CHECK(At<std::uint32_t>(memory, at(12)) == 1);
  const auto modules = At<std::uint64_t>(memory, at(16));
  CHECK(At<std::uint64_t>(memory, modules) == 0xb0000000);
  CHECK(At<std::uint64_t>(memory, modules + 8) == 0x999);
  CHECK(At<std::uint64_t>(memory, at(24)) == layout::kCommandLine);
  const auto map = At<std::uint64_t>(memory, at(40));
  CHECK(At<std::uint32_t>(memory, at(48)) == MemoryMap(memory).size());
  CHECK(At<std::uint64_t>(memory, map + 3 * 24) == 4 * kGiB);
  CHECK(At<std::uint32_t>(memory, map + 24 + 16) == 2);
  // The map ends before boot_params and the page tables begin.
  CHECK(map + 4 * 24 <= layout::kBootParams);

  REQUIRE(WritePvhStartInfo(memory, std::nullopt).has_value());
  CHECK(At<std::uint32_t>(memory, at(12)) == 0);
}

unsigned Sum(std::span<const std::byte> bytes) {
  unsigned sum = 0;
  for (const std::byte byte : bytes) sum += std::to_integer<unsigned>(byte);
  return sum & 0xffU;
}

TEST_CASE("the MP table: checksums, processors, interrupts") {
  for (const std::uint32_t cpus : {1U, 2U, 32U}) {
    CAPTURE(cpus);
    const GuestMemory memory = MakeMemory();
    REQUIRE(WriteMpTable(memory, cpus).has_value());
    const auto pointer = *memory.Slice(layout::kMpTable, 16);
    CHECK(std::memcmp(pointer.data(), "_MP_", 4) == 0);
    CHECK(Sum(pointer) == 0);
    const auto config = LoadLe<std::uint32_t>(pointer, 4);
    const auto length = At<std::uint16_t>(memory, config + 4);
    CHECK(config + length <= layout::kMpTable + layout::kMpTableSize);
    CHECK(At<std::uint32_t>(memory, config) == 0x504d4350);  // "PCMP"
    CHECK(Sum(*memory.Slice(config, length)) == 0);
    CHECK(At<std::uint32_t>(memory, config + 36) == 0xfee00000);

    std::vector<unsigned> counts(5);
    GuestAddr at = config + 44;
    const auto entries = At<std::uint16_t>(memory, config + 34);
    for (unsigned i = 0; i < entries; ++i) {
      const auto type = At<std::uint8_t>(memory, at);
      REQUIRE(type < counts.size());
      if (type == 0) {
        CHECK(At<std::uint8_t>(memory, at + 1) == counts[0]);
        CHECK(At<std::uint8_t>(memory, at + 3) == (counts[0] == 0 ? 3 : 1));
      } else if (type == 2) {
        CHECK(At<std::uint8_t>(memory, at + 1) == cpus);
        CHECK(At<std::uint32_t>(memory, at + 4) == 0xfec00000);
      } else if (type == 3) {
        CHECK(At<std::uint8_t>(memory, at + 5) == counts[3]);
        CHECK(At<std::uint8_t>(memory, at + 7) == counts[3]);
      }
      ++counts[type];
      at += type == 0 ? 20 : 8;
    }
    CHECK(at == config + length);
    CHECK(counts == std::vector<unsigned>{cpus, 1, 1, 24, 2});
  }
  const GuestMemory memory = MakeMemory();
  CHECK(WriteMpTable(memory, 0).error().code() == "ERR_INVALID_CONFIG");
  CHECK(WriteMpTable(memory, 33).error().code() == "ERR_INVALID_CONFIG");
}

kvm_cpuid_entry2 Leaf(std::uint32_t function, std::uint32_t index, std::uint32_t eax,
                      std::uint32_t ebx, std::uint32_t ecx, std::uint32_t edx,
                      std::uint32_t flags = 0) {
  kvm_cpuid_entry2 entry{};
  entry.function = function;
  entry.index = index;
  entry.flags = flags;
  entry.eax = eax;
  entry.ebx = ebx;
  entry.ecx = ecx;
  entry.edx = edx;
  return entry;
}

TEST_CASE("CPUID is made true for each vCPU") {
  const CpuidTable supported({
      Leaf(0, 0, 0x10, 0x68747541, 0x444d4163, 0x69746e65),
      Leaf(1, 0, 0xa00f11, 0x07ffff07, 0x0000'8001, 0x178bfbff),
      Leaf(0xa, 0, 1, 2, 3, 4),
      Leaf(0xb, 0, 9, 9, 9, 9, KVM_CPUID_FLAG_SIGNIFCANT_INDEX),
      Leaf(0xb, 7, 9, 9, 9, 9, KVM_CPUID_FLAG_SIGNIFCANT_INDEX),
      Leaf(0x40000001, 0, 0xffffffff, 0, 0, 1),
  });
  for (const std::uint32_t count : {1U, 2U, 3U, 32U}) {
    for (std::uint32_t index = 0; index < count; ++index) {
      CAPTURE(count);
      CAPTURE(index);
      const CpuidTable table = BuildCpuid(supported, index, count, HostKind::kHardware);
      const auto* features = table.Find(1);
      CHECK((features->ebx >> 24U) == index);
      CHECK((features->ebx >> 16U & 0xffU) == std::bit_ceil(count));
      CHECK((features->ebx >> 8U & 0xffU) == 8);
      CHECK((features->edx >> 28U & 1U) == (count > 1 ? 1 : 0));
      CHECK((features->ecx >> 31U) == 1);
      CHECK((features->ecx >> 24U & 1U) == 1);
      CHECK((features->ecx >> 15U & 1U) == 0);
      CHECK(table.Find(0xb, 0)->edx == index);
      CHECK((table.Find(0xb, 0)->ecx >> 8U) == 1);
      CHECK((table.Find(0xb, 1)->ecx >> 8U) == 2);
      CHECK(table.Find(0xb, 1)->ebx == count);
      CHECK((std::uint32_t{1} << table.Find(0xb, 1)->eax) == std::bit_ceil(count));
      CHECK(table.Find(0xb, 7) == nullptr);
      CHECK(table.Find(0xa)->eax == 0);
      CHECK(table.Find(0x1f) == nullptr);
      CHECK(table.Find(0x40000001)->eax == 0xffffffff);
    }
  }
  const CpuidTable pvm = BuildCpuid(supported, 1, 2, HostKind::kPvm);
  CHECK(pvm.Find(0x40000001)->eax == 0x0100547b);
}

}  // namespace
}  // namespace embervm::test
