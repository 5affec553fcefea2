// GuestMemory: whole-range checks at every edge there is.
#include <doctest/doctest.h>

#include <array>
#include <cstdint>
#include <limits>
#include <utility>

#include "memory/guest_memory.h"

namespace embervm {
namespace {

constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();
constexpr std::uint64_t kMiB = 1U << 20U;
constexpr std::uint64_t kGiB = std::uint64_t{1} << 30U;

GuestMemory Make(std::uint64_t size) {
  auto memory = GuestMemory::Create(size);
  REQUIRE(memory.has_value());
  return std::move(*memory);
}

TEST_CASE("sizes that are refused") {
  for (const std::uint64_t size : {std::uint64_t{0}, std::uint64_t{1}, kMiB + 1, kMax}) {
    const auto memory = GuestMemory::Create(size);
    REQUIRE(!memory.has_value());
    CHECK(memory.error().code() == "ERR_INVALID_CONFIG");
  }
  // A multiple of the page size that no address space has.
  CHECK(GuestMemory::Create(kMax - 4095).error().code() == "ERR_OUT_OF_MEMORY");
}

TEST_CASE("ranges at the edges of one region") {
  const GuestMemory memory = Make(kMiB);
  CHECK(memory.size() == kMiB);
  CHECK(memory.Slice(0, kMiB)->size() == kMiB);
  CHECK(memory.Slice(kMiB - 1, 1).has_value());
  CHECK(memory.Slice(kMiB, 0)->empty());
  CHECK(!memory.Slice(kMiB, 1));
  CHECK(!memory.Slice(kMiB + 1, 0));
  CHECK(!memory.Slice(0, kMiB + 1));
  CHECK(!memory.Slice(1, kMax));
  CHECK(!memory.Slice(kMax, 1));
  CHECK(!memory.Slice(kMax, kMax));
  CHECK(!memory.Slice(kMax, 2));
}

TEST_CASE("the gap below 4 GiB is not RAM") {
  const GuestMemory memory = Make(4 * kGiB);
  REQUIRE(memory.regions().size() == 2);
  CHECK(memory.regions()[1].base == 4 * kGiB);
  CHECK(memory.Slice(GuestMemory::kGapStart - 1, 1).has_value());
  CHECK(!memory.Slice(GuestMemory::kGapStart - 1, 2));
  CHECK(!memory.Slice(GuestMemory::kGapStart, 1));
  CHECK(!memory.Slice(GuestMemory::kGapEnd - 1, 1));
  CHECK(!memory.Slice(GuestMemory::kGapEnd - 1, 2));
  CHECK(memory.Slice(GuestMemory::kGapEnd, kGiB).has_value());
  CHECK(!memory.Slice(GuestMemory::kGapEnd, kGiB + 1));
  // The host memory is contiguous over the gap, the guest's is not.
  CHECK(!memory.Slice(0, 4 * kGiB));
  const auto high = memory.Slice(GuestMemory::kGapEnd, 1);
  CHECK(high->data() == memory.regions()[0].host + GuestMemory::kGapStart);
}

TEST_CASE("a machine that ends at the gap has one region") {
  CHECK(Make(3 * kGiB).regions().size() == 1);
  CHECK(Make(3 * kGiB + 4096).regions().size() == 2);
}

TEST_CASE("pluggable memory lies above all else, where the guest can use it") {
  const auto region = [](std::uint64_t size, std::uint64_t pluggable) {
    const GuestMemory memory = GuestMemory::Create(size, pluggable).value();
    CHECK(memory.boot_size() == size);
    CHECK(memory.size() == size + pluggable);
    CHECK(memory.boot_regions().size() + 1 == memory.regions().size());
    REQUIRE(memory.pluggable_region() != nullptr);
    const GuestMemory::Region found = *memory.pluggable_region();
    CHECK(found.size == pluggable);
    CHECK(found.host == memory.bytes().data() + size);
    CHECK(memory.Slice(found.base, pluggable)->data() == found.host);
    CHECK(!memory.Slice(found.base - 1, 2));
    CHECK(!memory.Slice(found.base + pluggable - 1, 2));
    CHECK(memory.Fill(found.base + pluggable - 1, 1, std::byte{1}).has_value());
    return found.base;
  };
  CHECK(region(kMiB, 128 * kMiB) == 4 * kGiB);
  CHECK(region(3 * kGiB, kGiB) == 4 * kGiB);
  CHECK(region(3 * kGiB + kMiB, kGiB) == 4 * kGiB + 128 * kMiB);
  CHECK(region(4 * kGiB, 128 * kMiB) == 5 * kGiB);
  CHECK(region(63 * kGiB - kMiB, 128 * kMiB) == 64 * kGiB);
  CHECK(region(63 * kGiB, 2 * kGiB) == 64 * kGiB);
  CHECK(region(64 * kGiB, 2 * kGiB) == 66 * kGiB);
  CHECK(Make(kMiB).pluggable_region() == nullptr);
  for (const auto& [size, pluggable] : {std::pair{kMiB, kMiB}, std::pair{63 * kGiB, kGiB},
                                        std::pair{256 * kMiB, kMax - 128 * kMiB + 1}}) {
    CHECK(GuestMemory::Create(size, pluggable).error().code() == "ERR_INVALID_CONFIG");
  }
}

TEST_CASE("copies in and out, and their errors") {
  const GuestMemory memory = Make(kMiB);
  const std::array<std::byte, 3> bytes = {std::byte{1}, std::byte{2}, std::byte{3}};
  REQUIRE(memory.Write(kMiB - 3, bytes).has_value());
  std::array<std::byte, 3> back{};
  REQUIRE(memory.Read(kMiB - 3, back).has_value());
  CHECK(back == bytes);
  REQUIRE(memory.Fill(kMiB - 3, 2, std::byte{9}).has_value());
  REQUIRE(memory.Read(kMiB - 3, back).has_value());
  CHECK(back == std::array<std::byte, 3>{std::byte{9}, std::byte{9}, std::byte{3}});

  const auto failed = memory.Write(kMiB - 2, bytes);
  REQUIRE(!failed.has_value());
  CHECK(failed.error().code() == "ERR_GUEST_ADDRESS");
  CHECK(std::get<std::int64_t>(failed.error().context().front().second) == kMiB - 2);
  CHECK(!memory.Read(kMax, back).has_value());
  CHECK(!memory.Fill(1, kMax, std::byte{0}).has_value());
}

TEST_CASE("fresh memory is zero and not resident") {
  const GuestMemory memory = Make(64 * kMiB);
  CHECK(memory.ResidentBytes() == 0);
  CHECK(memory.Slice(12345, 1)->front() == std::byte{0});
  REQUIRE(memory.Fill(kMiB, 10 * 4096, std::byte{1}).has_value());
  const std::uint64_t resident = memory.ResidentBytes();
  CHECK(resident >= 10 * 4096);
  CHECK(resident <= 8 * kMiB);
}

TEST_CASE("moving keeps the host addresses") {
  GuestMemory memory = Make(kMiB);
  const std::byte* const host = memory.Slice(0, 1)->data();
  const GuestMemory moved = std::move(memory);
  CHECK(moved.Slice(0, 1)->data() == host);
}

}  // namespace
}  // namespace embervm
