#include "virtio/mmio_transport.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include "base/bytes.h"

namespace embervm::virtio {

namespace {

constexpr std::uint32_t kStatusProgress =
    kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk;
constexpr unsigned kWordBits = 32;
constexpr std::uint64_t kLowWord = 0xffff'ffff;

Result<UniqueFd> MakeEventFd() {
  UniqueFd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd.valid()) {
    return std::unexpected(
        Error::FromErrno("ERR_RESOURCE_LIMIT", "eventfd", errno, "virtio device"));
  }
  return fd;
}

// Neither can fail for us: the descriptor is valid, and a counter that is full is one
// whose reader has been told already.
void SignalEventFd(const UniqueFd& fd) {
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(fd.get(), &one, sizeof(one));
}

void DrainEventFd(const UniqueFd& fd) {
  std::uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = ::read(fd.get(), &count, sizeof(count));
}

void SetLow(std::uint64_t& target, std::uint32_t value) { target = (target & ~kLowWord) | value; }

void SetHigh(std::uint64_t& target, std::uint32_t value) {
  target = (target & kLowWord) | (std::uint64_t{value} << kWordBits);
}

}  // namespace

Result<std::unique_ptr<MmioTransport>> MmioTransport::Create(EventLoop& loop,
                                                             const GuestMemory& memory,
                                                             FailureHandler on_failure,
                                                             std::span<std::byte> page) {
  EMBERVM_TRY_ASSIGN(UniqueFd irq_fd, MakeEventFd());
  return std::unique_ptr<MmioTransport>(
      new MmioTransport(loop, memory, std::move(on_failure), page, std::move(irq_fd)));
}

MmioTransport::MmioTransport(EventLoop& loop, const GuestMemory& memory, FailureHandler on_failure,
                             std::span<std::byte> page, UniqueFd irq_fd)
    : loop_(loop),
      memory_(memory),
      on_failure_(std::move(on_failure)),
      page_(page),
      irq_fd_(std::move(irq_fd)) {
  Word(kRegMagic).store(kMmioMagic);
  Word(kRegVersion).store(kMmioVersion);
  Word(kRegDeviceId).store(kDeviceIdNone);
  Word(kRegVendorId).store(kMmioVendor);
  // virtio 1.2 §4.2.2: a shared memory region that does not exist has length and base -1.
  for (const std::uint64_t offset :
       {kRegShmLenLow, kRegShmLenHigh, kRegShmBaseLow, kRegShmBaseHigh}) {
    Word(offset).store(UINT32_MAX);
  }
}

MmioTransport::~MmioTransport() {
  DeactivateDevice();
  for (const UniqueFd& fd : notify_fds_) loop_.RemoveFd(fd.get());
}

Result<> MmioTransport::ReserveQueues(std::size_t count) {
  while (notify_fds_.size() < count) {
    const auto queue = static_cast<std::uint16_t>(notify_fds_.size());
    EMBERVM_TRY_ASSIGN(UniqueFd fd, MakeEventFd());
    EMBERVM_TRY(loop_.AddFd(fd.get(), EPOLLIN, [this, queue](std::uint32_t) { OnNotify(queue); }));
    const std::lock_guard lock(state_mutex_);
    notify_fds_.push_back(std::move(fd));
  }
  return {};
}

Result<> MmioTransport::Attach(Device& device) {
  if (device_ != nullptr) {
    return std::unexpected(Error("ERR_INTERNAL", "the virtio slot has a device already"));
  }
  EMBERVM_TRY(ReserveQueues(device.queue_sizes().size()));
  {
    const std::lock_guard lock(config_mutex_);
    std::ranges::copy(device.config(), page_.subspan(kRegConfig).begin());
  }
  const std::lock_guard lock(state_mutex_);
  ResetRegisters(device);
  device_ = &device;
  // Last: a driver that finds the device finds its registers too.
  Word(kRegDeviceId).store(device.type(), std::memory_order_release);
  return {};
}

Result<> MmioTransport::Detach() {
  {
    const std::lock_guard lock(state_mutex_);
    if (device_ == nullptr) return {};
    // From DRIVER on the guest may do anything with the device; one that gave up (FAILED)
    // has let go of it.
    if ((Status() & (kStatusDriver | kStatusFailed)) == kStatusDriver) {
      return std::unexpected(Error("ERR_DEVICE_IN_USE", "a driver of the guest holds the " +
                                                            std::string(device_->name()) +
                                                            " device: unbind it first")
                                 .With("device", std::string(device_->name())));
    }
    Word(kRegDeviceId).store(kDeviceIdNone, std::memory_order_release);
  }
  DeactivateDevice();
  {
    // From here on no vCPU thread sees the device.
    const std::lock_guard lock(state_mutex_);
    device_ = nullptr;
    driver_ = DriverState{};
    for (const std::uint64_t offset :
         {kRegStatus, kRegInterruptStatus, kRegDeviceFeatures, kRegQueueNumMax, kRegQueueReady}) {
      Word(offset).store(0, std::memory_order_release);
    }
  }
  const std::lock_guard lock(config_mutex_);
  std::ranges::fill(page_.subspan(kRegConfig), std::byte{0});
  Word(kRegConfigGeneration).fetch_add(1, std::memory_order_acq_rel);
  return {};
}

