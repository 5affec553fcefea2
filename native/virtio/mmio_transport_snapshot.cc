// What a transport is in a snapshot: its registers, and where its queues are.
#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "virtio/mmio_transport.h"

namespace embervm::virtio {

namespace {

// Those that are not derived from what the driver set up.
constexpr std::array<std::uint64_t, 3> kSavedRegisters{kRegStatus, kRegInterruptStatus,
                                                       kRegConfigGeneration};

}  // namespace

void MmioTransport::Save(StateWriter& writer) {
  writer.Value<std::uint32_t>(device_ == nullptr ? kDeviceIdNone : device_->type());
  if (device_ == nullptr) return;
  const std::lock_guard lock(state_mutex_);
  for (const std::uint64_t offset : kSavedRegisters) writer.Value(Word(offset).load());
  writer.Value(driver_.device_features_sel);
  writer.Value(driver_.driver_features_sel);
  writer.Value(driver_.queue_sel);
  writer.Value(driver_.driver_features);
  // A device that failed is as good as reset: its driver knows by the status.
  const bool active = context_.has_value() && !failed_;
  writer.Value<std::uint8_t>(active ? 1 : 0);
  writer.Value(static_cast<std::uint64_t>(driver_.queues.size()));
  for (std::size_t index = 0; index < driver_.queues.size(); ++index) {
    const QueueConfig& queue = driver_.queues[index];
    writer.Value(queue.max_size);
    writer.Value(queue.size);
    writer.Value<std::uint8_t>(queue.ready ? 1 : 0);
    writer.Value(queue.descriptor_table);
    writer.Value(queue.driver_ring);
    writer.Value(queue.device_ring);
    const QueuePosition position =
        active && index < queues_.size() ? queues_[index].position() : QueuePosition{};
    writer.Value(position.next_avail);
    writer.Value(position.next_used);
  }
}

Result<> MmioTransport::Restore(StateReader& reader) {
  const std::uint32_t type = device_ == nullptr ? kDeviceIdNone : device_->type();
  if (reader.Value<std::uint32_t>() != type) {
    return std::unexpected(InvalidState("a slot has another kind of device"));
  }
  if (device_ == nullptr) return {};
  std::array<std::uint32_t, kSavedRegisters.size()> registers{};
  for (std::uint32_t& value : registers) value = reader.Value<std::uint32_t>();
  DriverState driver;
  driver.device_features_sel = reader.Value<std::uint32_t>();
  driver.driver_features_sel = reader.Value<std::uint32_t>();
  driver.queue_sel = reader.Value<std::uint32_t>();
  driver.driver_features = reader.Value<std::uint64_t>();
  const bool active = reader.Flag();
  std::vector<QueuePosition> positions;
  if (reader.Value<std::uint64_t>() != driver_.queues.size()) reader.Fail();
  for (const QueueConfig& own : driver_.queues) {
    QueueConfig queue;
    queue.max_size = reader.Value<std::uint16_t>();
    queue.size = reader.Value<std::uint16_t>();
    queue.ready = reader.Flag();
    queue.descriptor_table = reader.Value<GuestAddr>();
    queue.driver_ring = reader.Value<GuestAddr>();
    queue.device_ring = reader.Value<GuestAddr>();
    if (queue.max_size != own.max_size) reader.Fail();
    driver.queues.push_back(queue);
    QueuePosition position;
    position.next_avail = reader.Value<std::uint16_t>();
    position.next_used = reader.Value<std::uint16_t>();
    positions.push_back(position);
  }
  if (!reader.ok()) return std::unexpected(InvalidState("a virtio device"));
  if ((driver.driver_features & ~OfferedFeatures(*device_)) != 0) {
    return std::unexpected(Error("ERR_SNAPSHOT_MISMATCH",
                                 "the guest uses features of its " + std::string(device_->name()) +
                                     " device that the one it gets does not have")
                               .With("device", std::string(device_->name())));
  }
  const std::vector<QueueConfig> queues = driver.queues;
  const std::uint64_t features = driver.driver_features;
  {
    const std::lock_guard lock(state_mutex_);
    driver_ = std::move(driver);
    for (std::size_t index = 0; index < registers.size(); ++index) {
      Word(kSavedRegisters.at(index)).store(registers.at(index), std::memory_order_release);
    }
    RefreshSelected(*device_);
  }
  if (active) EMBERVM_TRY(TryActivate(queues, features, positions));
  // The line may have been on its way when the interrupt controllers were saved.
  if (Word(kRegInterruptStatus).load() != 0) RaiseLine();
  return {};
}

}  // namespace embervm::virtio
