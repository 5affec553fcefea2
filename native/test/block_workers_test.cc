// What may wait for the disk and what goes on meanwhile: the workers of a drive alone, and a
// device over a disk whose calls wait until the test lets them go.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <semaphore>
#include <utility>
#include <vector>

#include "devices/block/device.h"
#include "devices/block/disk.h"
#include "devices/block/protocol.h"
#include "devices/block/raw_disk.h"
#include "devices/block/workers.h"
#include "test/support/block_fixture.h"
#include "test/support/driver.h"
#include "test/support/temp_file.h"

namespace embervm::devices {
namespace {

constexpr std::uint32_t kSector = block::kSectorSize;

TEST_CASE("block workers: one thread does the jobs in their order") {
  std::vector<int> done;
  BlockWorkers workers(1);
  for (int i = 0; i < 100; ++i) workers.Add([&done, i] { done.push_back(i); });
  workers.Drain();
  REQUIRE(done.size() == 100);
  for (int i = 0; i < 100; ++i) CHECK(done[static_cast<std::size_t>(i)] == i);
}

TEST_CASE("block workers: as many jobs at once as there may be threads") {
  std::counting_semaphore<> arrived{0};
  std::counting_semaphore<> go{0};
  BlockWorkers workers(3);
  for (int i = 0; i < 4; ++i) {
    workers.Add([&] {
      arrived.release();
      go.acquire();
    });
  }
  for (int i = 0; i < 3; ++i) arrived.acquire();
  CHECK_FALSE(arrived.try_acquire());
  go.release(1);
  arrived.acquire();
  go.release(3);
  workers.Drain();
}

TEST_CASE(
    "block workers: their end waits for all jobs, and without jobs there is nothing to wait") {
  std::atomic<int> done = 0;
  {
    BlockWorkers workers(2);
    workers.Drain();
    for (int i = 0; i < 50; ++i) workers.Add([&done] { ++done; });
  }
  CHECK(done == 50);
  const BlockWorkers unused(4);
}

// The test's hold on what a disk does.
struct Gate {
  std::counting_semaphore<> arrived{0};
  std::counting_semaphore<> go{0};
  std::atomic<int> flushes = 0;
};

// Flushes and reads that are not at hand wait at the gate; reads from sector 8 on are at hand.
class GatedDisk final : public Disk {
 public:
  explicit GatedDisk(Gate& gate) : gate_(gate) {}
  [[nodiscard]] std::uint64_t size() const override { return std::uint64_t{16} * kSector; }
  [[nodiscard]] bool read_only() const override { return false; }
  Result<> RefreshSize() override { return {}; }
  [[nodiscard]] unsigned concurrency() const override { return 2; }
  [[nodiscard]] bool writes_to_memory() const override { return true; }
  [[nodiscard]] bool ReadAtHand(virtio::Segments segments, std::uint64_t offset) const override {
    if (offset < std::uint64_t{8} * kSector) return false;
    Fill(segments);
    return true;
  }
  bool Read(std::vector<virtio::Segment> segments, std::uint64_t /*offset*/,
            std::uint64_t& transferred) const override {
    Wait();
    transferred = Fill(segments);
    return true;
  }
  bool Write(std::vector<virtio::Segment> segments, std::uint64_t /*offset*/, bool /*durable*/,
             std::uint64_t& transferred) const override {
    transferred = virtio::TotalBytes(segments);
    return true;
  }
  [[nodiscard]] bool Flush() const override {
    Wait();
    ++gate_.flushes;
    return true;
  }
  [[nodiscard]] bool Discard(std::uint64_t /*offset*/, std::uint64_t /*length*/) const override {
    return true;
  }
  [[nodiscard]] bool WriteZeroes(std::uint64_t /*offset*/, std::uint64_t /*length*/,
                                 bool /*may_unmap*/) const override {
    return true;
  }

 private:
  void Wait() const {
    gate_.arrived.release();
    gate_.go.acquire();
  }
  static std::size_t Fill(virtio::Segments segments) {
    const std::vector<std::byte> bytes(virtio::TotalBytes(segments), std::byte{0x5a});
    return virtio::CopyTo(segments, 0, bytes);
  }

  Gate& gate_;
};

struct Fixture {
  explicit Fixture(Gate& gate)
      : device(BlockDevice::Over(std::make_unique<GatedDisk>(gate), {.id = "gated", .path = {}})
                   .value()) {
    driver.Start();
  }

  // Asks, and does not wait; returns the head and where the status will be.
  struct Asked {
    std::uint16_t head;
    GuestAddr status;
    GuestAddr data;
  };
  Asked Ask(std::uint32_t type, std::uint64_t sector) {
    const GuestAddr header =
        driver.PutStruct(block::RequestHeader{.type = type, .reserved = 0, .sector = sector});
    const GuestAddr data = driver.arena().Allocate(kSector);
    const GuestAddr status = driver.PutStruct(std::uint8_t{test::kNoStatus});
    std::vector<test::DriverBuffer> buffers{{header, sizeof(block::RequestHeader), false}};
    if (type == block::kTypeIn) buffers.push_back({data, kSector, true});
    buffers.push_back({status, 1, true});
    const std::uint16_t head = driver.queue(0).Add(buffers);
    driver.KickIfAsked(0);
    return {.head = head, .status = status, .data = data};
  }
  std::byte StatusOf(const Asked& asked) { return driver.Get(asked.status, 1)[0]; }

