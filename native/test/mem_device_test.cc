// virtio-mem against a driver: blocks that come and go, what is asked for, and who waits for it;
// and against drivers that lie.
#include <doctest/doctest.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <limits>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "devices/mem/device.h"
#include "test/support/driver.h"

namespace embervm::devices {
namespace {

using mem::kRequestQueue;
using mem::Request;
using test::Driver;
using test::DriverBuffer;
using test::Eventually;
using test::LoopThread;

constexpr std::uint64_t kMiB = 1024 * 1024;
constexpr GuestAddr kBase = 32 * kMiB;
constexpr std::uint64_t kRegion = 24 * kMiB;
constexpr std::uint64_t kBlock = mem::kBlockBytes;
constexpr auto kLong = std::chrono::minutes(10);

MemOptions Options(std::uint64_t requested = kRegion,
                   std::vector<GuestMemory::Extent> plugged = {}) {
  return {.base = kBase,
          .region_bytes = kRegion,
          .requested_bytes = requested,
          .plugged = std::move(plugged)};
}

struct Fixture {
  explicit Fixture(const MemOptions& options = Options()) : device(options) {}
  Fixture(const Fixture&) = delete;
  Fixture& operator=(const Fixture&) = delete;
  ~Fixture() { thread.Stop(); }

  MemDevice device;
  LoopThread thread;
  Driver driver{device, thread};

  // The used length, and the response in a buffer that was full of ones.
  std::pair<std::uint32_t, mem::Response> Send(const std::vector<DriverBuffer>& request,
                                               std::uint32_t room = sizeof(mem::Response)) {
    const std::vector<std::byte> ones(64, std::byte{0xff});
    const GuestAddr answer = driver.Put(ones);
    std::vector<DriverBuffer> chain = request;
    if (room > 0) chain.push_back({answer, room, true});
    driver.queue(kRequestQueue).Add(chain);
    driver.KickIfAsked(kRequestQueue);
    const std::uint32_t length = driver.WaitUsed(kRequestQueue).len;
    return {length, LoadLe<mem::Response>(driver.Get(answer, sizeof(mem::Response)))};
  }
  mem::Response Ask(const Request& request) {
    const auto [length, response] = Send({{driver.PutStruct(request), sizeof(request), false}});
    CHECK(length == sizeof(mem::Response));
    return response;
  }
  std::uint16_t Do(std::uint16_t type, GuestAddr addr, std::uint16_t blocks) {
    return Ask({.type = type, .addr = addr, .nb_blocks = blocks}).type;
  }
  std::uint16_t Plug(std::uint64_t block, std::uint16_t count = 1) {
    return Do(mem::kRequestPlug, kBase + block * kBlock, count);
  }
  std::uint16_t Unplug(std::uint64_t block, std::uint16_t count = 1) {
    return Do(mem::kRequestUnplug, kBase + block * kBlock, count);
  }
  std::uint16_t StateOf(std::uint64_t block, std::uint16_t count = 1) {
    const mem::Response response =
        Ask({.type = mem::kRequestState, .addr = kBase + block * kBlock, .nb_blocks = count});
    CHECK(response.type == mem::kResponseAck);
    return response.state;
  }
  std::uint64_t Field(std::size_t offset) {
    const std::uint64_t high = driver.Read32(virtio::kRegConfig + offset + 4);
    return (high << 32U) | driver.Read32(virtio::kRegConfig + offset);
  }
  std::uint64_t Plugged() {
    const std::uint64_t plugged = Field(offsetof(mem::Config, plugged_size));
    CHECK(device.counters().plugged_bytes == plugged);
    return plugged;
  }
  void Fill(std::uint64_t block) {
    REQUIRE(driver.memory().Fill(kBase + block * kBlock, kBlock, std::byte{0x5a}).has_value());
  }
  std::byte First(std::uint64_t block) { return driver.Get(kBase + block * kBlock, 1).front(); }

  // What comes is in `answers`.
  void Resize(std::uint64_t bytes, std::chrono::milliseconds patience = kLong) {
    thread.Call([&] {
      device.Resize(bytes, patience, [this](Result<std::uint64_t> answer) {
        const std::lock_guard lock(mutex);
        answers.push_back(std::move(answer));
      });
      driver.transport().RefreshConfig();
    });
  }
  std::size_t Answers() {
    const std::lock_guard lock(mutex);
    return answers.size();
  }

