// Devices that come into a virtio-mmio slot and leave it, with a driver that behaves and
// with vCPUs that write whatever they like at the same moment.
#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/bytes.h"
#include "base/state_stream.h"
#include "devices/block/device.h"
#include "devices/block/protocol.h"
#include "devices/rng/device.h"
#include "test/support/driver.h"
#include "test/support/temp_file.h"
#include "virtio/mmio_transport.h"

namespace embervm::virtio {
namespace {

using devices::BlockDevice;
using test::Driver;
using test::LoopThread;
using test::TempFile;

constexpr std::uint64_t kDiskBytes = 64U << 10U;
constexpr std::uint32_t kBlock = kDeviceIdBlock;

// Reads the first sector through a driver that was started.
std::vector<std::byte> ReadSector(Driver& driver) {
  constexpr std::uint32_t kLength = devices::block::kSectorSize;
  const GuestAddr header = driver.PutStruct(devices::block::RequestHeader{});
  const GuestAddr data = driver.arena().Allocate(kLength);
  const GuestAddr status = driver.PutStruct(std::uint8_t{0xff});
  driver.queue(0).Add({{header, sizeof(devices::block::RequestHeader), false},
                       {data, kLength, true},
                       {status, 1, true}});
  driver.Kick(0);
  CHECK(driver.WaitUsed(0).len == kLength + 1);
  CHECK(driver.Get(status, 1)[0] == std::byte{0});
  return driver.Get(data, kLength);
}

std::string DetachCode(LoopThread& thread, MmioTransport& transport) {
  std::string code;
  thread.Call([&] {
    const Result<> detached = transport.Detach();
    if (!detached.has_value()) code = detached.error().code();
  });
  return code;
}

TEST_CASE("hotplug: a drive leaves its slot when its driver has, and another one comes") {
  const TempFile first_file(kDiskBytes);
  const TempFile second_file(2 * kDiskBytes);
  first_file.Write(0, AsBytes(std::uint8_t{'f'}));
  second_file.Write(0, AsBytes(std::uint8_t{'s'}));
  auto first = BlockDevice::Open({.id = "first", .path = first_file.path()}).value();
  LoopThread thread;
  Driver driver(*first, thread);
  MmioTransport& slot = driver.transport();
  driver.Start();
  CHECK(ReadSector(driver)[0] == std::byte{'f'});
  CHECK(DetachCode(thread, slot) == "ERR_DEVICE_IN_USE");
  CHECK(driver.Read32(kRegDeviceId) == kBlock);
  CHECK(ReadSector(driver)[0] == std::byte{'f'});

  // As Linux unbinds: a reset, then ACKNOWLEDGE for a device without a driver.
  driver.Write32(kRegStatus, 0);
  driver.Write32(kRegStatus, kStatusAcknowledge);
  CHECK(DetachCode(thread, slot).empty());
  thread.Call([&] { first.reset(); });
  for (const std::uint64_t offset : {kRegDeviceId, kRegStatus, kRegInterruptStatus,
                                     kRegDeviceFeatures, kRegQueueNumMax, kRegConfig}) {
    CAPTURE(offset);
    CHECK(driver.Read32(offset) == 0);
  }
  CHECK(driver.Read32(kRegMagic) == kMmioMagic);
  // The guest goes on writing to where the device was.
  driver.Kick(0);
  for (std::uint64_t offset = 0; offset < kMmioPageSize; offset += 4) driver.Write32(offset, 0xf);
  CHECK(driver.Read32(kRegStatus) == 0);
  CHECK(DetachCode(thread, slot).empty());

  auto second =
      BlockDevice::Open({.id = "second", .path = second_file.path(), .read_only = true}).value();
  thread.Call([&] { CHECK(slot.Attach(*second).has_value()); });
  CHECK(driver.Read32(kRegConfig) == 2 * kDiskBytes / 512);
  driver.Start();
  CHECK(ReadSector(driver)[0] == std::byte{'s'});
  // A driver that gave up holds nothing.
  driver.Write32(kRegStatus, kStatusFailed);
  CHECK(DetachCode(thread, slot).empty());
}

TEST_CASE("hotplug: an empty slot is saved and continued as one, and takes a device then") {
  const TempFile file(kDiskBytes);
  const GuestMemory memory = GuestMemory::Create(1U << 20U).value();
  LoopThread thread;
  const test::MmioSlot slot(thread.loop(), memory);
  auto device = BlockDevice::Open({.id = "data", .path = file.path()}).value();
  const auto save = [&] {
    StateWriter writer;
    thread.Call([&] { slot->Save(writer); });
    return writer.Take();
  };
  const auto restore = [&](std::span<const std::byte> state) {
    bool restored = false;
    thread.Call([&] {
      StateReader reader(state);
      restored = slot->Restore(reader).has_value() && reader.Done();
    });
    return restored;
  };
  const std::vector<std::byte> empty = save();
  CHECK(restore(empty));
  thread.Call([&] { REQUIRE(slot->Attach(*device).has_value()); });
  const std::vector<std::byte> full = save();
  CHECK(restore(full));
  CHECK_FALSE(restore(empty));
  CHECK(DetachCode(thread, *slot).empty());
  CHECK_FALSE(restore(full));
  CHECK(save() == empty);
  thread.Stop();
}

// Devices with one queue and with another type take turns, while vCPUs write to every
// register. Under a sanitizer this shows a device that is touched after it is gone.
TEST_CASE("hotplug: devices come and go under fire") {
  constexpr int kVcpus = 3;
  constexpr int kRounds = 200;
  const TempFile file(kDiskBytes);
  const GuestMemory memory = GuestMemory::Create(4U << 20U).value();
  LoopThread thread;
  const test::MmioSlot slot(thread.loop(), memory);
  std::atomic<bool> stop = false;
  std::vector<std::thread> vcpus;
  for (int id = 0; id < kVcpus; ++id) {
    vcpus.emplace_back([&, id] {
      std::mt19937_64 random(static_cast<std::uint64_t>(id));
      const auto write = [&slot](std::uint64_t offset, std::uint32_t value) {
        slot->Write(offset, AsBytes(value));
      };
      while (!stop) {
        // By the book, with interruptions by the others.
        for (const std::uint32_t status : {0U, 1U, 3U}) write(kRegStatus, status);
        write(kRegDriverFeaturesSel, 1);
        write(kRegDriverFeatures, 1);
        write(kRegStatus, 0xb);
        write(kRegQueueSel, static_cast<std::uint32_t>(random() % 3));
        write(kRegQueueNum, 8);
        write(kRegQueueDescLow, 0x1000);
        write(kRegQueueDriverLow, 0x2000);
        write(kRegQueueDeviceLow, 0x3000);
        write(kRegQueueReady, 1);
        write(kRegStatus, 0xf);
        write(kRegQueueNotify, static_cast<std::uint32_t>(random() % 3));
        write(kRegInterruptAck, 3);
        std::array<std::byte, 4> bytes{};
        slot->Read((random() % 0x90) * 4, bytes);
        if (random() % 4 == 0) write(kRegStatus, kStatusFailed);
        write(kRegStatus, 0);
      }
    });
  }
  int detached = 0;
  for (int round = 0; round < kRounds; ++round) {
    std::unique_ptr<Device> device;
    if (round % 2 == 0) {
      device = BlockDevice::Open({.id = "data", .path = file.path()}).value();
    } else {
      device = std::make_unique<devices::RngDevice>();
    }
    thread.Call([&] { REQUIRE(slot->Attach(*device).has_value()); });
    const bool gone = test::Eventually([&] {
      thread.Call([&] {
        if (!slot->Detach().has_value()) return;
        device.reset();
        ++detached;
      });
      return device == nullptr;
    });
    REQUIRE(gone);
  }
  CHECK(detached == kRounds);
  stop = true;
  for (std::thread& vcpu : vcpus) vcpu.join();
  thread.Stop();
}

}  // namespace
}  // namespace embervm::virtio
