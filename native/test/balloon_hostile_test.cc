// virtio-balloon against drivers that lie, and on memory that is not plainly anonymous.
#include <doctest/doctest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/state_stream.h"
#include "base/unique_fd.h"
#include "devices/balloon/device.h"
#include "memory/page_map.h"
#include "memory/reclaim.h"
#include "test/support/driver.h"

namespace embervm::devices {
namespace {

using balloon::kDeflateQueue;
using balloon::kInflateQueue;
using balloon::kPageSize;
using balloon::kReportingQueue;
using balloon::kStatsQueue;
using test::Driver;
using test::Eventually;
using test::LoopThread;

constexpr std::uint32_t kAllPages = Driver::kMemoryBytes / kPageSize;
// Above everything that the driver's arena gives out in these tests.
constexpr std::uint32_t kFirstPage = kAllPages / 2;
constexpr GuestAddr kBase = kFirstPage * kPageSize;

struct Fixture {
  BalloonDevice device{0, 0};
  LoopThread thread;
  Driver driver{device, thread};

  // Makes pages from kBase on resident.
  void Fill(std::uint32_t pages) {
    REQUIRE(driver.memory().Fill(kBase, pages * kPageSize, std::byte{0x5a}).has_value());
  }
  std::size_t Resident(std::uint32_t pages) {
    PageMap page_map;
    return page_map.CountPresent(driver.memory().Slice(kBase, pages * kPageSize).value());
  }
  // Returns the used length.
  std::uint32_t Send(std::uint16_t queue, std::initializer_list<test::DriverBuffer> buffers) {
    driver.queue(queue).Add(buffers);
    driver.KickIfAsked(queue);
    return driver.WaitUsed(queue).len;
  }
  std::uint32_t SendPages(std::uint16_t queue, const std::vector<std::uint32_t>& pages) {
    const auto bytes = std::as_bytes(std::span(pages));
    return Send(queue, {{driver.Put(bytes), static_cast<std::uint32_t>(bytes.size()), false}});
  }
};

TEST_CASE("balloon: a run of pages that goes on past RAM ends with RAM") {
  Fixture f;
  f.driver.Start();
  CHECK(f.SendPages(kInflateQueue, {kAllPages - 2, kAllPages - 1, kAllPages, kAllPages + 1}) == 0);
  CHECK(f.device.counters().actual_pages == 2);
  CHECK(f.driver.failures().empty());
}

TEST_CASE("balloon: a page number that lies across two descriptors is one") {
  Fixture f;
  f.driver.Start();
  f.Fill(8);
  const std::vector<std::uint32_t> pages{kFirstPage, kFirstPage + 1, kFirstPage + 2};
  const GuestAddr buffer = f.driver.Put(std::as_bytes(std::span(pages)));
  CHECK(f.Send(kInflateQueue, {{buffer, 6, false}, {buffer + 6, 5, false}}) == 0);
  CHECK(f.device.counters().actual_pages == 2);
  CHECK(f.Resident(8) == 6);
}

TEST_CASE("balloon: reports that are no report take nothing") {
  Fixture f;
  f.driver.Start();
  f.Fill(8);
  CHECK(f.Send(kReportingQueue, {{kBase, 0, true}}) == 0);
  CHECK(f.Send(kReportingQueue, {{Driver::kMemoryBytes - kPageSize, 2 * kPageSize, true}}) == 0);
  CHECK(f.Send(kReportingQueue, {{~GuestAddr{0} - kPageSize + 1, 2 * kPageSize, true}}) == 0);
  CHECK(f.Send(kReportingQueue, {{GuestMemory::kGapStart, kPageSize, true}}) == 0);
  // A chain with one bad range is bad as a whole.
  CHECK(f.Send(kReportingQueue,
               {{kBase, kPageSize, true}, {Driver::kMemoryBytes, kPageSize, true}}) == 0);
  CHECK(f.device.counters().reported_bytes == 0);
  CHECK(f.Resident(8) == 8);
  CHECK(f.driver.failures().empty());
}

TEST_CASE("balloon: a guest that gives away its own rings hurts itself alone") {
  Fixture f;
  f.driver.Start();
  f.driver.queue(kReportingQueue)
      .Add({{0, static_cast<std::uint32_t>(Driver::kMemoryBytes), true}});
  f.driver.Kick(kReportingQueue);
  CHECK(Eventually([&] { return f.device.counters().reported_bytes == Driver::kMemoryBytes; }));
  f.thread.Call([] {});
  f.driver.Start();
  f.Fill(1);
  CHECK(f.SendPages(kInflateQueue, {kFirstPage}) == 0);
  CHECK(f.Resident(1) == 0);
}

TEST_CASE("balloon: an available index that makes no sense stops the device until a reset") {
  Fixture f;
  f.driver.Start();
  for (const std::uint16_t queue : {kInflateQueue, kDeflateQueue, kStatsQueue, kReportingQueue}) {
    CAPTURE(queue);
    const std::size_t failures = f.driver.failures().size();
    f.driver.queue(queue).SetAvailIndex(f.driver.queue(queue).size() + 1);
    f.driver.Kick(queue);
    CHECK(Eventually([&] { return f.driver.failures().size() == failures + 1; }));
    f.driver.Start();
  }
  CHECK(f.SendPages(kInflateQueue, {kFirstPage}) == 0);
}

TEST_CASE("balloon: what the driver writes into the configuration space changes nothing") {
  Fixture f;
  f.driver.Start();
  f.driver.Write32(virtio::kRegConfig, 7);
  f.driver.Write32(virtio::kRegConfig + 4, 0xffff'ffff);
  CHECK(f.driver.Read32(virtio::kRegConfig) == 0);
  CHECK(f.device.counters().actual_pages == 0);
}

TEST_CASE("balloon: a restored machine finds the statistics' buffer in its ring") {
  Fixture f;
  f.driver.Start();
  test::DriverQueue& queue = f.driver.queue(kStatsQueue);
  queue.Add({{f.driver.Put(std::vector<std::byte>(balloon::kStatBytes)), 10, false}});
  f.driver.Kick(kStatsQueue);
  f.thread.Call([] {});
  std::vector<std::byte> state;
  bool answered = false;
  BalloonDevice device(0, 0);
  LoopThread thread;
  Driver driver(device, thread);
  f.thread.Call([&] {
    REQUIRE(f.device.BeforeSave().has_value());
    StateWriter writer;
    f.driver.transport().Save(writer);
    state = writer.Take();
    REQUIRE(driver.memory().Write(0, *f.driver.memory().Slice(0, kBase)).has_value());
  });

  thread.Call([&] {
    StateReader reader(state);
    REQUIRE(driver.transport().Restore(reader).has_value());
  });
  thread.Call([] {});
  thread.Call([&] { device.RequestStatistics([&](const auto&) { answered = true; }); });
  // Once, to the driver, for whoever asked: in this machine's memory and not in the other's.
  const auto used = [&](Driver& of) {
    return LoadLe<std::uint16_t>(of.memory().Slice(queue.device_ring() + 2, 2).value());
  };
  CHECK(Eventually([&] { return used(driver) == 1 || answered; }));
  CHECK(used(f.driver) == 0);
  thread.Stop();
}

TEST_CASE("balloon: memory of a snapshot file falls back to the file, which stays as it is") {
  constexpr std::size_t kPages = 8;
  const UniqueFd file(::memfd_create("memory", MFD_CLOEXEC));
  const std::vector<std::byte> content(kPages * kPageSize, std::byte{0x11});
  REQUIRE(::write(file.get(), content.data(), content.size()) ==
          static_cast<ssize_t>(content.size()));
  std::vector<GuestMemory::Layer> layers;
  layers.push_back({.file = UniqueFd(::dup(file.get())), .extents = {}});
  const GuestMemory memory = GuestMemory::FromFiles(kPages * kPageSize, std::move(layers)).value();
  REQUIRE(memory.Fill(0, kPages * kPageSize, std::byte{0x22}).has_value());
  PageMap page_map;
  const auto own = [&] {
    std::size_t count = 0;
    for (const PageKind kind : page_map.Read(memory.bytes())) {
      if (kind == PageKind::kPrivate) ++count;
    }
    return count;
  };
  REQUIRE(own() == kPages);
  CHECK(ReclaimRange(memory.bytes().first(6 * kPageSize)) == 6 * kPageSize);
  CHECK(own() == 2);
  // What is read there is the file's, which all guests share: no copy is made for it.
  CHECK(memory.bytes().front() == std::byte{0x11});
  CHECK(own() == 2);
  CHECK(memory.bytes().back() == std::byte{0x22});
  std::vector<std::byte> now(content.size());
  REQUIRE(::pread(file.get(), now.data(), now.size(), 0) == static_cast<ssize_t>(now.size()));
  CHECK(now == content);
}

// As Linux does: the queues that it uses are numbered without a gap, the others not set up.
struct PartialDriver {
  Driver& driver;
  std::vector<test::DriverQueue> queues;

  PartialDriver(Driver& of, std::uint64_t declined) : driver(of) {
    const std::uint64_t features = driver.OfferedFeatures() & ~declined;
    driver.Negotiate(features);
    std::uint32_t count = 2;
    if ((features & balloon::kFeatureStats) != 0) ++count;
    if ((features & balloon::kFeatureReporting) != 0) ++count;
    for (std::uint32_t index = 0; index < count; ++index) {
      driver.Write32(virtio::kRegQueueSel, index);
      const auto size = static_cast<std::uint16_t>(driver.Read32(virtio::kRegQueueNumMax));
      queues.emplace_back(driver.arena(), size, features);
      driver.SetUpQueue(index, queues.back().Config(size));
    }
    driver.Write32(virtio::kRegStatus, 0xf);
  }
  bool Send(std::uint16_t queue, test::DriverBuffer buffer) {
    queues.at(queue).Add({buffer});
    driver.Kick(queue);
    return Eventually([&] { return queues.at(queue).PopUsed().has_value(); });
  }
};

TEST_CASE("balloon: a driver may decline what is beyond inflating and deflating") {
  Fixture f;
  f.Fill(8);
  const std::vector<std::uint32_t> pages{kFirstPage};
  const GuestAddr buffer = f.driver.Put(std::as_bytes(std::span(pages)));
  std::string code;
  const auto ask = [&] {
    f.thread.Call([&] {
      f.device.RequestStatistics([&code](const Result<BalloonStatistics>& answer) {
        code = answer.has_value() ? "" : answer.error().code();
      });
    });
  };
  SUBCASE("statistics: the reports move up, and nobody waits for an answer") {
    PartialDriver partial(f.driver, balloon::kFeatureStats);
    REQUIRE(f.driver.Read32(virtio::kRegStatus) == 0xf);
    CHECK(partial.Send(2, {kBase + kPageSize, kPageSize, true}));
    CHECK(f.device.counters().reported_bytes == kPageSize);
    CHECK(partial.Send(kInflateQueue, {buffer, 4, false}));
    CHECK(f.Resident(8) == 6);
    ask();
    CHECK(code == "ERR_GUEST_NO_DRIVER");
    f.thread.Call([&] { CHECK(f.device.BeforeSave().has_value()); });
  }
  SUBCASE("reports, as Linux does where it wipes what is freed") {
    PartialDriver partial(f.driver, balloon::kFeatureReporting);
    REQUIRE(f.driver.Read32(virtio::kRegStatus) == 0xf);
    CHECK(partial.Send(kInflateQueue, {buffer, 4, false}));
    partial.queues.at(kStatsQueue).Add({{buffer, 4, false}});
    f.driver.Kick(kStatsQueue);
    ask();
    CHECK(Eventually([&] { return partial.queues.at(kStatsQueue).PopUsed().has_value(); }));
    // Nobody is there for a notification of the queue that is not.
    f.driver.Kick(kReportingQueue);
    f.thread.Call([] {});
    f.driver.Write32(virtio::kRegStatus, 0);
    CHECK(code == "ERR_GUEST_NO_DRIVER");
  }
  SUBCASE("both, and the machine is saved and restored") {
    PartialDriver partial(f.driver, balloon::kFeatureStats | balloon::kFeatureReporting);
    REQUIRE(f.driver.Read32(virtio::kRegStatus) == 0xf);
    std::vector<std::byte> state;
    f.thread.Call([&] {
      StateWriter writer;
      f.driver.transport().Save(writer);
      state = writer.Take();
    });
    BalloonDevice device(0, 0);
    LoopThread thread;
    Driver driver(device, thread);
    thread.Call([&] {
      StateReader reader(state);
      CHECK(driver.transport().Restore(reader).has_value());
      CHECK(reader.Done());
    });
    CHECK(driver.Read32(virtio::kRegStatus) == 0xf);
    CHECK(partial.Send(kInflateQueue, {buffer, 4, false}));
  }
  SUBCASE("but not set up fewer queues than it took features for") {
    const std::uint64_t features = f.driver.OfferedFeatures();
    f.driver.Negotiate(features);
    for (std::uint32_t index = 0; index < 3; ++index) {
      const test::DriverQueue queue(f.driver.arena(), 8, features);
      f.driver.SetUpQueue(index, queue.Config(8));
    }
    f.driver.Write32(virtio::kRegStatus, 0xf);
    CHECK(f.driver.Read32(virtio::kRegStatus) != 0xf);
    CHECK(f.driver.failures().size() == 1);
    return;
  }
  CHECK(f.driver.failures().empty());
}

}  // namespace
}  // namespace embervm::devices
