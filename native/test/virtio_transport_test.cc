// The virtio-mmio state machine, register by register, with a device that records what
// it is told; then the same registers under fire from several threads.
#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <random>
#include <thread>
#include <vector>

#include "test/support/driver.h"
#include "virtio/mmio_transport.h"
#include "virtio/service_queue.h"

namespace embervm::virtio {
namespace {

using test::Driver;
using test::Eventually;
using test::LoopThread;

constexpr std::uint64_t kDeviceFeature = std::uint64_t{1} << 5;

// Gives every chain back, and keeps a record. Real enough to drive the transport; all
// members but the atomics belong to the device thread.
class RecordingDevice final : public Device {
 public:
  [[nodiscard]] std::uint32_t type() const override { return 42; }
  [[nodiscard]] std::string_view name() const override { return "recording"; }
  [[nodiscard]] std::uint64_t features() const override { return kDeviceFeature; }
  [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override { return kSizes; }
  [[nodiscard]] std::span<const std::byte> config() const override { return config_bytes; }
  Result<> Activate(const DeviceContext& context) override {
    if (refuse) return std::unexpected(Error("ERR_TEST", "refused"));
    context_ = &context;
    features_seen = context.features;
    ++activations;
    return {};
  }
  void Notify(std::uint16_t queue) override {
    ++notifications[queue];
    ServiceQueue(*context_, queue, 64,
                 [](const Chain& chain) { return Outcome::Used(chain.writable_bytes()); });
  }
  void Reset() override {
    ++resets;
    context_ = nullptr;
  }

  static constexpr std::array<std::uint16_t, 2> kSizes{16, 8};
  std::array<std::byte, 6> config_bytes{std::byte{1}, std::byte{2}, std::byte{3},
                                        std::byte{4}, std::byte{5}, std::byte{6}};
  std::atomic<bool> refuse = false;
  std::atomic<std::uint64_t> features_seen = 0;
  std::atomic<int> activations = 0;
  std::atomic<int> resets = 0;
  std::array<std::atomic<int>, 2> notifications{};
  const DeviceContext* context_ = nullptr;
};

struct Fixture {
  RecordingDevice device;
  LoopThread thread;
  Driver driver{device, thread};

