// virtio-balloon against a driver: pages that go and come, free page reporting, statistics.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "devices/balloon/device.h"
#include "test/support/driver.h"

namespace embervm::devices {
namespace {

using test::Driver;
using test::DriverBuffer;
using test::Eventually;
using test::LoopThread;

constexpr std::uint64_t kPage = balloon::kPageSize;
constexpr std::uint64_t kMiB = 1024 * 1024;

struct Fixture {
  explicit Fixture(std::uint32_t target = 0, std::uint32_t actual = 0) : device(target, actual) {}
  Fixture(const Fixture&) = delete;
  Fixture& operator=(const Fixture&) = delete;
  ~Fixture() { thread.Stop(); }

  BalloonDevice device;
  LoopThread thread;
  Driver driver{device, thread};

  // Pages by their numbers, as a driver sends them.
  void Send(std::uint16_t queue, const std::vector<std::uint32_t>& pages) {
    const GuestAddr buffer = driver.Put(std::as_bytes(std::span(pages)));
    driver.queue(queue).Add(
        {{buffer, static_cast<std::uint32_t>(pages.size() * sizeof(std::uint32_t)), false}});
    driver.KickIfAsked(queue);
    CHECK(driver.WaitUsed(queue).len == 0);
  }
  void Report(std::vector<DriverBuffer> ranges) {
    driver.queue(balloon::kReportingQueue).AddIndirect(ranges);
    driver.KickIfAsked(balloon::kReportingQueue);
    CHECK(driver.WaitUsed(balloon::kReportingQueue).len == 0);
  }
  void Fill(GuestAddr at, std::uint64_t bytes) {
    REQUIRE(driver.memory().Fill(at, bytes, std::byte{0x5a}).has_value());
  }
  // Whether all of it is what the guest wrote, or none of it.
  std::optional<bool> Kept(GuestAddr at, std::uint64_t bytes) {
    const auto content = driver.Get(at, bytes);
    if (std::ranges::count(content, std::byte{0x5a}) == static_cast<std::ptrdiff_t>(bytes)) {
      return true;
    }
    if (std::ranges::count(content, std::byte{0}) == static_cast<std::ptrdiff_t>(bytes)) {
      return false;
    }
    return std::nullopt;
  }
  // Asks for statistics; what comes is in `answers`.
  void Ask() {
    thread.Call([this] {
      device.RequestStatistics([this](Result<BalloonStatistics> answer) {
        const std::lock_guard lock(mutex);
        answers.push_back(std::move(answer));
      });
    });
  }
  std::size_t Answers() {
    const std::lock_guard lock(mutex);
    return answers.size();
  }