  std::mutex mutex;
  std::vector<Result<std::uint64_t>> answers;
};

TEST_CASE("mem: blocks come, are used, and go back to the host") {
  Fixture f;
  f.driver.Start();
  CHECK(f.driver.Read32(virtio::kRegDeviceId) == 24);
  CHECK(f.Field(offsetof(mem::Config, block_size)) == kBlock);
  CHECK(f.Field(offsetof(mem::Config, addr)) == kBase);
  CHECK(f.Field(offsetof(mem::Config, region_size)) == kRegion);
  CHECK(f.Field(offsetof(mem::Config, usable_region_size)) == kRegion);
  CHECK(f.Field(offsetof(mem::Config, requested_size)) == kRegion);
  CHECK(f.Plugged() == 0);
  CHECK((f.driver.OfferedFeatures() & mem::kFeatureUnpluggedInaccessible) != 0);

  CHECK(f.Plug(0, 2) == mem::kResponseAck);
  CHECK(f.Plug(5) == mem::kResponseAck);
  CHECK(f.Plugged() == 3 * kBlock);
  CHECK(f.StateOf(0, 2) == mem::kStatePlugged);
  CHECK(f.StateOf(2, 3) == mem::kStateUnplugged);
  CHECK(f.StateOf(1, 2) == mem::kStateMixed);
  CHECK(f.StateOf(4, 2) == mem::kStateMixed);

  for (const std::uint64_t block : {0U, 1U, 5U}) f.Fill(block);
  const std::uint64_t before = f.driver.memory().ResidentBytes();
  CHECK(f.Unplug(1) == mem::kResponseAck);
  CHECK(before - f.driver.memory().ResidentBytes() == kBlock);
  CHECK(f.Plugged() == 2 * kBlock);
  CHECK(f.First(0) == std::byte{0x5a});
  CHECK(f.First(1) == std::byte{0});

  const std::vector<GuestMemory::Extent> plugged = f.device.Plugged();
  REQUIRE(plugged.size() == 2);
  CHECK(plugged[0].offset == 0);
  CHECK(plugged[0].length == kBlock);
  CHECK(plugged[1].offset == 5 * kBlock);
  CHECK(f.Do(mem::kRequestUnplugAll, 0, 0) == mem::kResponseAck);
  CHECK(f.Plugged() == 0);
  CHECK(f.First(0) == std::byte{0});
  CHECK(f.First(5) == std::byte{0});
  CHECK(f.device.Plugged().empty());
  CHECK(f.driver.failures().empty());
}

TEST_CASE("mem: requests that make no sense change nothing") {
  Fixture f(Options(kRegion, {{.offset = 0, .length = 2 * kBlock}}));
  f.driver.Start();
  f.Fill(0);
  constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();
  for (const std::uint16_t type : {mem::kRequestPlug, mem::kRequestUnplug, mem::kRequestState}) {
    CAPTURE(type);
    const auto refused = [&](GuestAddr addr, std::uint16_t blocks) {
      CAPTURE(addr);
      CAPTURE(blocks);
      CHECK(f.Do(type, addr, blocks) == mem::kResponseError);
    };
    refused(kBase, 0);
    refused(kBase + kRegion, 1);
    refused(kBase + kRegion, 0);
    refused(kBase - kBlock, 1);
    refused(kBase - kBlock, 2);
    refused(0, 1);
    refused(kBase + 1, 1);
    refused(kBase + 4096, 1);
    refused(kBase, 7);
    refused(kBase, 65535);
    refused(kBase + 5 * kBlock, 2);
    refused(kBase + 5 * kBlock, 65535);
    refused(kMax - kBlock + 1, 1);
    refused(kMax, 65535);
    refused(kBase + (std::uint64_t{1} << 63U), 1);
  }
  for (const std::uint16_t type : std::array<std::uint16_t, 4>{4, 5, 255, 65535}) {
    CHECK(f.Do(type, kBase, 1) == mem::kResponseError);
  }
  // What it has, or has not, in part.
  CHECK(f.Plug(0) == mem::kResponseError);
  CHECK(f.Plug(1, 2) == mem::kResponseError);
  CHECK(f.Unplug(2) == mem::kResponseError);
  CHECK(f.Unplug(1, 2) == mem::kResponseError);
  CHECK(f.Plugged() == 2 * kBlock);
  CHECK(f.First(0) == std::byte{0x5a});
  CHECK(f.driver.failures().empty());
}

TEST_CASE("mem: a guest gets no more than the host wants it to have") {
  Fixture f(Options(2 * kBlock));
  f.driver.Start();
  CHECK(f.Plug(0, 3) == mem::kResponseNack);
  CHECK(f.Plugged() == 0);
  CHECK(f.Plug(3, 2) == mem::kResponseAck);
  CHECK(f.Plug(0) == mem::kResponseNack);
  f.Resize(0);
  CHECK(f.Plug(0) == mem::kResponseNack);
  CHECK(f.Unplug(3) == mem::kResponseAck);
  CHECK(f.Plug(3) == mem::kResponseNack);
  CHECK(f.Plugged() == kBlock);
  // What a guest has put where it has nothing is not there when it gets it.
  f.Fill(1);
  f.Resize(2 * kBlock);
  CHECK(f.Plug(1) == mem::kResponseAck);
  CHECK(f.First(1) == std::byte{0});
}

TEST_CASE("mem: chains that are no request, or have no room for the answer") {
  Fixture f;
  f.driver.Start();
  const Request plug{.type = mem::kRequestPlug, .addr = kBase, .nb_blocks = 1};
  const GuestAddr request = f.driver.PutStruct(plug);
  constexpr std::uint32_t kAll = sizeof(Request);
  for (const std::uint32_t room : {0U, 1U, 9U}) {
    CHECK(f.Send({{request, kAll, false}}, room).first == 0);
  }
  for (const std::uint32_t length : {1U, 2U, 18U, kAll - 1}) {
    const auto [used, response] = f.Send({{request, length, false}});
    CHECK(used == sizeof(mem::Response));
    CHECK(response.type == mem::kResponseError);
  }
  CHECK(f.Send({}).second.type == mem::kResponseError);
  CHECK(f.Plugged() == 0);
  // Cut in two, with more behind it, and with a larger buffer for the answer.
  CHECK(f.Send({{request, 9, false}, {request + 9, kAll - 9, false}}).second.type ==
        mem::kResponseAck);
  const auto [used, response] = f.Send({{request, kAll, false}, {request, kAll, false}}, 64);
  CHECK(used == sizeof(mem::Response));
  CHECK(response.type == mem::kResponseError);
  CHECK(f.Plugged() == kBlock);
  // A chain that is broken as such.
  CHECK(f.Send({{Driver::kMemoryBytes, kAll, false}}).first == 0);
  CHECK(f.driver.failures().empty());

  constexpr std::uint16_t kFarAhead = 0x7000;
  f.driver.queue(kRequestQueue).SetAvailIndex(kFarAhead);
  f.driver.Kick(kRequestQueue);
  CHECK(Eventually([&] { return f.driver.failures().size() == 1; }));
  // What it has outlives its driver.
  f.driver.Start();
  CHECK(f.Plugged() == kBlock);
  CHECK(f.StateOf(0) == mem::kStatePlugged);
}

TEST_CASE("mem: a guest that gives away the memory of its rings hurts itself alone") {
  Fixture f;
  f.driver.Start();
  // A ring may lie in a block: it is gone with it, and the device reads zeros.
  CHECK(f.Plug(0) == mem::kResponseAck);
  test::GuestArena arena(f.driver.memory(), kBase);
  const std::uint64_t features = f.driver.OfferedFeatures();
  f.driver.Negotiate(features);
  test::DriverQueue queue(arena, 8, features);
  f.driver.SetUpQueue(kRequestQueue, queue.Config(8));
  f.driver.Write32(virtio::kRegStatus, 0xf);
  const Request unplug{.type = mem::kRequestUnplug, .addr = kBase, .nb_blocks = 1};
  const GuestAddr answer = f.driver.arena().Allocate(sizeof(mem::Response));
  queue.Add(
      {{f.driver.PutStruct(unplug), sizeof(unplug), false}, {answer, sizeof(mem::Response), true}});
  f.driver.Kick(kRequestQueue);
  CHECK(Eventually([&] { return f.device.counters().plugged_bytes == 0; }));
  f.thread.Call([] {});
  f.driver.Start();
  CHECK(f.Plug(0) == mem::kResponseAck);
}

TEST_CASE("mem: whoever asks for another size is told what became of it") {
  Fixture f(Options(0));
  f.Resize(kBlock);
  REQUIRE(f.Answers() == 1);
  CHECK(f.answers[0].error().code() == "ERR_GUEST_NO_DRIVER");
  CHECK(f.device.counters().requested_bytes == 0);

  f.driver.Start();
  f.Resize(0);
  REQUIRE(f.Answers() == 2);
  CHECK(f.answers[1] == 0);
  CHECK(f.driver.WaitInterrupt() == virtio::kInterruptConfig);

  SUBCASE("when the guest is there") {
    f.Resize(2 * kBlock);
    CHECK(f.driver.WaitInterrupt() == virtio::kInterruptConfig);
    CHECK(f.Field(offsetof(mem::Config, requested_size)) == 2 * kBlock);
    CHECK(f.Plug(0) == mem::kResponseAck);
    CHECK(f.Answers() == 2);
    CHECK(f.Plug(1) == mem::kResponseAck);
    REQUIRE(Eventually([&] { return f.Answers() == 3; }));
    CHECK(f.answers[2] == 2 * kBlock);
    f.Resize(kBlock);
    CHECK(f.Unplug(0) == mem::kResponseAck);
    REQUIRE(Eventually([&] { return f.Answers() == 4; }));
    CHECK(f.answers[3] == kBlock);
  }
  SUBCASE("when it has come no further for a while") {
    f.Resize(3 * kBlock, std::chrono::milliseconds(1));
    REQUIRE(Eventually([&] { return f.Answers() == 3; }));
    CHECK(f.answers[2] == 0);
    // It may still come.
    CHECK(f.Plug(0) == mem::kResponseAck);
    CHECK(f.Answers() == 3);
  }
  SUBCASE("when another has asked for something else, both are") {
    f.Resize(3 * kBlock);
    f.Resize(kBlock);
    CHECK(f.Plug(2) == mem::kResponseAck);
    REQUIRE(Eventually([&] { return f.Answers() == 4; }));
    CHECK(f.answers[2] == kBlock);
    CHECK(f.answers[3] == kBlock);
  }
  SUBCASE("when the driver goes") {
    f.Resize(3 * kBlock);
    f.driver.Write32(virtio::kRegStatus, 0);
    REQUIRE(f.Answers() == 3);
    CHECK(f.answers[2].error().code() == "ERR_GUEST_NO_DRIVER");
  }
}

TEST_CASE("mem: a guest goes on with the blocks that it had") {
  Fixture f(Options(3 * kBlock));
  f.driver.Start();
  CHECK(f.Plug(1, 2) == mem::kResponseAck);
  Fixture again(Options(f.device.counters().requested_bytes, f.device.Plugged()));
  CHECK(again.Plugged() == 2 * kBlock);
  CHECK(again.Field(offsetof(mem::Config, requested_size)) == 3 * kBlock);
  again.driver.Start();
  CHECK(again.StateOf(1, 2) == mem::kStatePlugged);
  CHECK(again.Plug(0) == mem::kResponseAck);
  CHECK(again.Plug(3) == mem::kResponseNack);
}

TEST_CASE("mem: lists of blocks that no machine of ours has") {
  const auto is = [](const std::vector<GuestMemory::Extent>& plugged) {
    return mem::IsBlockList(plugged, kRegion, kBlock);
  };
  CHECK(is({}));
  CHECK(is({{.offset = 0, .length = kRegion}}));
  CHECK(is({{.offset = 0, .length = kBlock}, {.offset = kBlock, .length = kBlock}}));
  CHECK_FALSE(is({{.offset = 0, .length = 0}}));
  CHECK_FALSE(is({{.offset = 4096, .length = kBlock}}));
  CHECK_FALSE(is({{.offset = 0, .length = 4096}}));
  CHECK_FALSE(is({{.offset = 0, .length = kRegion + kBlock}}));
  CHECK_FALSE(is({{.offset = kRegion, .length = kBlock}}));
  CHECK_FALSE(is({{.offset = 0 - kBlock, .length = 2 * kBlock}}));
  CHECK_FALSE(is({{.offset = kBlock, .length = kBlock}, {.offset = 0, .length = kBlock}}));
  CHECK_FALSE(is({{.offset = 0, .length = 2 * kBlock}, {.offset = kBlock, .length = kBlock}}));
}

}  // namespace
}  // namespace embervm::devices
