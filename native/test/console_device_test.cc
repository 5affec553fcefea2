// The console ring, and virtio-console against a driver.
#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "devices/console/device.h"
#include "devices/console/ring.h"
#include "test/support/driver.h"

namespace embervm::devices {
namespace {

using test::Driver;
using test::Eventually;
using test::LoopThread;

std::string Text(const std::vector<std::byte>& bytes) {
  std::string text;
  for (const std::byte byte : bytes) text.push_back(static_cast<char>(byte));
  return text;
}

void Append(ConsoleRing& ring, std::string text) {
  const virtio::Segment segment{.iov_base = text.data(), .iov_len = text.size()};
  ring.Append(virtio::Segments(&segment, 1));
}

TEST_CASE("console ring: keeps the last bytes and counts the rest") {
  std::vector<std::uint64_t> overflows;
  auto ring =
      ConsoleRing::Create(10, [&](std::uint64_t dropped) { overflows.push_back(dropped); }).value();
  CHECK(ring->Tail(100).empty());
  Append(*ring, "hello");
  CHECK(Text(ring->Tail(100)) == "hello");
  CHECK(Text(ring->Tail(2)) == "lo");
  CHECK(ring->Tail(0).empty());
  Append(*ring, "world");
  CHECK(overflows.empty());
  CHECK(Text(ring->Tail(100)) == "helloworld");
  Append(*ring, "!");
  CHECK(overflows == std::vector<std::uint64_t>{1});
  CHECK(Text(ring->Tail(100)) == "elloworld!");
  Append(*ring, "0123456789abcdef");
  CHECK(Text(ring->Tail(100)) == "6789abcdef");
  CHECK(Text(ring->Tail(3)) == "def");
  CHECK(overflows.size() == 1);  // Reported once.
  CHECK(ring->counters().bytes == 27);
  CHECK(ring->counters().dropped_bytes == 17);
  ring->Append(std::byte{'z'});
  CHECK(Text(ring->Tail(2)) == "fz");
}

TEST_CASE("console ring: equals a plain string at every length and capacity") {
  for (std::size_t capacity = 1; capacity < 9; ++capacity) {
    auto ring = ConsoleRing::Create(capacity, nullptr).value();
    std::string all;
    for (std::size_t length = 0; length < 20; ++length) {
      const std::string piece(length, static_cast<char>('a' + length));
      all += piece;
      Append(*ring, piece);
      const std::string kept = all.substr(all.size() - std::min(all.size(), capacity));
      CHECK(Text(ring->Tail(1000)) == kept);
    }
  }
  CHECK_FALSE(ConsoleRing::Create(0, nullptr).has_value());
}

TEST_CASE("console ring: a chain of terabytes costs no more than the ring") {
  auto ring = ConsoleRing::Create(4096, nullptr).value();
  std::vector<std::byte> page(4096, std::byte{'x'});
  const std::vector<virtio::Segment> chain(1U << 20U, {page.data(), page.size()});
  const auto begin = std::chrono::steady_clock::now();
  ring->Append(chain);
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(1));
  CHECK(ring->counters().bytes == std::uint64_t{1} << 32U);
}

TEST_CASE("console: output reaches the ring, in bulk and in order") {
  auto ring = ConsoleRing::Create(1U << 20U, nullptr).value();
  ConsoleDevice device(*ring);
  LoopThread thread;
  Driver driver(device, thread);
  driver.Start();
  CHECK(driver.Read32(virtio::kRegDeviceId) == 3);
  // An input buffer, as Linux gives one: it stays.
  driver.queue(0).Add({{driver.arena().Allocate(4096), 4096, true}});
  driver.KickIfAsked(0);
  std::string expected;
  for (int i = 0; i < 500; ++i) {
    const std::string line = "line " + std::to_string(i) + "\n";
    expected += line;
    const GuestAddr text = driver.Put(std::as_bytes(std::span(line)));
    const auto half = static_cast<std::uint32_t>(line.size() / 2);
    const auto rest = static_cast<std::uint32_t>(line.size()) - half;
    driver.queue(1).Add({{text, half, false}, {text + half, rest, false}});
    driver.KickIfAsked(1);
    CHECK(driver.WaitUsed(1).len == 0);
  }
  CHECK(Text(ring->Tail(1U << 20U)) == expected);
  CHECK_FALSE(driver.queue(0).PopUsed().has_value());
}

TEST_CASE("console: garbage gives the head back") {
  auto ring = ConsoleRing::Create(1024, nullptr).value();
  ConsoleDevice device(*ring);
  LoopThread thread;
  Driver driver(device, thread);
  driver.Start();
  driver.queue(1).Add({{Driver::kMemoryBytes, 16, false}});        // Outside RAM.
  driver.queue(1).Add({{driver.arena().Allocate(16), 16, true}});  // Writable.
  driver.queue(1).Add({{driver.arena().Allocate(16), 0, false}});  // Empty.
  driver.Kick(1);
  for (int i = 0; i < 3; ++i) CHECK(driver.WaitUsed(1).len == 0);
  CHECK(ring->counters().bytes == 0);
  CHECK(driver.failures().empty());
}

TEST_CASE("console: a guest that writes without end leaves others their turn") {
  auto ring = ConsoleRing::Create(4096, nullptr).value();
  ConsoleDevice device(*ring);
  LoopThread thread;
  Driver driver(device, thread);
  driver.Start();
  const GuestAddr page = driver.arena().Allocate(65536);
  std::atomic<bool> stop = false;
  std::thread guest([&] {
    while (!stop) {
      while (driver.queue(1).free_descriptors() > 0) driver.queue(1).Add({{page, 65536, false}});
      driver.Kick(1);
      while (driver.queue(1).PopUsed()) {
      }
    }
  });
  for (int i = 0; i < 50; ++i) thread.Call([] {});  // The loop turns.
  CHECK(ring->Tail(10000).size() <= 4096);
  stop = true;
  guest.join();
}

}  // namespace
}  // namespace embervm::devices
