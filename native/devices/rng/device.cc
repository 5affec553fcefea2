#include "devices/rng/device.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "virtio/abi.h"
#include "virtio/service_queue.h"

namespace embervm::devices {

namespace {

// Linux has one request in flight.
constexpr std::array<std::uint16_t, 1> kQueueSizes{8};
constexpr unsigned kBudgetPerTurn = 8;

// Returns the bytes written, which are fewer only when the kernel has none to give.
std::uint32_t FillWithEntropy(virtio::Segments segments) {
  std::uint32_t filled = 0;
  for (const virtio::Segment& segment : segments) {
    std::span<std::byte> room(static_cast<std::byte*>(segment.iov_base), segment.iov_len);
    room = room.first(std::min<std::size_t>(room.size(), RngDevice::kMaxRequestBytes - filled));
    while (!room.empty()) {
      const ssize_t got = ::getrandom(room.data(), room.size(), GRND_NONBLOCK);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return filled;
      filled += static_cast<std::uint32_t>(got);
      room = room.subspan(static_cast<std::size_t>(got));
    }
  }
  return filled;
}

}  // namespace

std::uint32_t RngDevice::type() const { return virtio::kDeviceIdRng; }

std::span<const std::uint16_t> RngDevice::queue_sizes() const { return kQueueSizes; }

Result<> RngDevice::Activate(const virtio::DeviceContext& context) {
  context_ = &context;
  return {};
}

void RngDevice::Notify(std::uint16_t queue) {
  if (context_ == nullptr) return;
  virtio::ServiceQueue(*context_, queue, kBudgetPerTurn, [](const virtio::Chain& chain) {
    return virtio::Outcome::Used(FillWithEntropy(chain.writable()));
  });
}

}  // namespace embervm::devices
