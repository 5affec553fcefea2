#include "devices/console/device.h"

#include <array>

#include "virtio/abi.h"
#include "virtio/service_queue.h"

namespace embervm::devices {

namespace {

// Linux fills the whole receive queue with pages at boot: a short one saves the guest
// the work and the memory. It writes in large pieces and waits for each.
constexpr std::array<std::uint16_t, 2> kQueueSizes{2, 64};
constexpr std::uint16_t kTransmitQueue = 1;
constexpr unsigned kBudgetPerTurn = 64;

}  // namespace

std::uint32_t ConsoleDevice::type() const { return virtio::kDeviceIdConsole; }

std::span<const std::uint16_t> ConsoleDevice::queue_sizes() const { return kQueueSizes; }

Result<> ConsoleDevice::Activate(const virtio::DeviceContext& context) {
  context_ = &context;
  return {};
}

void ConsoleDevice::Notify(std::uint16_t queue) {
  if (context_ == nullptr || queue != kTransmitQueue) return;
  virtio::ServiceQueue(*context_, queue, kBudgetPerTurn, [this](const virtio::Chain& chain) {
    ring_.Append(chain.readable());
    return virtio::Outcome::Used(0);
  });
}

}  // namespace embervm::devices
