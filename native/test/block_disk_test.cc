// virtio-blk over a disk that fails as no file does when it is asked to.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "devices/block/device.h"
#include "devices/block/disk.h"
#include "devices/block/protocol.h"
#include "test/support/block_fixture.h"
#include "test/support/driver.h"
#include "virtio/segments.h"

namespace embervm::devices {
namespace {

using test::DriverBuffer;

constexpr std::uint32_t kSector = block::kSectorSize;
constexpr std::uint64_t kSectors = 16;

// What the disk does, shared with the test, which runs on another thread.
struct Behaviour {
  // A transfer ends after so many bytes.
  std::atomic<std::uint64_t> most_bytes = UINT64_MAX;
  std::atomic<bool> works = true;
  std::atomic<std::uint64_t> flushes = 0;
  std::atomic<bool> destroyed = false;
};

class MemoryDisk final : public Disk {
 public:
  MemoryDisk(Behaviour& behaviour, bool read_only)
      : behaviour_(behaviour), read_only_(read_only), bytes_(kSectors * kSector) {}
  ~MemoryDisk() override { behaviour_.destroyed = true; }

  [[nodiscard]] std::uint64_t size() const override { return bytes_.size(); }
  [[nodiscard]] bool read_only() const override { return read_only_; }
  Result<> RefreshSize() override { return {}; }
  bool Read(std::vector<virtio::Segment> segments, std::uint64_t offset,
            std::uint64_t& transferred) const override {
    transferred = virtio::CopyTo(segments, 0, Part(segments, offset));
    return transferred == virtio::TotalBytes(segments);
  }
  bool Write(std::vector<virtio::Segment> segments, std::uint64_t offset, bool durable,
             std::uint64_t& transferred) const override {
    CHECK_FALSE(durable);
    transferred = virtio::CopyFrom(segments, 0, Part(segments, offset));
    return transferred == virtio::TotalBytes(segments);
  }
  [[nodiscard]] bool Flush() const override {
    ++behaviour_.flushes;
    return behaviour_.works;
  }
  [[nodiscard]] bool Discard(std::uint64_t offset, std::uint64_t length) const override {
    return WriteZeroes(offset, length, true);
  }
  [[nodiscard]] bool WriteZeroes(std::uint64_t offset, std::uint64_t length,
                                 bool /*may_unmap*/) const override {
    if (!behaviour_.works) return false;
    std::ranges::fill(std::span(bytes_).subspan(offset, length), std::byte{0});
    return true;
  }

 private:
  // subspan() of too much is undefined: the device has checked the range, as Disk demands.
  [[nodiscard]] std::span<std::byte> Part(virtio::Segments segments, std::uint64_t offset) const {
    const std::uint64_t length = virtio::TotalBytes(segments);
    REQUIRE(offset + length <= bytes_.size());
    return std::span(bytes_).subspan(offset,
                                     std::min<std::uint64_t>(length, behaviour_.most_bytes));
  }

  Behaviour& behaviour_;
  const bool read_only_;
  // A disk's calls are const, for it is what lies below that changes.
  mutable std::vector<std::byte> bytes_;
};

struct Fixture {
  explicit Fixture(bool read_only = false)
      : device(BlockDevice::Over(std::make_unique<MemoryDisk>(behaviour, read_only),
                                 {.id = "memory", .path = {}})
                   .value()) {
    driver.Start();
  }

  test::BlockAnswer Request(std::uint32_t type, std::uint64_t sector,
                            std::vector<DriverBuffer> data = {}) {
    return test::SendBlockRequest(driver, type, sector, std::move(data));
  }