  std::mutex mutex;
  std::vector<Result<BalloonStatistics>> answers;
};

std::vector<std::byte> Statistics(const std::vector<std::pair<std::uint16_t, std::uint64_t>>& all) {
  std::vector<std::byte> bytes;
  for (const auto& [tag, value] : all) {
    const auto add = [&bytes](std::span<const std::byte> part) {
      bytes.insert(bytes.end(), part.begin(), part.end());
    };
    add(AsBytes(tag));
    add(AsBytes(value));
  }
  return bytes;
}

TEST_CASE("balloon: pages go to the host and come back") {
  Fixture f;
  f.driver.Start();
  CHECK(f.driver.Read32(virtio::kRegDeviceId) == 5);
  f.Fill(32 * kMiB, kMiB);
  const auto page = static_cast<std::uint32_t>(32 * kMiB / kPage);
  const std::uint64_t before = f.driver.memory().ResidentBytes();

  // In any order, one of them twice.
  f.Send(balloon::kInflateQueue, {page + 3, page + 1, page + 2, page + 1, page + 100});
  CHECK(f.device.counters().actual_pages == 4);
  CHECK(before - f.driver.memory().ResidentBytes() == 4 * kPage);
  CHECK(f.Kept(32 * kMiB, kPage) == true);
  CHECK(f.Kept(32 * kMiB + kPage, 3 * kPage) == false);
  CHECK(f.Kept(32 * kMiB + 4 * kPage, 96 * kPage) == true);
  CHECK(f.Kept(32 * kMiB + 100 * kPage, kPage) == false);
  CHECK(f.Kept(32 * kMiB + 101 * kPage, kPage) == true);

  f.Send(balloon::kDeflateQueue, {page + 1, page + 2});
  CHECK(f.device.counters().actual_pages == 2);
  // More than it has.
  f.Send(balloon::kDeflateQueue, {page, page, page, page});
  CHECK(f.device.counters().actual_pages == 0);
}

TEST_CASE("balloon: pages that are none") {
  Fixture f;
  f.driver.Start();
  const auto end = static_cast<std::uint32_t>(Driver::kMemoryBytes / kPage);
  const std::uint64_t before = f.driver.memory().ResidentBytes();
  f.Send(balloon::kInflateQueue, {end, end + 1, 0xffffffff, 0xfffffffe, 0x100000});
  CHECK(f.device.counters().actual_pages == 0);
  CHECK(f.driver.memory().ResidentBytes() >= before);

  // A number that is cut off, no number, a buffer that the device may write.
  const GuestAddr buffer = f.driver.arena().Allocate(64);
  for (const DriverBuffer& odd :
       {DriverBuffer{buffer, 7, false}, DriverBuffer{buffer, 3, false},
        DriverBuffer{buffer, 64, true}, DriverBuffer{Driver::kMemoryBytes - 4, 64, false}}) {
    f.driver.queue(balloon::kInflateQueue).Add({odd});
    f.driver.KickIfAsked(balloon::kInflateQueue);
    CHECK(f.driver.WaitUsed(balloon::kInflateQueue).len == 0);
  }
  CHECK(f.device.counters().actual_pages <= 1);

  // More in one buffer than are looked at, and never more than all of memory.
  const auto first = static_cast<std::uint32_t>(16 * kMiB / kPage);
  std::vector<std::uint32_t> many(5000);
  for (std::size_t i = 0; i < many.size(); ++i) many[i] = first + static_cast<std::uint32_t>(i);
  for (int i = 0; i < 40; ++i) f.Send(balloon::kInflateQueue, many);
  CHECK(f.device.counters().actual_pages == end);
  CHECK(f.driver.failures().empty());
}

TEST_CASE("balloon: what the guest reports free goes to the host") {
  Fixture f;
  f.driver.Start();
  f.Fill(32 * kMiB, 8 * kMiB);
  const std::uint64_t before = f.driver.memory().ResidentBytes();
  f.Report({{32 * kMiB, 2 * kMiB, true}, {36 * kMiB, 4 * kMiB, true}});
  CHECK(f.Kept(32 * kMiB, 2 * kMiB) == false);
  CHECK(f.device.counters().reported_bytes == 6 * kMiB);
  CHECK(before - f.driver.memory().ResidentBytes() >= 3 * kMiB);
  CHECK(f.Kept(34 * kMiB, 2 * kMiB) == true);
  CHECK(f.device.counters().actual_pages == 0);

  // Parts of pages stay, also where two of them meet.
  f.Report({{34 * kMiB + 1, 2 * kPage, true}, {34 * kMiB + 2 * kPage + 1, 100, true}});
  CHECK(f.Kept(34 * kMiB, kPage) == true);
  CHECK(f.Kept(34 * kMiB + kPage, kPage) == false);
  CHECK(f.Kept(34 * kMiB + 2 * kPage, kPage) == true);
  // What the device must not write was not reported.
  f.Report({{34 * kMiB + 2 * kPage, 2 * kPage, false}});
  CHECK(f.Kept(34 * kMiB + 2 * kPage, 2 * kPage) == true);
}

TEST_CASE("balloon: the target is told to the driver, whenever it is set") {
  Fixture f(7, 5);
  CHECK(f.device.counters().actual_pages == 5);
  CHECK(f.driver.Read32(virtio::kRegConfig) == 7);
  const auto set = [&f](std::uint32_t pages) {
    f.thread.Call([&] {
      f.device.SetTarget(pages);
      f.driver.transport().RefreshConfig();
    });
  };
  set(11);
  CHECK(f.driver.Read32(virtio::kRegConfig) == 11);
  f.driver.Start();
  set(256);
  CHECK(f.driver.WaitInterrupt() == virtio::kInterruptConfig);
  CHECK(f.driver.Read32(virtio::kRegConfig) == 256);
  CHECK(f.device.counters().target_pages == 256);
}

TEST_CASE("balloon: statistics are the guest's answer to a question") {
  Fixture f;
  f.Ask();
  REQUIRE(f.Answers() == 1);
  CHECK(f.answers[0].error().code() == "ERR_GUEST_NO_DRIVER");

  f.driver.Start();
  auto& queue = f.driver.queue(balloon::kStatsQueue);
  const auto give = [&](const std::vector<std::byte>& bytes) {
    const GuestAddr buffer = f.driver.Put(bytes);
    queue.Add({{buffer, static_cast<std::uint32_t>(bytes.size()), false}});
    f.driver.KickIfAsked(balloon::kStatsQueue);
  };
  give(Statistics({{balloon::kStatFree, 1000}}));
  // The buffer stays until somebody asks.
  f.thread.Call([] {});
  CHECK_FALSE(queue.PopUsed().has_value());
  f.Ask();
  f.Ask();
  CHECK(f.driver.WaitUsed(balloon::kStatsQueue).len == 0);
  give(Statistics({{balloon::kStatFree, 2000},
                   {balloon::kStatTotal, 1ULL << 40U},
                   {99, 1},
                   {balloon::kStatMajorFaults, 3}}));
  REQUIRE(Eventually([&] { return f.Answers() == 3; }));
  CHECK(f.answers[1]->free_bytes == 2000);
  CHECK(f.answers[2]->total_bytes == 1ULL << 40U);
  CHECK(f.answers[2]->major_faults == 3);
  CHECK_FALSE(f.answers[2]->cache_bytes.has_value());

  SUBCASE("cut off, empty, or far too many") {
    f.Ask();
    static_cast<void>(f.driver.WaitUsed(balloon::kStatsQueue));
    auto cut = Statistics({{balloon::kStatFree, 5}, {balloon::kStatTotal, 6}});
    cut.pop_back();
    give(cut);
    REQUIRE(Eventually([&] { return f.Answers() == 4; }));
    CHECK(f.answers[3]->free_bytes == 5);
    CHECK_FALSE(f.answers[3]->total_bytes.has_value());
    f.Ask();
    static_cast<void>(f.driver.WaitUsed(balloon::kStatsQueue));
    give(std::vector<std::byte>(100000, std::byte{0}));
    REQUIRE(Eventually([&] { return f.Answers() == 5; }));
    CHECK(f.answers[4]->swapped_in_bytes == 0);
  }
  SUBCASE("a second buffer waits for the first") {
    give(Statistics({{balloon::kStatFree, 3000}}));
    f.thread.Call([] {});
    CHECK_FALSE(queue.PopUsed().has_value());
    f.Ask();
    REQUIRE(Eventually([&] { return f.Answers() == 4; }));
    CHECK(f.answers[3]->free_bytes == 3000);
  }
  SUBCASE("a driver that goes answers nobody") {
    f.Ask();
    f.driver.Write32(virtio::kRegStatus, 0);
    REQUIRE(f.Answers() == 4);
    CHECK(f.answers[3].error().code() == "ERR_GUEST_NO_DRIVER");
    f.driver.Start();
    CHECK(f.driver.failures().empty());
  }
  SUBCASE("a saved machine has its buffer in the ring, and the one that goes on asks again") {
    f.thread.Call([&] { REQUIRE(f.device.BeforeSave().has_value()); });
    f.Ask();
    CHECK(f.driver.WaitUsed(balloon::kStatsQueue).len == 0);
    give(Statistics({{balloon::kStatFree, 4000}}));
    REQUIRE(Eventually([&] { return f.Answers() == 4; }));
    CHECK(f.answers[3]->free_bytes == 4000);
  }
}

}  // namespace
}  // namespace embervm::devices
