// A device's turn over a queue: what it publishes and when, and what it leaves.
#include "virtio/service_queue.h"

#include <doctest/doctest.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/event_loop.h"
#include "memory/guest_memory.h"
#include "test/support/driver_queue.h"

namespace embervm::virtio {
namespace {

constexpr std::uint64_t kMemoryBytes = 1U << 20U;
constexpr GuestAddr kBuffer = 0x80000;
// Without EVENT_IDX each publish is an interrupt.
constexpr std::uint64_t kFeatures = kFeatureVersion1;

// Keeps what a device tells its host.
class Host final : public DeviceHost {
 public:
  void SignalQueues() override { ++signals; }
  void PublishConfig(std::span<const std::byte>) override {}
  void ShowConfig(std::span<const std::byte>) override {}
  void Kick(std::uint16_t queue) override { kicked.push_back(queue); }
  void Fail(Error error) override { FAIL(error.message()); }

  unsigned signals = 0;
  std::vector<std::uint16_t> kicked;
};

struct Fixture {
  Fixture() {
    queues.push_back(Queue::Create(memory, driver.Config(16), kFeatures).value());
    context.queues = queues;
    for (int i = 0; i < 10; ++i) driver.Add({{kBuffer, 1, true}});
  }

  GuestMemory memory = GuestMemory::Create(kMemoryBytes).value();
  test::GuestArena arena{memory, 0x1000};
  test::DriverQueue driver{arena, 16, kFeatures};
  std::vector<Queue> queues;
  std::unique_ptr<EventLoop> loop = EventLoop::Create().value();
  Host host;
  DeviceContext context{
      .memory = memory, .loop = *loop, .host = host, .queues = {}, .features = kFeatures};
};

TEST_CASE("service queue: what is done is published at the end, with one interrupt") {
  Fixture f;
  std::vector<std::uint16_t> seen;
  ServiceQueue(f.context, 0, 100, [&](const Chain&) {
    seen.push_back(f.driver.used_index());
    return Outcome::Used(1);
  });
  CHECK(seen == std::vector<std::uint16_t>(10, 0));
  CHECK(f.driver.used_index() == 10);
  CHECK(f.host.signals == 1);
  CHECK(f.host.kicked.empty());
}

TEST_CASE("service queue: the driver has the first ones while the device is at the rest") {
  Fixture f;
  std::vector<std::uint16_t> seen;
  const auto handler = [&](const Chain&) {
    seen.push_back(f.driver.used_index());
    return Outcome::Used(1);
  };
  ServiceQueue(f.context, 0, 100, handler, 4);
  CHECK(seen == std::vector<std::uint16_t>{0, 0, 0, 0, 4, 4, 4, 4, 8, 8});
  CHECK(f.driver.used_index() == 10);
  CHECK(f.host.signals == 3);
}

TEST_CASE("service queue: what is beyond the budget waits for a later turn") {
  Fixture f;
  const auto handler = [](const Chain&) { return Outcome::Used(1); };
  ServiceQueue(f.context, 0, 8, handler, 4);
  CHECK(f.driver.used_index() == 8);
  CHECK(f.host.signals == 2);
  CHECK(f.host.kicked == std::vector<std::uint16_t>{0});
  ServiceQueue(f.context, 0, 8, handler, 4);
  CHECK(f.driver.used_index() == 10);
  CHECK(f.host.signals == 3);
  CHECK(f.host.kicked.size() == 1);
}

TEST_CASE("service queue: a chain that stays keeps all behind it, and what is done is told") {
  Fixture f;
  int handled = 0;
  ServiceQueue(
      f.context, 0, 100,
      [&](const Chain&) { return handled++ == 5 ? Outcome::Stays() : Outcome::Used(1); }, 4);
  CHECK(f.driver.used_index() == 5);
  CHECK(f.host.signals == 2);
  CHECK(f.host.kicked.empty());
  ServiceQueue(f.context, 0, 100, [](const Chain&) { return Outcome::Used(1); });
  CHECK(f.driver.used_index() == 10);
}

TEST_CASE("service queue: a chain that is taken comes back when the device says so") {
  Fixture f;
  std::vector<std::uint16_t> taken;
  ServiceQueue(f.context, 0, 100, [&](const Chain& chain) {
    if (chain.head() % 2 == 0) return Outcome::Used(1);
    taken.push_back(chain.head());
    return Outcome::Taken();
  });
  CHECK(f.driver.used_index() == 5);
  REQUIRE(taken.size() == 5);
  for (const std::uint16_t head : taken) f.queues[0].AddUsed(head, 1);
  CHECK(f.queues[0].PublishUsed());
  CHECK(f.driver.used_index() == 10);
}

}  // namespace
}  // namespace embervm::virtio