  Behaviour behaviour;
  std::unique_ptr<BlockDevice> device;
  test::LoopThread thread;
  test::Driver driver{*device, thread};
};

TEST_CASE("block: a disk of any kind is read and written by its checked ranges") {
  Fixture f;
  CHECK(f.device->size() == kSectors * kSector);
  const std::vector<std::byte> bytes(2 * kSector, std::byte{0x5a});
  const GuestAddr out = f.driver.Put(bytes);
  const GuestAddr in = f.driver.arena().Allocate(2 * kSector);
  CHECK(f.Request(block::kTypeOut, kSectors - 2, {{out, 2 * kSector, false}}).status == 0);
  CHECK(f.Request(block::kTypeIn, kSectors - 2, {{in, 2 * kSector, true}}).status == 0);
  CHECK(f.driver.Get(in, 2 * kSector) == bytes);
  // The disk would end the test if it saw one of these.
  CHECK(f.Request(block::kTypeIn, kSectors - 1, {{in, 2 * kSector, true}}).status == 1);
  CHECK(f.Request(block::kTypeOut, UINT64_MAX, {{out, kSector, false}}).status == 1);
  CHECK(f.Request(block::kTypeOut, UINT64_MAX / kSector, {{out, kSector, false}}).status == 1);
  CHECK(f.driver.failures().empty());
}

TEST_CASE("block: the guest learns how far a transfer came that failed half-way") {
  Fixture f;
  const GuestAddr data = f.driver.arena().Allocate(4 * kSector);
  f.behaviour.most_bytes = kSector + 100;
  const auto read = f.Request(block::kTypeIn, 0, {{data, 4 * kSector, true}});
  CHECK(read.status == 1);
  // The status is written behind what was not: only the bytes before that gap count.
  CHECK(read.used == kSector + 100);
  CHECK(f.Request(block::kTypeOut, 0, {{data, 4 * kSector, false}}).status == 1);
  const auto failed = f.device->counters();
  CHECK(failed.errors == 2);
  CHECK(failed.reads == 0);
  CHECK(failed.written_bytes == 0);
  f.behaviour.most_bytes = UINT64_MAX;
  CHECK(f.Request(block::kTypeIn, 0, {{data, 4 * kSector, true}}).used == 4 * kSector + 1);
  CHECK(f.device->counters().read_bytes == 4 * kSector);
}

TEST_CASE("block: a flush, a discard and a snapshot that fail are told") {
  Fixture f;
  const GuestAddr range =
      f.driver.PutStruct(block::RangeSegment{.sector = 0, .sector_count = 8, .flags = 0});
  const std::vector<DriverBuffer> ranges{{range, sizeof(block::RangeSegment), false}};
  f.behaviour.works = false;
  CHECK(f.Request(block::kTypeFlush, 0).status == 1);
  CHECK(f.Request(block::kTypeDiscard, 0, ranges).status == 1);
  CHECK(f.Request(block::kTypeWriteZeroes, 0, ranges).status == 1);
  Result<> saved;
  f.thread.Call([&] { saved = f.device->BeforeSave(); });
  REQUIRE_FALSE(saved.has_value());
  CHECK(saved.error().code() == "ERR_DRIVE_ACCESS");
  CHECK(f.behaviour.flushes == 2);
  CHECK(f.device->counters().flushes == 0);

  f.behaviour.works = true;
  CHECK(f.Request(block::kTypeFlush, 0).status == 0);
  CHECK(f.Request(block::kTypeDiscard, 0, ranges).status == 0);
  CHECK(f.device->counters().flushes == 1);
  f.thread.Call([&] { saved = f.device->BeforeSave(); });
  CHECK(saved.has_value());
}

TEST_CASE("block: a disk that is read-only is neither changed nor flushed before a snapshot") {
  Fixture f(/*read_only=*/true);
  CHECK((f.driver.OfferedFeatures() & block::kFeatureReadOnly) != 0);
  const GuestAddr data = f.driver.arena().Allocate(kSector);
  CHECK(f.Request(block::kTypeOut, 0, {{data, kSector, false}}).status == 1);
  f.behaviour.works = false;
  Result<> saved;
  f.thread.Call([&] { saved = f.device->BeforeSave(); });
  CHECK(saved.has_value());
  CHECK(f.behaviour.flushes == 0);
}

TEST_CASE("block: a device ends its disk, also when it cannot be made") {
  Behaviour kept;
  {
    const auto device = BlockDevice::Over(std::make_unique<MemoryDisk>(kept, false),
                                          {.id = std::string(20, 'x'), .path = {}});
    REQUIRE(device.has_value());
    CHECK_FALSE(kept.destroyed);
  }
  CHECK(kept.destroyed);
  Behaviour refused;
  const auto device = BlockDevice::Over(std::make_unique<MemoryDisk>(refused, false),
                                        {.id = std::string(21, 'x'), .path = {}});
  REQUIRE_FALSE(device.has_value());
  CHECK(device.error().code() == "ERR_DRIVE_INVALID");
  CHECK(refused.destroyed);
}

}  // namespace
}  // namespace embervm::devices