  std::uint32_t Status() { return driver.Read32(kRegStatus); }
};

TEST_CASE("transport: identity registers") {
  Fixture f;
  CHECK(f.driver.Read32(kRegMagic) == 0x74726976);
  CHECK(f.driver.Read32(kRegVersion) == 2);
  CHECK(f.driver.Read32(kRegDeviceId) == 42);
  CHECK(f.driver.Read32(kRegVendorId) == kMmioVendor);
  CHECK(f.driver.OfferedFeatures() == (kDeviceFeature | kRingFeatures));
  f.driver.Write32(kRegDeviceFeaturesSel, 2);
  CHECK(f.driver.Read32(kRegDeviceFeatures) == 0);
  for (const std::uint64_t offset :
       {kRegShmLenLow, kRegShmLenHigh, kRegShmBaseLow, kRegShmBaseHigh}) {
    CHECK(f.driver.Read32(offset) == 0xffffffff);
  }
  CHECK(f.driver.Read32(kRegConfigGeneration) == 0);
}

TEST_CASE("transport: an empty slot reads device id 0 and ignores writes") {
  LoopThread thread;
  const GuestMemory memory = GuestMemory::Create(1U << 20U).value();
  const test::MmioSlot slot(thread.loop(), memory);
  std::array<std::byte, 4> bytes{};
  slot->Read(kRegMagic, bytes);
  CHECK(LoadLe<std::uint32_t>(bytes) == kMmioMagic);
  for (std::uint64_t offset = 0; offset < kMmioPageSize; offset += 4) {
    slot->Write(offset, AsBytes(std::uint32_t{0xf}));
  }
  slot->Read(kRegDeviceId, bytes);
  CHECK(LoadLe<std::uint32_t>(bytes) == 0);
  slot->Read(kRegStatus, bytes);
  CHECK(LoadLe<std::uint32_t>(bytes) == 0);
  CHECK(slot->queue_count() == 0);

  RecordingDevice device;
  thread.Call([&] { CHECK(slot->Attach(device).has_value()); });
  slot->Read(kRegDeviceId, bytes);
  CHECK(LoadLe<std::uint32_t>(bytes) == 42);
  CHECK(slot->queue_count() == 2);
  thread.Call([&] { CHECK_FALSE(slot->Attach(device).has_value()); });
  thread.Stop();
}

TEST_CASE("transport: the status register only goes forward, one step at a time") {
  constexpr std::array<std::uint32_t, 5> kChain{0, 1, 3, 0xb, 0xf};
  for (std::size_t from = 0; from < kChain.size(); ++from) {
    for (std::uint32_t value = 1; value < 0x80; ++value) {
      Fixture f;
      // Up to `from` by the book; the queues are fine, so 0xf is an active device.
      if (from >= 3) {
        f.driver.Start();
        if (from == 3) f.driver.Negotiate(f.driver.OfferedFeatures());
      } else {
        for (std::size_t step = 1; step <= from; ++step) {
          f.driver.Write32(kRegStatus, kChain.at(step));
        }
      }
      REQUIRE(f.Status() == kChain.at(from));
      // Without VERSION_1 there is no 0xb; without queues 0xf needs a reset.
      const bool is_next =
          from + 1 < kChain.size() && (value & ~kStatusNeedsReset) == kChain.at(from + 1);
      std::uint32_t expected = kChain.at(from);
      if (is_next && from != 2) expected = kChain.at(from + 1);
      if (is_next && from == 3) expected |= kStatusNeedsReset;
      f.driver.Write32(kRegStatus, value);
      CAPTURE(from);
      CAPTURE(value);
      CHECK(f.Status() == expected);
      // Spread thin: every value matters near the chain, a sample does elsewhere.
      if (value > 0x10) value += 6;
    }
  }
}

TEST_CASE("transport: FAILED latches until a reset and stops the device") {
  Fixture f;
  f.driver.Start();
  f.driver.Write32(kRegStatus, 0x8f);
  CHECK(f.Status() == 0x8f);
  CHECK(f.device.resets == 1);
  for (const std::uint32_t value : {1U, 3U, 0xbU, 0xfU, 0x80U}) {
    f.driver.Write32(kRegStatus, value);
    CHECK(f.Status() == 0x8f);
  }
  f.driver.Kick(0);
  f.driver.Write32(kRegStatus, 0);
  CHECK(f.Status() == 0);
  f.driver.Start();
  CHECK(f.device.activations == 2);
}

TEST_CASE("transport: features") {
  Fixture f;
  SUBCASE("are ignored before DRIVER and after FEATURES_OK; unknown ones are dropped") {
    f.driver.Write32(kRegDriverFeatures, 0xffffffff);
    f.driver.Negotiate(kFeatureVersion1 | kDeviceFeature | (std::uint64_t{1} << 40) | 1);
    CHECK(f.Status() == 0xb);
    f.driver.Write32(kRegDriverFeaturesSel, 0);
    f.driver.Write32(kRegDriverFeatures, 0xffffffff);
    for (std::uint32_t index = 0; index < 2; ++index) {
      test::DriverQueue queue(f.driver.arena(), 8, 0);
      f.driver.SetUpQueue(index, queue.Config(8));
    }
    f.driver.Write32(kRegStatus, 0xf);
    CHECK(f.device.features_seen == (kFeatureVersion1 | kDeviceFeature));
  }
  SUBCASE("need VERSION_1") {
    f.driver.Negotiate(kDeviceFeature);
    CHECK(f.Status() == 3);
  }
  SUBCASE("selectors past the second word do nothing") {
    f.driver.Write32(kRegStatus, 1);
    f.driver.Write32(kRegStatus, 3);
    f.driver.Write32(kRegDriverFeaturesSel, 2);
    f.driver.Write32(kRegDriverFeatures, 0xffffffff);
    f.driver.Write32(kRegStatus, 0xb);
    CHECK(f.Status() == 3);
  }
}

TEST_CASE("transport: queue registers") {
  Fixture f;
  CHECK(f.driver.Read32(kRegQueueNumMax) == 16);
  f.driver.Write32(kRegQueueSel, 1);
  CHECK(f.driver.Read32(kRegQueueNumMax) == 8);
  for (const std::uint32_t past : {2U, 3U, 0x10001U, 0xffffffffU}) {
    f.driver.Write32(kRegQueueSel, past);
    CHECK(f.driver.Read32(kRegQueueNumMax) == 0);
    CHECK(f.driver.Read32(kRegQueueReady) == 0);
    f.driver.Write32(kRegQueueReady, 1);
    CHECK(f.driver.Read32(kRegQueueReady) == 0);
  }
  f.driver.Write32(kRegQueueSel, 0);
  f.driver.Write32(kRegQueueReady, 1);  // Too early.
  CHECK(f.driver.Read32(kRegQueueReady) == 0);
  f.driver.Negotiate(f.driver.OfferedFeatures());
  f.driver.Write32(kRegQueueSel, 0);
  f.driver.Write32(kRegQueueReady, 1);  // Latched, although nothing is set up.
  CHECK(f.driver.Read32(kRegQueueReady) == 1);
  f.driver.Write32(kRegQueueReady, 0);
  CHECK(f.driver.Read32(kRegQueueReady) == 0);

  f.driver.Start();
  f.driver.Write32(kRegQueueSel, 0);
  f.driver.Write32(kRegQueueReady, 0);  // Too late.
  CHECK(f.driver.Read32(kRegQueueReady) == 1);
  f.driver.Write32(kRegStatus, 0);
  CHECK(f.driver.Read32(kRegQueueReady) == 0);
  CHECK(f.driver.Read32(kRegQueueNumMax) == 16);
}

TEST_CASE("transport: a bad queue at DRIVER_OK needs a reset, and one helps") {
  Fixture f;
  f.driver.Negotiate(f.driver.OfferedFeatures());
  SUBCASE("no queue is ready") {}
  SUBCASE("only one is") {
    test::DriverQueue queue(f.driver.arena(), 8, 0);
    f.driver.SetUpQueue(0, queue.Config(8));
  }
  SUBCASE("a ring is outside RAM") {
    for (std::uint32_t index = 0; index < 2; ++index) {
      test::DriverQueue queue(f.driver.arena(), 8, 0);
      QueueConfig config = queue.Config(8);
      config.device_ring = Driver::kMemoryBytes;
      f.driver.SetUpQueue(index, config);
    }
  }
  f.driver.Write32(kRegStatus, 0xf);
  CHECK(f.Status() == 0x4f);
  CHECK(f.driver.WaitInterrupt() == kInterruptConfig);
  CHECK(f.driver.failures().size() == 1);
  CHECK(f.device.activations == 0);
  f.driver.Kick(0);
  f.driver.Start();
  CHECK(f.device.activations == 1);
}

TEST_CASE("transport: a device that refuses its activation") {
  Fixture f;
  f.device.refuse = true;
  f.driver.Negotiate(f.driver.OfferedFeatures());
  for (std::uint32_t index = 0; index < 2; ++index) {
    test::DriverQueue queue(f.driver.arena(), 8, 0);
    f.driver.SetUpQueue(index, queue.Config(8));
  }
  f.driver.Write32(kRegStatus, 0xf);
  CHECK(f.Status() == 0x4f);
  CHECK(f.driver.failures() == std::vector<std::string>{"refused"});
  CHECK(f.device.resets == 0);
}

TEST_CASE("transport: activation kicks every queue, reset drops everything") {
  Fixture f;
  f.driver.Kick(0);  // While inactive: drained, not delivered.
  f.driver.Start();
  CHECK(Eventually([&] { return f.device.notifications[0] >= 1; }));
  CHECK(Eventually([&] { return f.device.notifications[1] >= 1; }));
  f.driver.queue(0).Add({{0x1000, 4, true}});
  f.driver.Kick(0);
  REQUIRE(Eventually([&] { return f.driver.Read32(kRegInterruptStatus) == kInterruptQueue; }));
  f.driver.Write32(kRegStatus, 0);
  CHECK(f.device.resets == 1);
  CHECK(f.driver.Read32(kRegInterruptStatus) == 0);
  const int before = f.device.notifications[0];
  f.driver.Kick(0);
  f.driver.Kick(1);
  f.thread.Call([] {});
  f.thread.Call([] {});
  CHECK(f.device.notifications[0] == before);
}

TEST_CASE("transport: notify by register exit, interrupt status and acknowledgement") {
  Fixture f;
  f.driver.Start();
  f.driver.queue(1).Add({{0x1000, 4, true}});
  f.driver.Write32(kRegQueueNotify, 1);
  f.driver.Write32(kRegQueueNotify, 2);  // No such queue.
  f.driver.Write32(kRegQueueNotify, 0xffffffff);
  CHECK(Eventually([&] { return f.driver.Read32(kRegInterruptStatus) == kInterruptQueue; }));
  f.driver.Write32(kRegInterruptAck, 2);
  CHECK(f.driver.Read32(kRegInterruptStatus) == kInterruptQueue);
  f.driver.Write32(kRegInterruptAck, 0xffffffff);
  CHECK(f.driver.Read32(kRegInterruptStatus) == 0);
  CHECK(f.driver.WaitUsed(1).len == 4);
  CHECK(f.driver.transport().interrupts() >= 1);
}

TEST_CASE("transport: a broken ring stops this device only, and a reset mends it") {
  Fixture f;
  f.driver.Start();
  f.driver.queue(0).SetAvailIndex(0x7000);
  f.driver.Kick(0);
  CHECK(Eventually([&] { return f.Status() == 0x4f; }));
  CHECK(Eventually([&] { return f.device.resets == 1; }));
  CHECK(f.driver.failures().size() == 1);
  const int before = f.device.notifications[1];
  f.driver.Kick(1);
  f.thread.Call([] {});
  f.thread.Call([] {});
  CHECK(f.device.notifications[1] == before);
  f.driver.Start();
  CHECK(f.device.activations == 2);
  f.driver.queue(0).Add({{0x1000, 4, true}});
  f.driver.Kick(0);
  CHECK(f.driver.WaitUsed(0).len == 4);
}

TEST_CASE("transport: a device that failed is not notified again before its reset") {
  Fixture f;
  f.driver.Start();
  REQUIRE(Eventually([&] { return f.device.notifications[1] >= 1; }));
  const int before = f.device.notifications[1];
  f.driver.queue(0).SetAvailIndex(0x7000);
  f.thread.WhileBlocked([&] {
    f.driver.Kick(0);
    f.driver.Kick(1);
  });
  CHECK(Eventually([&] { return f.device.resets == 1; }));
  CHECK(f.device.notifications[1] == before);
}

TEST_CASE("transport: configuration space") {
  Fixture f;
  const auto read = [&f](std::uint64_t offset, std::size_t size) {
    std::vector<std::byte> bytes(size, std::byte{0xaa});
    f.driver.transport().Read(offset, bytes);
    std::vector<int> values;
    for (const std::byte byte : bytes) values.push_back(std::to_integer<int>(byte));
    return values;
  };
  CHECK(read(kRegConfig, 4) == std::vector{1, 2, 3, 4});
  CHECK(read(kRegConfig + 1, 1) == std::vector{2});
  CHECK(read(kRegConfig + 3, 2) == std::vector{4, 5});
  CHECK(read(kRegConfig + 4, 8) == std::vector{5, 6, 0, 0, 0, 0, 0, 0});
  CHECK(read(kMmioPageSize - 4, 8) == std::vector(8, 0));
  CHECK(read(kMmioPageSize, 4) == std::vector(4, 0));
  CHECK(read(UINT64_MAX, 4) == std::vector(4, 0));
  f.driver.Write32(kRegConfig, 0xffffffff);
  CHECK(read(kRegConfig, 4) == std::vector{1, 2, 3, 4});
  CHECK(f.driver.transport().ignored_config_writes() == 1);

  f.driver.Start();
  const std::array<std::byte, 2> changed{std::byte{9}, std::byte{8}};
  f.thread.Call([&] { f.device.context_->host.PublishConfig(changed); });
  CHECK(f.driver.WaitInterrupt() == kInterruptConfig);
  CHECK(f.driver.Read32(kRegConfigGeneration) == 1);
  CHECK(read(kRegConfig, 3) == std::vector{9, 8, 3});
  f.driver.Write32(kRegStatus, 0);
  CHECK(f.driver.Read32(kRegConfigGeneration) == 1);  // Survives the reset.
}

TEST_CASE("transport: registers take aligned accesses of four bytes only") {
  Fixture f;
  for (const std::size_t size : {std::size_t{1}, std::size_t{2}, std::size_t{8}}) {
    std::vector<std::byte> bytes(size, std::byte{0xaa});
    f.driver.transport().Read(kRegMagic, bytes);
    CHECK(bytes == std::vector<std::byte>(size));
    bytes.assign(size, std::byte{1});
    f.driver.transport().Write(kRegStatus, bytes);
    CHECK(f.Status() == 0);
  }
  std::vector<std::byte> bytes(4, std::byte{0xaa});
  f.driver.transport().Read(kRegMagic + 2, bytes);
  CHECK(bytes == std::vector<std::byte>(4));
  f.driver.transport().Write(kRegStatus + 1, AsBytes(std::uint32_t{1}));
  CHECK(f.Status() == 0);
}

TEST_CASE("transport: the register page holds what Read() gives") {
  Fixture f;
  f.driver.Start();
  for (std::uint64_t offset = 0; offset < kRegConfig; offset += 4) {
    CHECK(LoadLe<std::uint32_t>(f.driver.transport().register_page(), offset) ==
          f.driver.Read32(offset));
  }
}

TEST_CASE("transport: random writes to every register do no harm") {
  Fixture f;
  std::mt19937_64 random(7);
  for (int round = 0; round < 40; ++round) {
    for (int i = 0; i < 500; ++i) {
      const std::uint64_t offset = random() % 4 == 0 ? random() % 0x1100 : (random() % 64) * 4;
      std::array<std::byte, 8> bytes{};
      StoreLe(std::span<std::byte>(bytes), 0, random() % 3 == 0 ? random() : random() % 16);
      constexpr std::array<std::size_t, 5> kSizes{4, 4, 1, 2, 8};
      const std::size_t size = kSizes.at(random() % kSizes.size());
      f.driver.transport().Write(offset, std::span(bytes).first(size));
      f.driver.transport().Read(offset, std::span(bytes).first(size));
    }
    // A well-behaved driver that comes next finds a working device.
    f.driver.Start();
    f.driver.queue(0).Add({{0x1000, 4, true}});
    f.driver.Kick(0);
    CHECK(f.driver.WaitUsed(0).len == 4);
  }
}

TEST_CASE("transport: several vCPUs at once") {
  Fixture f;
  constexpr int kThreads = 4;
  constexpr int kRounds = 300;
  std::vector<std::thread> vcpus;
  for (int id = 0; id < kThreads; ++id) {
    vcpus.emplace_back([&f, id] {
      std::mt19937_64 random(static_cast<std::uint64_t>(id));
      for (int round = 0; round < kRounds; ++round) {
        switch (random() % 6) {
          case 0:
            f.driver.Negotiate(f.driver.OfferedFeatures());
            break;
          case 1:
            f.driver.Write32(kRegStatus, 0xf);
            break;
          case 2:
            f.driver.Kick(random() % 2);
            f.driver.Write32(kRegQueueNotify, static_cast<std::uint32_t>(random() % 3));
            break;
          case 3:
            f.driver.Write32(kRegInterruptAck, f.driver.Read32(kRegInterruptStatus));
            break;
          case 4:
            f.driver.SetUpQueue(static_cast<std::uint32_t>(random() % 3),
                                {.size = 8,
                                 .ready = true,
                                 .descriptor_table = 0x100000,
                                 .driver_ring = 0x101000,
                                 .device_ring = 0x102000});
            break;
          default:
            f.driver.Write32(kRegStatus, 0);
        }
      }
    });
  }
  // Meanwhile the device changes its configuration and breaks.
  for (int i = 0; i < 50; ++i) {
    f.thread.Call([&f, i] {
      if (f.device.context_ == nullptr) return;
      f.device.context_->host.PublishConfig(AsBytes(std::uint32_t{5}));
      if (i % 7 == 0) f.device.context_->host.Fail(Error("ERR_TEST", "broke"));
    });
  }
  for (std::thread& vcpu : vcpus) vcpu.join();
  f.driver.Start();
  f.driver.queue(0).Add({{0x1000, 4, true}});
  f.driver.Kick(0);
  CHECK(f.driver.WaitUsed(0).len == 4);
}

TEST_CASE("transport: a vCPU that waits for a stopped loop is released") {
  RecordingDevice device;
  const GuestMemory memory = GuestMemory::Create(1U << 20U).value();
  auto loop = EventLoop::Create().value();  // Never runs.
  const test::MmioSlot transport(*loop, memory);
  REQUIRE(transport->Attach(device).has_value());
  const auto write = [&](std::uint64_t offset, std::uint32_t value) {
    transport->Write(offset, AsBytes(value));
  };
  write(kRegStatus, 1);
  write(kRegStatus, 3);
  write(kRegDriverFeaturesSel, 1);
  write(kRegDriverFeatures, 1);
  write(kRegStatus, 0xb);
  std::atomic<bool> returned = false;
  std::thread vcpu([&] {
    write(kRegStatus, 0xf);
    write(kRegStatus, 0);  // Neither does the next one wait.
    returned = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  CHECK_FALSE(returned);
  SUBCASE("by ReleaseWaiters()") { transport->ReleaseWaiters(); }
  SUBCASE("by a loop that starts late") {
    loop->Stop();
    loop->Run();
    transport->ReleaseWaiters();  // For the second write.
  }
  vcpu.join();
  CHECK(returned);
}

}  // namespace
}  // namespace embervm::virtio
