// Rings of any content: the walk stays in RAM, ends, and gives every head back.
#include <fuzzer/FuzzedDataProvider.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "fuzz/device_harness.h"
#include "memory/guest_memory.h"
#include "virtio/queue.h"

namespace embervm::fuzz {
namespace {

constexpr GuestAddr kRings = 0x1000;
constexpr std::size_t kImageBytes = 1024;
constexpr unsigned kMaxSizeLog2 = 5;
constexpr std::uint16_t kMaxSize = 1U << kMaxSizeLog2;
// Direct descriptors, then an indirect table.
constexpr std::size_t kMaxSegments = 2 * std::size_t{kMaxSize};
constexpr GuestAddr kAlignment = 16;

void CheckSegments(const virtio::Chain& chain) {
  const GuestMemory::Region& ram = SharedMemory().regions().front();
  std::uint64_t total = 0;
  for (const virtio::Segments part : {chain.readable(), chain.writable()}) {
    for (const virtio::Segment& segment : part) {
      const auto* const begin = static_cast<const std::byte*>(segment.iov_base);
      Require(segment.iov_len > 0 && begin >= ram.host);
      Require(begin + segment.iov_len <= ram.host + ram.size);
    }
    total += virtio::TotalBytes(part);
  }
  Require(total == std::uint64_t{chain.readable_bytes()} + chain.writable_bytes());
  Require(chain.readable().size() + chain.writable().size() <= kMaxSegments);
  Require(!chain.malformed() || total == 0);
}

void Run(FuzzedDataProvider& input) {
  const GuestMemory& memory = SharedMemory();
  Require(memory.Fill(kRings, kImageBytes, std::byte{0}).has_value());
  const auto size_log2 = input.ConsumeIntegralInRange<unsigned>(0, kMaxSizeLog2);
  const auto size = static_cast<std::uint16_t>(1U << size_log2);
  const GuestAddr driver_ring = kRings + size * sizeof(virtio::Descriptor);
  const GuestAddr after = driver_ring + 6 + size * sizeof(std::uint16_t);
  const virtio::QueueConfig config{
      .max_size = kMaxSize,
      .size = size,
      .ready = true,
      .descriptor_table = kRings,
      .driver_ring = driver_ring,
      .device_ring = (after + kAlignment - 1) / kAlignment * kAlignment,
  };
  std::uint64_t features = virtio::kFeatureVersion1;
  if (input.ConsumeBool()) features |= virtio::kFeatureEventIdx;
  if (input.ConsumeBool()) features |= virtio::kFeatureIndirectDesc;
  const virtio::QueuePosition position{.next_avail = input.ConsumeIntegral<std::uint16_t>(),
                                       .next_used = input.ConsumeIntegral<std::uint16_t>()};
  virtio::Queue queue = virtio::Queue::Create(memory, config, features, position).value();

  // The guest rewrites its rings between our steps.
  while (input.remaining_bytes() > 0) {
    const auto offset = input.ConsumeIntegralInRange<std::size_t>(0, kImageBytes);
    std::vector<std::byte> image = input.ConsumeBytes<std::byte>(
        input.ConsumeIntegralInRange<std::size_t>(0, kImageBytes - offset));
    Require(memory.Write(kRings + offset, image).has_value());
    queue.DisableNotifications();
    for (unsigned pops = 0; pops <= size; ++pops) {
      const Result<std::optional<virtio::Chain>> chain = queue.Pop();
      if (!chain.has_value()) return;
      if (!chain->has_value()) break;
      Require((*chain)->head() < size);
      CheckSegments(**chain);
      if (input.ConsumeBool()) {
        queue.UndoPop();
        break;
      }
      queue.AddUsed((*chain)->head(), (*chain)->writable_bytes());
    }
    static_cast<void>(queue.PublishUsed());
    static_cast<void>(queue.EnableNotifications());
  }
}

}  // namespace
}  // namespace embervm::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzedDataProvider input(data, size);
  embervm::fuzz::Run(input);
  return 0;
}