  std::unique_ptr<BlockDevice> device;
  test::LoopThread thread;
  test::Driver driver{*device, thread};
};

TEST_CASE("block: what is at hand overtakes what waits for the disk") {
  Gate gate;
  Fixture f(gate);
  const auto slow = f.Ask(block::kTypeIn, 0);
  gate.arrived.acquire();
  const auto fast = f.Ask(block::kTypeIn, 8);
  CHECK(f.driver.WaitUsed(0).id == fast.head);
  CHECK(f.StatusOf(fast) == std::byte{0});
  CHECK(f.StatusOf(slow) == std::byte{test::kNoStatus});
  gate.go.release();
  const auto used = f.driver.WaitUsed(0);
  CHECK(used.id == slow.head);
  CHECK(used.len == kSector + 1);
  CHECK(f.StatusOf(slow) == std::byte{0});
  CHECK(f.driver.Get(slow.data, kSector) == std::vector(kSector, std::byte{0x5a}));
  CHECK(f.device->counters().reads == 2);
}

TEST_CASE("block: as many requests wait for the disk at once as it can have") {
  Gate gate;
  Fixture f(gate);
  f.Ask(block::kTypeIn, 0);
  f.Ask(block::kTypeIn, 1);
  f.Ask(block::kTypeFlush, 0);
  gate.arrived.acquire();
  gate.arrived.acquire();
  CHECK_FALSE(gate.arrived.try_acquire());
  gate.go.release(3);
  for (int i = 0; i < 3; ++i) f.driver.WaitUsed(0);
  CHECK(gate.flushes == 1);
  CHECK(f.device->counters().flushes == 1);
}

TEST_CASE("block: a reset waits for what is with the disk, and tells the driver nothing of it") {
  Gate gate;
  Fixture f(gate);
  const auto asked = f.Ask(block::kTypeFlush, 0);
  gate.arrived.acquire();
  // Before the reset, which comes back only after it.
  gate.go.release();
  f.driver.Write32(virtio::kRegStatus, 0);
  CHECK(gate.flushes == 1);
  const std::byte status = f.StatusOf(asked);
  CHECK((status == std::byte{0} || status == std::byte{test::kNoStatus}));
  // The next driver finds a device that works.
  f.driver.Start();
  const auto fast = f.Ask(block::kTypeIn, 8);
  CHECK(f.driver.WaitUsed(0).id == fast.head);
}

TEST_CASE("block: a drive that goes with requests at the disk waits for them") {
  Gate gate;
  {
    Fixture f(gate);
    f.Ask(block::kTypeFlush, 0);
    gate.arrived.acquire();
    gate.go.release();
  }
  CHECK(gate.flushes == 1);
}

TEST_CASE("block: what is saved has nothing in flight") {
  Gate gate;
  Fixture f(gate);
  const auto asked = f.Ask(block::kTypeIn, 0);
  gate.arrived.acquire();
  // Of the read, and of the flush that saving makes.
  gate.go.release(2);
  bool saved = false;
  f.thread.Call([&] { saved = f.device->BeforeSave().has_value(); });
  CHECK(saved);
  CHECK(f.driver.queue(0).used_index() == 1);
  CHECK(f.StatusOf(asked) == std::byte{0});
  CHECK(f.driver.WaitUsed(0).id == asked.head);
}

TEST_CASE("block: past the page cache, aligned and not") {
  const BlockOptions options{.id = {}, .path = {}, .cache = BlockCache::kDirect};
  if (const test::TempFile file(test::kDiskBytes); !RawDisk::Open(file.path(), false, true)) {
    MESSAGE("skipped: the file system of temporary files has no direct I/O");
    return;
  }
  test::BlockFixture f(options);
  const std::vector<std::byte> pages = f.Pattern(8192, 1);
  const std::vector<std::byte> sector = f.Pattern(kSector, 2);
  const GuestAddr aligned = f.driver.arena().Allocate(8192, 4096);
  REQUIRE(f.driver.memory().Write(aligned, pages).has_value());
  const GuestAddr odd = f.driver.arena().Allocate(kSector + 1) + 1;
  REQUIRE(f.driver.memory().Write(odd, sector).has_value());
  CHECK(f.Request(block::kTypeOut, 8, {{aligned, 8192, false}}).status == 0);
  // In the middle of what went past the cache.
  CHECK(f.Request(block::kTypeOut, 10, {{odd, kSector, false}}).status == 0);
  const GuestAddr in = f.driver.arena().Allocate(8192, 4096);
  CHECK(f.Request(block::kTypeIn, 8, {{in, 8192, true}}).status == 0);
  std::vector<std::byte> expected = pages;
  std::ranges::copy(sector, expected.begin() + std::ptrdiff_t{2} * kSector);
  CHECK(f.driver.Get(in, 8192) == expected);
  CHECK(f.Request(block::kTypeFlush, 0).status == 0);
}

}  // namespace
}  // namespace embervm::devices