std::uint64_t MmioTransport::OfferedFeatures(const Device& device) {
  return device.features() | kRingFeatures;
}

std::atomic_ref<std::uint32_t> MmioTransport::Word(std::uint64_t offset) const {
  return std::atomic_ref(
      *reinterpret_cast<std::uint32_t*>(page_.subspan(offset, sizeof(std::uint32_t)).data()));
}

std::uint32_t MmioTransport::Status() const {
  return Word(kRegStatus).load(std::memory_order_acquire);
}

void MmioTransport::Read(std::uint64_t offset, std::span<std::byte> data) {
  std::ranges::fill(data, std::byte{0});
  if (offset >= kRegConfig) {
    if (offset >= kMmioPageSize) return;
    const std::lock_guard lock(config_mutex_);
    const std::span<const std::byte> config = page_.subspan(offset);
    std::ranges::copy(config.first(std::min(data.size(), config.size())), data.begin());
    return;
  }
  // virtio 1.2 §4.2.2.2: registers take aligned 32-bit accesses only.
  if (data.size() != sizeof(std::uint32_t) || offset % sizeof(std::uint32_t) != 0) return;
  StoreLe(data, 0, Word(offset).load(std::memory_order_acquire));
}

void MmioTransport::Write(std::uint64_t offset, std::span<const std::byte> data) {
  if (offset >= kRegConfig) {
    ignored_config_writes_.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  if (data.size() != sizeof(std::uint32_t) || offset % sizeof(std::uint32_t) != 0) return;
  const auto value = LoadLe<std::uint32_t>(data);
  switch (offset) {
    // These two wait for nobody: the device thread may be the one that delivers
    // acknowledgements which the kernel has collected.
    case kRegQueueNotify: {
      const std::lock_guard lock(state_mutex_);
      if (device_ != nullptr && value < notify_fds_.size()) SignalEventFd(notify_fds_[value]);
      return;
    }
    case kRegInterruptAck:
      if ((Status() & kStatusDriverOk) != 0) {
        Word(kRegInterruptStatus).fetch_and(~value, std::memory_order_acq_rel);
      }
      return;
    default: {
      const std::lock_guard turn(turn_mutex_);
      FinishWrite(WriteRegister(offset, value));
    }
  }
}

MmioTransport::Request MmioTransport::WriteRegister(std::uint64_t offset, std::uint32_t value) {
  const std::lock_guard lock(state_mutex_);
  if (device_ == nullptr) return Request::kNone;
  Request request = Request::kNone;
  switch (offset) {
    case kRegDeviceFeaturesSel:
      driver_.device_features_sel = value;
      break;
    case kRegDriverFeaturesSel:
      driver_.driver_features_sel = value;
      break;
    case kRegDriverFeatures:
      WriteDriverFeatures(value);
      break;
    case kRegQueueSel:
      driver_.queue_sel = value;
      break;
    case kRegStatus:
      request = WriteStatus(value);
      break;
    default:
      WriteQueueRegister(offset, value);
  }
  RefreshSelected(*device_);
  return request;
}

void MmioTransport::WriteDriverFeatures(std::uint32_t value) {
  constexpr std::uint32_t kGates = kStatusDriver | kStatusFeaturesOk | kStatusFailed;
  if ((Status() & kGates) != kStatusDriver) return;
  if (driver_.driver_features_sel == 0) {
    SetLow(driver_.driver_features, value);
  } else if (driver_.driver_features_sel == 1) {
    SetHigh(driver_.driver_features, value);
  }
  driver_.driver_features &= OfferedFeatures(*device_);
}

void MmioTransport::WriteQueueRegister(std::uint64_t offset, std::uint32_t value) {
  constexpr std::uint32_t kGates = kStatusFeaturesOk | kStatusDriverOk | kStatusFailed;
  if ((Status() & kGates) != kStatusFeaturesOk) return;
  if (driver_.queue_sel >= driver_.queues.size()) return;
  QueueConfig& queue = driver_.queues[driver_.queue_sel];
  switch (offset) {
    case kRegQueueNum:
      queue.size = static_cast<std::uint16_t>(value);
      return;
    case kRegQueueReady:
      // Only latched: the addresses are checked when the driver says DRIVER_OK.
      queue.ready = (value & 1U) != 0;
      return;
    case kRegQueueDescLow:
      SetLow(queue.descriptor_table, value);
      return;
    case kRegQueueDescHigh:
      SetHigh(queue.descriptor_table, value);
      return;
    case kRegQueueDriverLow:
      SetLow(queue.driver_ring, value);
      return;
    case kRegQueueDriverHigh:
      SetHigh(queue.driver_ring, value);
      return;
    case kRegQueueDeviceLow:
      SetLow(queue.device_ring, value);
      return;
    case kRegQueueDeviceHigh:
      SetHigh(queue.device_ring, value);
      return;
    default:
      return;
  }
}

// virtio 1.2 §3.1.1 as a chain without shortcuts: 0, 1, 3, 0xb, 0xf.
MmioTransport::Request MmioTransport::WriteStatus(std::uint32_t value) {
  const std::uint32_t status = Status();
  const auto add = [this](std::uint32_t bits) {
    Word(kRegStatus).fetch_or(bits, std::memory_order_acq_rel);
  };
  const bool active = (status & kStatusDriverOk) != 0;
  if (value == 0) {
    // The driver that waits for its reset reads 0 only when the device has let go.
    if (active) return Request::kReset;
    // Before DRIVER_OK the device thread knows nothing of this driver.
    ResetRegisters(*device_);
    return Request::kNone;
  }
  if ((status & kStatusFailed) != 0) return Request::kNone;
  if ((value & kStatusFailed) != 0) {
    add(kStatusFailed);
    // The driver gave up: what it does with its rings' memory is no longer our business.
    return active ? Request::kDeactivate : Request::kNone;
  }
  const std::uint32_t target = value & ~kStatusNeedsReset;
  switch (status & kStatusProgress) {
    case 0:
      if (target == kStatusAcknowledge) add(kStatusAcknowledge);
      break;
    case kStatusAcknowledge:
      if (target == (kStatusAcknowledge | kStatusDriver)) add(kStatusDriver);
      break;
    case kStatusAcknowledge | kStatusDriver:
      // §6.1: no VERSION_1, no deal; the driver sees that the bit stays clear.
      if (target == (kStatusProgress & ~kStatusDriverOk) &&
          (driver_.driver_features & kFeatureVersion1) != 0) {
        add(kStatusFeaturesOk);
      }
      break;
    case kStatusProgress & ~kStatusDriverOk:
      if (target != kStatusProgress) break;
      // First the bit, so that interrupts of the activation can be acknowledged.
      add(kStatusDriverOk);
      return Request::kActivate;
    default:
      break;
  }
  return Request::kNone;
}

void MmioTransport::FinishWrite(Request request) {
  switch (request) {
    case Request::kNone:
      return;
    case Request::kActivate:
      RunOnDeviceThread([this] { ActivateDevice(); });
      return;
    case Request::kDeactivate:
      RunOnDeviceThread([this] { DeactivateDevice(); });
      return;
    case Request::kReset: {
      RunOnDeviceThread([this] { DeactivateDevice(); });
      const std::lock_guard lock(state_mutex_);
      // It may have been detached meanwhile, if its driver had failed.
      if (device_ != nullptr) ResetRegisters(*device_);
      return;
    }
  }
}

void MmioTransport::ResetRegisters(const Device& device) {
  Word(kRegStatus).store(0, std::memory_order_release);
  Word(kRegInterruptStatus).store(0, std::memory_order_release);
  driver_ = DriverState{};
  for (const std::uint16_t size : device.queue_sizes()) {
    driver_.queues.push_back({.max_size = size});
  }
  RefreshSelected(device);
}

void MmioTransport::RefreshSelected(const Device& device) {
  const std::uint64_t offered = OfferedFeatures(device);
  std::uint64_t features = 0;
  if (driver_.device_features_sel == 0) features = offered & kLowWord;
  if (driver_.device_features_sel == 1) features = offered >> kWordBits;
  Word(kRegDeviceFeatures).store(static_cast<std::uint32_t>(features), std::memory_order_release);

  const bool exists = driver_.queue_sel < driver_.queues.size();
  const QueueConfig queue = exists ? driver_.queues[driver_.queue_sel] : QueueConfig{};
  Word(kRegQueueNumMax).store(queue.max_size, std::memory_order_release);
  Word(kRegQueueReady).store(queue.ready ? 1 : 0, std::memory_order_release);
}

void MmioTransport::RunOnDeviceThread(EventLoop::Task task) {
  const Completion completion;
  {
    const std::lock_guard lock(wait_mutex_);
    if (released_) return;
    current_wait_ = completion;
  }
  loop_.Post([task = std::move(task), token = completion.MakeToken()]() mutable {
    // Dies at the end of this task, not with the batch that the loop runs.
    const Completion::Token release_waiter = std::move(token);
    task();
  });
  completion.Wait();
  const std::lock_guard lock(wait_mutex_);
  current_wait_.reset();
}

void MmioTransport::ReleaseWaiters() {
  const std::lock_guard lock(wait_mutex_);
  released_ = true;
  if (current_wait_) current_wait_->Abandon();
}

Result<> MmioTransport::TryActivate(std::span<const QueueConfig> configs, std::uint64_t features,
                                    std::span<const QueuePosition> positions) {
  ++activation_;
  failed_ = false;
  queues_.clear();
  const auto activate = [&]() -> Result<> {
    const std::size_t count = std::min(configs.size(), device_->QueuesFor(features));
    for (std::size_t index = 0; index < count; ++index) {
      const QueuePosition position = positions.empty() ? QueuePosition{} : positions[index];
      EMBERVM_TRY_ASSIGN(const Queue queue,
                         Queue::Create(memory_, configs[index], features, position));
      queues_.push_back(queue);
    }
    context_.emplace(DeviceContext{
        .memory = memory_, .loop = loop_, .host = *this, .queues = queues_, .features = features});
    return device_->Activate(*context_);
  };
  Result<> activated = activate();
  if (!activated.has_value()) {
    context_.reset();
    queues_.clear();
    return activated;
  }
  // A notification may have come before the device was ready for it.
  for (const UniqueFd& fd : notify_fds_) SignalEventFd(fd);
  return {};
}

void MmioTransport::ActivateDevice() {
  std::vector<QueueConfig> queues;
  std::uint64_t features = 0;
  {
    const std::lock_guard lock(state_mutex_);
    // Whoever asked for this still waits, and a driver's device is not detached.
    if (device_ == nullptr || (Status() & kStatusDriverOk) == 0) return;
    queues = driver_.queues;
    features = driver_.driver_features;
  }
  const Result<> activated = TryActivate(queues, features, {});
  if (activated.has_value()) return;
  Word(kRegStatus).fetch_or(kStatusNeedsReset, std::memory_order_acq_rel);
  Signal(kInterruptConfig);
  if (on_failure_) on_failure_(*device_, activated.error());
}

void MmioTransport::DeactivateDevice() {
  if (!context_) return;
  device_->Reset();
  context_.reset();
  queues_.clear();
}

void MmioTransport::OnNotify(std::uint16_t queue) {
  // Also while no driver is there: the descriptor is level triggered.
  DrainEventFd(notify_fds_[queue]);
  // A device that was in the slot before may have had more queues.
  if (!context_ || failed_ || queue >= queues_.size()) return;
  device_->Notify(queue);
}

void MmioTransport::Signal(std::uint32_t cause) {
  // The cause comes first: the guest may look before the line is seen to rise. Pairs
  // with the acquire of Read() and of the driver's handler.
  Word(kRegInterruptStatus).fetch_or(cause, std::memory_order_acq_rel);
  interrupts_.fetch_add(1, std::memory_order_relaxed);
  RaiseLine();
}

void MmioTransport::RaiseLine() const { SignalEventFd(irq_fd_); }

void MmioTransport::SignalQueues() { Signal(kInterruptQueue); }

void MmioTransport::PublishConfig(std::span<const std::byte> config) {
  ShowConfig(config);
  if (context_) Signal(kInterruptConfig);
}

void MmioTransport::ShowConfig(std::span<const std::byte> config) {
  const std::lock_guard lock(config_mutex_);
  std::ranges::copy(config, page_.subspan(kRegConfig).begin());
  Word(kRegConfigGeneration).fetch_add(1, std::memory_order_acq_rel);
}

void MmioTransport::RefreshConfig() {
  if (device_ != nullptr) PublishConfig(device_->config());
}

void MmioTransport::Kick(std::uint16_t queue) { SignalEventFd(notify_fds_[queue]); }

void MmioTransport::Fail(Error error) {
  if (!context_ || failed_) return;
  failed_ = true;
  Word(kRegStatus).fetch_or(kStatusNeedsReset, std::memory_order_acq_rel);
  Signal(kInterruptConfig);
  if (on_failure_) on_failure_(*device_, error);
  // Not now: the device is further up the stack. Not later than its next activation.
  loop_.Post([this, activation = activation_] {
    if (activation == activation_) DeactivateDevice();
  });
}

}  // namespace embervm::virtio
