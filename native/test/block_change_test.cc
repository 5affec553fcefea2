// Drives whose file changes while the guest uses them, and limits of what it may do with them.
#include <doctest/doctest.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <vector>

#include "base/clock.h"
#include "base/token_bucket.h"
#include "devices/block/device.h"
#include "test/support/block_fixture.h"

namespace embervm::devices {
namespace {

using test::BlockFixture;
using test::kDiskBytes;
using test::kSectors;
using test::TempFile;

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::uint32_t kSector = block::kSectorSize;

BlockOptions WriteThrough() {
  BlockOptions options;
  options.cache = BlockCache::kWritethrough;
  return options;
}

BlockOptions Limited(RateLimit bytes, RateLimit operations) {
  BlockOptions options;
  options.bytes = bytes;
  options.operations = operations;
  return options;
}

struct Changes : BlockFixture {
  using BlockFixture::BlockFixture;

  std::uint64_t Capacity() {
    return driver.Read32(virtio::kRegConfig) |
           (std::uint64_t{driver.Read32(virtio::kRegConfig + 4)} << 32U);
  }
  template <class Change>
  Result<> Apply(Change change) {
    Result<> changed;
    thread.Call([&] {
      changed = change(*device);
      driver.transport().RefreshConfig();
    });
    return changed;
  }
  // The status of a read of one sector.
  std::uint32_t Read(std::uint64_t sector) {
    const GuestAddr data = driver.arena().Allocate(kSector);
    return Request(block::kTypeIn, sector, {{data, kSector, true}}).status;
  }
  std::uint32_t Write(std::uint64_t sector, const std::vector<std::byte>& bytes) {
    const GuestAddr data = driver.Put(bytes);
    return Request(block::kTypeOut, sector,
                   {{data, static_cast<std::uint32_t>(bytes.size()), false}})
        .status;
  }
};

TEST_CASE("block: the guest learns of a file that has become longer or shorter") {
  Changes f;
  CHECK(f.Capacity() == kSectors);
  CHECK(f.Read(kSectors) == 1);
  REQUIRE(::truncate(f.file.path().c_str(), 2 * kDiskBytes) == 0);
  // Not before somebody says so.
  CHECK(f.Read(kSectors) == 1);
  REQUIRE(f.Apply([](BlockDevice& drive) { return drive.RefreshSize(); }).has_value());
  CHECK((f.driver.WaitInterrupt() & virtio::kInterruptConfig) != 0);
  CHECK(f.Capacity() == 2 * kSectors);
  CHECK(f.Read(kSectors) == 0);
  CHECK(f.Read(2 * kSectors) == 1);

  REQUIRE(::truncate(f.file.path().c_str(), kDiskBytes / 2) == 0);
  REQUIRE(f.Apply([](BlockDevice& drive) { return drive.RefreshSize(); }).has_value());
  CHECK(f.Capacity() == kSectors / 2);
  CHECK(f.Read(kSectors / 2) == 1);

  for (const off_t odd : {off_t{0}, off_t{513}}) {
    REQUIRE(::truncate(f.file.path().c_str(), odd) == 0);
    const auto refused = f.Apply([](BlockDevice& drive) { return drive.RefreshSize(); });
    REQUIRE_FALSE(refused.has_value());
    CHECK(refused.error().code() == "ERR_DRIVE_INVALID");
    CHECK(f.Capacity() == kSectors / 2);
  }
}

TEST_CASE("block: another file comes in the place of a drive's") {
  Changes f;
  const auto first = f.Pattern(kSector, 1);
  const auto second = f.Pattern(kSector, 2);
  CHECK(f.Write(3, first) == 0);
  const TempFile other(3 * kDiskBytes);
  REQUIRE(f.Apply([&](BlockDevice& drive) { return drive.Swap(other.path()); }).has_value());
  CHECK(f.Capacity() == 3 * kSectors);
  CHECK(f.Write(3, second) == 0);

  // The old one is nobody's now, and has what was written to it.
  const GuestAddr data = f.driver.arena().Allocate(kSector);
  REQUIRE(f.Apply([&](BlockDevice& drive) { return drive.Swap(f.file.path()); }).has_value());
  CHECK(f.Request(block::kTypeIn, 3, {{data, kSector, true}}).status == 0);
  CHECK(f.driver.Get(data, kSector) == first);

  for (const auto& [path, code] : {std::pair{std::string("/nowhere/at/all"), "ERR_DRIVE_NOT_FOUND"},
                                   {std::string("/tmp"), "ERR_DRIVE_INVALID"},
                                   // It is in use: by this drive.
                                   {f.file.path(), "ERR_DRIVE_BUSY"}}) {
    const auto refused = f.Apply([&](BlockDevice& drive) { return drive.Swap(path); });
    REQUIRE_FALSE(refused.has_value());
    CHECK(refused.error().code() == code);
    CHECK(f.Request(block::kTypeIn, 3, {{data, kSector, true}}).status == 0);
    CHECK(f.driver.Get(data, kSector) == first);
  }
}

TEST_CASE("block: write-through has no flush, and needs none") {
  Changes through(WriteThrough());
  CHECK((through.driver.OfferedFeatures() & block::kFeatureFlush) == 0);
  const auto bytes = through.Pattern(kSector, 3);
  CHECK(through.Write(5, bytes) == 0);
  const GuestAddr data = through.driver.arena().Allocate(kSector);
  CHECK(through.Request(block::kTypeIn, 5, {{data, kSector, true}}).status == 0);
  CHECK(through.driver.Get(data, kSector) == bytes);

  // So has a driver that did not take the feature.
  Changes back;
  CHECK((back.driver.OfferedFeatures() & block::kFeatureFlush) != 0);
  back.driver.Start(block::kFeatureFlush);
  CHECK(back.Write(5, bytes) == 0);
}

TEST_CASE("block: requests beyond a limit wait, in order, and none is lost") {
  const auto ms = [](std::int64_t since) { return (MonotonicNs() - since) / 1'000'000; };
  SUBCASE("of operations") {
    Changes f(Limited({}, {.per_second = 100, .burst = 5}));
    const std::int64_t began = MonotonicNs();
    for (std::uint64_t sector = 0; sector < 25; ++sector) CHECK(f.Read(sector) == 0);
    // Five at once, and twenty in 10 ms each.
    CHECK(ms(began) >= 190);
    CHECK(f.device->counters().reads == 25);
  }
  SUBCASE("of bytes, also in one request that is larger than the burst") {
    Changes f(Limited({.per_second = 1U << 20U, .burst = 4096}, {}));
    const GuestAddr data = f.driver.arena().Allocate(128 * 1024);
    const std::int64_t began = MonotonicNs();
    CHECK(f.Request(block::kTypeIn, 0, {{data, 128 * 1024, true}}).status == 0);
    CHECK(f.Request(block::kTypeIn, 0, {{data, 64 * 1024, true}}).status == 0);
    CHECK(f.Read(0) == 0);
    // The last one waits until the two before it are paid for.
    CHECK(ms(began) >= 180);
    // What moves no data is not counted.
    CHECK(f.Request(block::kTypeFlush, 0).status == 0);
  }
  SUBCASE("a driver that is reset meanwhile") {
    Changes f(Limited({}, {.per_second = 1, .burst = 1}));
    CHECK(f.Read(0) == 0);
    f.driver.queue(0).Add({{f.driver.arena().Allocate(16), 16, false}});
    f.driver.KickIfAsked(0);
    f.thread.Call([] {});
    f.driver.Write32(virtio::kRegStatus, 0);
    f.driver.Start();
    CHECK(f.driver.failures().empty());
  }
  SUBCASE("a saved machine has them in its ring, and this one goes on") {
    Changes f(Limited({}, {.per_second = 2, .burst = 1}));
    const std::int64_t began = MonotonicNs();
    CHECK(f.Read(0) == 0);
    const GuestAddr header = f.driver.PutStruct(
        block::RequestHeader{.type = block::kTypeIn, .reserved = 0, .sector = 0});
    const GuestAddr data = f.driver.arena().Allocate(kSector + 1);
    f.driver.queue(0).Add({{header, 16, false}, {data, kSector + 1, true}});
    f.driver.KickIfAsked(0);
    f.thread.Call([&] { CHECK(f.device->BeforeSave().has_value()); });
    CHECK(f.driver.WaitUsed(0).len == kSector + 1);
    CHECK(ms(began) >= 490);
  }
}

TEST_CASE("token bucket: a burst, then the rate") {
  TokenBucket bucket({.per_second = 10, .burst = 3}, 0);
  for (int i = 0; i < 3; ++i) {
    CHECK(bucket.WaitNs(0) == 0);
    bucket.Take(1, 0);
  }
  CHECK(bucket.WaitNs(0) > 0);
  CHECK(bucket.WaitNs(0) <= kSecond / 10 + 1);
  CHECK(bucket.WaitNs(kSecond / 10 + 1) == 0);
  // Debts are paid.
  bucket.Take(100, kSecond);
  CHECK(bucket.WaitNs(2 * kSecond) > 7 * kSecond);
  CHECK(bucket.WaitNs(20 * kSecond) == 0);
  // A long rest gives no more than the burst.
  for (int i = 0; i < 3; ++i) bucket.Take(1, 1000 * kSecond);
  CHECK(bucket.WaitNs(1000 * kSecond) > 0);

  TokenBucket none({}, 0);
  none.Take(UINT32_MAX, 0);
  CHECK(none.WaitNs(0) == 0);
  // Neither rate nor burst has a bound.
  TokenBucket huge({.per_second = UINT64_MAX, .burst = UINT64_MAX}, 0);
  huge.Take(UINT32_MAX, 0);
  CHECK(huge.WaitNs(0) == 0);
  TokenBucket slow({.per_second = 1, .burst = UINT64_MAX}, 0);
  for (int i = 0; i < 10; ++i) slow.Take(1'000'000, 0);
  CHECK(slow.WaitNs(0) == 0);
}

}  // namespace
}  // namespace embervm::devices
