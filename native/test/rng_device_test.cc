// virtio-rng against a driver.
#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

#include "devices/rng/device.h"
#include "test/support/driver.h"

namespace embervm::devices {
namespace {

using test::Driver;
using test::LoopThread;

struct Fixture {
  RngDevice device;
  LoopThread thread;
  Driver driver{device, thread};

  std::uint32_t Request(std::initializer_list<test::DriverBuffer> buffers) {
    driver.queue(0).Add(buffers);
    driver.KickIfAsked(0);
    return driver.WaitUsed(0).len;
  }
};

TEST_CASE("rng: fills what the driver offers, up to 64 KiB") {
  Fixture f;
  f.driver.Start();
  CHECK(f.driver.Read32(virtio::kRegDeviceId) == 4);
  const GuestAddr buffer = f.driver.arena().Allocate(256 * 1024);
  CHECK(f.Request({{buffer, 64, true}}) == 64);
  const auto first = f.driver.Get(buffer, 64);
  CHECK(std::ranges::count(first, std::byte{0}) < 16);
  CHECK(f.Request({{buffer, 64, true}}) == 64);
  CHECK(f.driver.Get(buffer, 64) != first);
  CHECK(f.Request({{buffer, 10, true}, {buffer + 100, 20, true}}) == 30);

  REQUIRE(f.driver.memory().Fill(buffer, 256 * 1024, std::byte{0}).has_value());
  CHECK(f.Request({{buffer, 40000, true}, {buffer + 100000, 100000, true}}) == 65536);
  // Not one byte past the limit.
  const auto rest = f.driver.Get(buffer + 100000 + 65536 - 40000, 1000);
  CHECK(std::ranges::count(rest, std::byte{0}) == 1000);
}

TEST_CASE("rng: garbage gives the head back with nothing") {
  Fixture f;
  f.driver.Start();
  const GuestAddr buffer = f.driver.arena().Allocate(64);
  CHECK(f.Request({{buffer, 64, false}}) == 0);
  CHECK(f.Request({{buffer, 0, true}}) == 0);
  CHECK(f.Request({{Driver::kMemoryBytes - 8, 16, true}}) == 0);
  CHECK(f.Request({{buffer, 64, true}}) == 64);
  CHECK(f.driver.failures().empty());
}

TEST_CASE("rng: works without EVENT_IDX and after a reset") {
  Fixture f;
  f.driver.Start(virtio::kFeatureEventIdx | virtio::kFeatureIndirectDesc);
  const GuestAddr buffer = f.driver.arena().Allocate(64);
  CHECK(f.Request({{buffer, 64, true}}) == 64);
  f.driver.Start();
  CHECK(f.Request({{buffer, 64, true}}) == 64);
}

}  // namespace
}  // namespace embervm::devices
