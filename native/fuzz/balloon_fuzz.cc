// virtio-balloon: pages, reported ranges and statistics of any content and framing, and a host
// that asks in between.
#include <fuzzer/FuzzedDataProvider.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "devices/balloon/device.h"
#include "fuzz/device_harness.h"

namespace embervm::fuzz {
namespace {

constexpr std::size_t kMaxBuffers = 6;
constexpr std::size_t kMaxBufferBytes = 512;
// The arena is bounded: so is the number of buffers.
constexpr int kMaxSteps = 24;
// Above what the arena gives out: a guest that gives away its own rings, and then is answered
// nothing, is another test's.
constexpr GuestAddr kReclaimable = kMemoryBytes / 4 * 3;

// What the driver's buffers hold or name.
std::vector<test::DriverBuffer> TakeBuffers(FuzzedDataProvider& input, DeviceHarness& harness) {
  std::vector<test::DriverBuffer> buffers;
  const auto count = input.ConsumeIntegralInRange<std::size_t>(1, kMaxBuffers);
  for (std::size_t i = 0; i < count; ++i) {
    if (input.ConsumeBool()) {
      // A range as it is reported: aligned or not, in RAM or around its end.
      const auto addr = input.ConsumeIntegralInRange<GuestAddr>(kReclaimable, kMemoryBytes + 8192);
      const auto length = input.ConsumeIntegralInRange<std::uint32_t>(0, 16 * 4096);
      buffers.push_back({addr, length, true});
      continue;
    }
    std::vector<std::byte> bytes = input.ConsumeBytes<std::byte>(
        input.ConsumeIntegralInRange<std::size_t>(0, kMaxBufferBytes));
    const GuestAddr addr = harness.arena().Allocate(bytes.size());
    Require(SharedMemory().Write(addr, bytes).has_value());
    buffers.push_back({addr, static_cast<std::uint32_t>(bytes.size()), false});
  }
  return buffers;
}

// Page numbers are 32 bits of which few are in so small a RAM: those that are must not hit the
// rings, those that are not may be anything.
std::vector<test::DriverBuffer> TakePages(FuzzedDataProvider& input, DeviceHarness& harness) {
  std::vector<std::uint32_t> pages;
  const auto count = input.ConsumeIntegralInRange<std::size_t>(0, kMaxBufferBytes / 4);
  for (std::size_t i = 0; i < count && input.remaining_bytes() > 0; ++i) {
    const auto page = input.ConsumeIntegral<std::uint32_t>();
    constexpr auto kFirst = static_cast<std::uint32_t>(kReclaimable / 4096);
    pages.push_back(input.ConsumeBool() ? kFirst + page % 80 : page | 0x100U);
  }
  const auto bytes = std::as_bytes(std::span(pages));
  const GuestAddr addr = harness.arena().Allocate(bytes.size());
  Require(SharedMemory().Write(addr, bytes).has_value());
  const auto length = static_cast<std::uint32_t>(bytes.size());
  const auto split = input.ConsumeIntegralInRange<std::uint32_t>(0, length);
  return {{addr, split, false}, {addr + split, length - split, false}};
}

void Check(const devices::BalloonDevice& device) {
  Require(device.counters().actual_pages <= kMemoryBytes / 4096);
}

void Run(FuzzedDataProvider& input, EventLoop& loop) {
  devices::BalloonDevice device(input.ConsumeIntegral<std::uint32_t>(), 0);
  std::size_t asked = 0;
  std::size_t answered = 0;
  {
    DeviceHarness harness(device, loop);
    bool holds_statistics = false;
    for (int step = 0; step < kMaxSteps && input.remaining_bytes() > 0; ++step) {
      const auto action = input.ConsumeIntegralInRange<std::uint16_t>(0, 5);
      if (action == 4) {
        ++asked;
        device.RequestStatistics([&answered](const auto&) { ++answered; });
        if (holds_statistics) {
          Require(harness.queue(devices::balloon::kStatsQueue).PopUsed().has_value());
          holds_statistics = false;
        }
        continue;
      }
      if (action == 5) {
        device.SetTarget(input.ConsumeIntegral<std::uint32_t>());
        continue;
      }
      const bool statistics = action == devices::balloon::kStatsQueue;
      if (statistics && holds_statistics) continue;
      const std::uint16_t head = harness.queue(action).AddIndirect(
          action <= devices::balloon::kDeflateQueue ? TakePages(input, harness)
                                                    : TakeBuffers(input, harness));
      harness.Notify(action);
      const auto used = harness.queue(action).PopUsed();
      // Each is given back, once, with nothing written; statistics only when the host asks.
      Require(statistics ? !used.has_value()
                         : used.has_value() && used->id == head && used->len == 0);
      holds_statistics = holds_statistics || statistics;
      Check(device);
    }
    Require(!harness.failed());
  }
  // The driver is gone: nobody waits for it.
  Require(asked == answered);
}

}  // namespace
}  // namespace embervm::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::unique_ptr<embervm::EventLoop> loop = embervm::EventLoop::Create().value();
  FuzzedDataProvider input(data, size);
  embervm::fuzz::Run(input, *loop);
  return 0;
}
