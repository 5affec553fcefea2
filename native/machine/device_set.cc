#include "machine/device_set.h"

#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <utility>

#include "base/state_stream.h"
#include "devices/console/device.h"
#include "devices/rng/device.h"
#include "virtio/abi.h"

namespace embervm::machine {

namespace {

constexpr std::uint32_t kRegisterLength = 4;

GuestAddr SlotBase(std::size_t index) {
  return layout::kMmioDevices + index * layout::kMmioDeviceSize;
}

std::uint32_t SlotIrq(std::size_t index) {
  return layout::kFirstDeviceIrq + static_cast<std::uint32_t>(index);
}

std::string Hex(std::uint64_t value) {
  constexpr int kHexadecimal = 16;
  std::array<char, kHexadecimal> digits{};
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value, kHexadecimal);
  return "0x" + std::string(digits.data(), end.ptr);
}

}  // namespace

DeviceSet::DeviceSet(KvmVm& vm, const GuestMemory& memory, EventLoop& loop,
                     std::span<std::byte> register_pages, FailureHandler on_failure)
    : vm_(vm),
      memory_(memory),
      loop_(loop),
      register_pages_(register_pages),
      on_failure_(std::move(on_failure)) {}

DeviceSet::~DeviceSet() = default;

Result<std::unique_ptr<DeviceSet>> DeviceSet::Create(const MachineConfig& config, KvmVm& vm,
                                                     const GuestMemory& memory, EventLoop& loop,
                                                     devices::ConsoleRing& console,
                                                     std::span<std::byte> register_pages,
                                                     const FailureHandler& on_failure) {
  std::unique_ptr<DeviceSet> set(new DeviceSet(vm, memory, loop, register_pages, on_failure));
  set->acknowledged_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!set->acknowledged_.valid()) {
    return std::unexpected(
        Error::FromErrno("ERR_RESOURCE_LIMIT", "eventfd", errno, "virtio acknowledgements"));
  }
  for (const DriveConfig& drive : config.drives) {
    EMBERVM_TRY_ASSIGN(std::unique_ptr<devices::BlockDevice> block,
                       devices::BlockDevice::Open(drive));
    set->drives_.push_back({.id = drive.id, .device = block.get()});
    EMBERVM_TRY(set->Add(std::move(block)));
  }
  for (const devices::FsOptions& options : config.shared_dirs) {
    EMBERVM_TRY_ASSIGN(std::unique_ptr<devices::FsDevice> fs, devices::FsDevice::Open(options));
    set->shared_dirs_.emplace_back(options.tag, fs.get());
    EMBERVM_TRY(set->Add(std::move(fs)));
  }
  if (config.vsock_cid.has_value()) {
    auto vsock = std::make_unique<devices::VsockDevice>(
        loop, devices::VsockMuxer::Options{.guest_cid = *config.vsock_cid});
    set->vsock_ = vsock.get();
    EMBERVM_TRY(set->Add(std::move(vsock)));
  }
  if (config.console) EMBERVM_TRY(set->Add(std::make_unique<devices::ConsoleDevice>(console)));
  if (config.rng) EMBERVM_TRY(set->Add(std::make_unique<devices::RngDevice>()));
  if (config.balloon.has_value()) {
    auto balloon = std::make_unique<devices::BalloonDevice>(config.balloon->target_pages,
                                                            config.balloon->actual_pages);
    set->balloon_ = balloon.get();
    set->balloon_slot_ = set->slots_.size();
    EMBERVM_TRY(set->Add(std::move(balloon)));
  }
  if (config.pluggable.has_value()) {
    const GuestMemory::Region& region = *memory.pluggable_region();
    auto mem = std::make_unique<devices::MemDevice>(
        devices::MemOptions{.base = region.base,
                            .region_bytes = region.size,
                            .requested_bytes = config.pluggable->requested_bytes,
                            .plugged = config.pluggable->plugged});
    set->mem_ = mem.get();
    set->mem_slot_ = set->slots_.size();
    EMBERVM_TRY(set->Add(std::move(mem)));
  }
  set->first_hotplug_slot_ = set->slots_.size();
  for (std::uint32_t slot = 0; slot < config.hotplug_slots; ++slot) {
    EMBERVM_TRY(set->AddEmptySlot());
  }
  for (const PluggedDrive& plugged : config.plugged) EMBERVM_TRY(set->AttachDrive(plugged));
  return set;
}

Result<> DeviceSet::AddEmptySlot() {
  if (slots_.size() >= kMaxSlots) {
    return std::unexpected(
        Error("ERR_INVALID_CONFIG", "a machine has room for " + std::to_string(kMaxSlots) +
                                        " devices, drives and hotplug slots included")
            .With("devices", static_cast<std::int64_t>(slots_.size() + 1)));
  }
  EMBERVM_TRY_ASSIGN(std::unique_ptr<virtio::MmioTransport> transport,
                     virtio::MmioTransport::Create(
                         loop_, memory_,
                         [this](const virtio::Device& failed, const Error& error) {
                           on_failure_(std::string(failed.name()), error.message());
                         },
                         register_pages_.subspan(slots_.size() * layout::kMmioDeviceSize,
                                                 layout::kMmioDeviceSize)));
  slots_.push_back({.device = nullptr, .transport = std::move(transport), .wired_queues = 0});
  return {};
}

Result<> DeviceSet::Add(std::unique_ptr<virtio::Device> device) {
  EMBERVM_TRY(AddEmptySlot());
  EMBERVM_TRY(Wire(slots_.size() - 1, device->queue_sizes().size()));
  Slot& slot = slots_.back();
  slot.device = std::move(device);
  return slot.transport->Attach(*slot.device);
}

Result<> DeviceSet::Wire(std::size_t index, std::size_t queues) {
  Slot& slot = slots_[index];
  EMBERVM_TRY(slot.transport->ReserveQueues(queues));
  if (!slot.irq_wired) {
    EMBERVM_TRY(vm_.AddIrqFd(SlotIrq(index), slot.transport->irq_fd()));
    // Nobody reads it: see MmioTransport on acknowledgements.
    EMBERVM_TRY(vm_.AddIoEventFd({.addr = SlotBase(index) + virtio::kRegInterruptAck,
                                  .length = kRegisterLength,
                                  .datamatch = virtio::kInterruptQueue},
                                 acknowledged_.get()));
  }
  slot.irq_wired = true;
  for (; slot.wired_queues < queues; ++slot.wired_queues) {
    EMBERVM_TRY(vm_.AddIoEventFd({.addr = SlotBase(index) + virtio::kRegQueueNotify,
                                  .length = kRegisterLength,
                                  .datamatch = slot.wired_queues},
                                 slot.transport->notify_fd(slot.wired_queues)));
  }
  return {};
}

Result<std::size_t> DeviceSet::FindEmptySlot(std::uint32_t hotplug_slot) const {
  const std::size_t index = first_hotplug_slot_ + hotplug_slot;
  if (index < slots_.size() && slots_[index].device == nullptr) return index;
  return std::unexpected(Error("ERR_NO_FREE_SLOT", "the machine has no such free slot")
                             .With("slot", static_cast<std::int64_t>(hotplug_slot)));
}

Result<PluggedDevice> DeviceSet::Plug(std::size_t index, std::unique_ptr<virtio::Device> device) {
  EMBERVM_TRY(Wire(index, device->queue_sizes().size()));
  Slot& slot = slots_[index];
  EMBERVM_TRY(slot.transport->Attach(*device));
  slot.device = std::move(device);
  return PluggedDevice{.index = static_cast<std::uint32_t>(index),
                       .address = SlotBase(index),
                       .irq = SlotIrq(index)};
}

Result<PluggedDevice> DeviceSet::AttachDrive(const PluggedDrive& plugged) {
  EMBERVM_TRY_ASSIGN(const std::size_t index, FindEmptySlot(plugged.slot));
  const DriveConfig& drive = plugged.drive;
  EMBERVM_TRY_ASSIGN(std::unique_ptr<devices::BlockDevice> block,
                     devices::BlockDevice::Open(drive));
  devices::BlockDevice* const device = block.get();
  EMBERVM_TRY_ASSIGN(const PluggedDevice where, Plug(index, std::move(block)));
  const std::lock_guard lock(counted_mutex_);
  drives_.push_back({.id = drive.id, .device = device});
  return where;
}

Result<PluggedDevice> DeviceSet::AttachSharedDir(const PluggedDirectory& plugged) {
  EMBERVM_TRY_ASSIGN(const std::size_t index, FindEmptySlot(plugged.slot));
  EMBERVM_TRY_ASSIGN(std::unique_ptr<devices::FsDevice> fs,
                     devices::FsDevice::Open(plugged.directory));
  const devices::FsDevice* const device = fs.get();
  EMBERVM_TRY_ASSIGN(const PluggedDevice where, Plug(index, std::move(fs)));
  const std::lock_guard lock(counted_mutex_);
  shared_dirs_.emplace_back(plugged.directory.tag, device);
  return where;
}

Result<std::uint64_t> DeviceSet::ChangeDrive(
    const std::string& id, const std::function<Result<>(devices::BlockDevice&)>& change) {
  const auto drive = std::ranges::find(drives_, id, &Drive::id);
  if (drive == drives_.end()) {
    return std::unexpected(
        Error("ERR_DEVICE_NOT_FOUND", "the machine has no drive " + id).With("id", id));
  }
  const auto slot = std::ranges::find_if(
      slots_, [&](const Slot& candidate) { return candidate.device.get() == drive->device; });
  EMBERVM_TRY(change(*drive->device));
  slot->transport->RefreshConfig();
  return drive->device->size();
}

Result<> DeviceSet::Detach(std::uint32_t hotplug_slot) {
  Slot& slot = slots_.at(first_hotplug_slot_ + hotplug_slot);
  EMBERVM_TRY(slot.transport->Detach());
  {
    const std::lock_guard lock(counted_mutex_);
    std::erase_if(drives_,
                  [&slot](const Drive& drive) { return drive.device == slot.device.get(); });
    std::erase_if(shared_dirs_,
                  [&slot](const auto& entry) { return entry.second == slot.device.get(); });
  }
  slot.device.reset();
  return {};
}

std::string DeviceSet::GuestCommandLine() const {
  std::string line;
  for (std::size_t index = 0; index < slots_.size(); ++index) {
    line += " virtio_mmio.device=4K@" + Hex(SlotBase(index)) + ":" + std::to_string(SlotIrq(index));
  }
  return line;
}

Result<> DeviceSet::MapRegisters() {
  const std::size_t bytes = slots_.size() * layout::kMmioDeviceSize;
  if (bytes == 0) return {};
  EMBERVM_TRY(vm_.AddReadOnlySlot(layout::kMmioDevices, register_pages_.first(bytes)));
  return {};
}

virtio::MmioTransport* DeviceSet::Find(GuestAddr addr) const {
  if (addr < layout::kMmioDevices) return nullptr;
  const std::uint64_t index = (addr - layout::kMmioDevices) / layout::kMmioDeviceSize;
  return index < slots_.size() ? slots_[index].transport.get() : nullptr;
}

void DeviceSet::Read(GuestAddr addr, std::span<std::byte> data) const {
  virtio::MmioTransport* const transport = Find(addr);
  if (transport == nullptr) {
    std::ranges::fill(data, std::byte{0xff});
    return;
  }
  transport->Read(addr % layout::kMmioDeviceSize, data);
}

void DeviceSet::Write(GuestAddr addr, std::span<const std::byte> data) const {
  virtio::MmioTransport* const transport = Find(addr);
  if (transport != nullptr) transport->Write(addr % layout::kMmioDeviceSize, data);
}

void DeviceSet::ConnectVsock(std::uint32_t port, Completion<UniqueFd> done) {
  if (vsock_ == nullptr) {
    return done(std::unexpected(Error("ERR_UNSUPPORTED", "the machine has no vsock device")));
  }
  vsock_->muxer().Connect(
      port, [done = std::move(done)](Result<UniqueFd> stream) mutable { done(std::move(stream)); });
}

void DeviceSet::ListenVsock(std::uint32_t port, StreamHandler on_stream) {
  if (vsock_ != nullptr) vsock_->muxer().Listen(port, std::move(on_stream));
}

void DeviceSet::UnlistenVsock(std::uint32_t port) {
  if (vsock_ != nullptr) vsock_->muxer().Unlisten(port);
}

namespace {

Error NoBalloon() { return Error("ERR_UNSUPPORTED", "the machine has no balloon device"); }

}  // namespace

Result<> DeviceSet::SetBalloon(std::uint32_t target_pages) {
  if (balloon_ == nullptr) return std::unexpected(NoBalloon());
  balloon_->SetTarget(target_pages);
  slots_[balloon_slot_].transport->RefreshConfig();
  return {};
}

void DeviceSet::RequestBalloonStatistics(Completion<devices::BalloonStatistics> done) {
  if (balloon_ == nullptr) return done(std::unexpected(NoBalloon()));
  balloon_->RequestStatistics(std::move(done));
}

void DeviceSet::ResizeMemory(std::uint64_t bytes, std::chrono::milliseconds patience,
                             Completion<std::uint64_t> done) {
  mem_->Resize(bytes, patience, std::move(done));
  slots_[mem_slot_].transport->RefreshConfig();
}

std::vector<GuestMemory::Extent> DeviceSet::PluggedMemory() const {
  return mem_ == nullptr ? std::vector<GuestMemory::Extent>() : mem_->Plugged();
}

std::optional<devices::MemDevice::Counters> DeviceSet::PluggableMemory() const {
  if (mem_ == nullptr) return std::nullopt;
  return mem_->counters();
}

std::optional<devices::BalloonDevice::Counters> DeviceSet::Balloon() const {
  if (balloon_ == nullptr) return std::nullopt;
  return balloon_->counters();
}

Result<std::vector<std::vector<std::byte>>> DeviceSet::Save() {
  for (const Slot& slot : slots_) {
    if (slot.device != nullptr) EMBERVM_TRY(slot.device->BeforeSave());
  }
  std::vector<std::vector<std::byte>> states;
  for (const Slot& slot : slots_) {
    StateWriter writer;
    slot.transport->Save(writer);
    states.push_back(writer.Take());
  }
  return states;
}

Result<> DeviceSet::Restore(std::span<const std::vector<std::byte>> states) {
  if (states.size() != slots_.size()) {
    return std::unexpected(InvalidState("it has another number of devices"));
  }
  for (std::size_t index = 0; index < slots_.size(); ++index) {
    StateReader reader(states[index]);
    EMBERVM_TRY(slots_[index].transport->Restore(reader));
    if (!reader.Done()) return std::unexpected(InvalidState("a device's state is too long"));
  }
  for (const Slot& slot : slots_) {
    if (slot.device != nullptr) slot.device->AfterRestore();
  }
  return {};
}

std::vector<std::uint64_t> DeviceSet::DriveSizes() const {
  std::vector<std::uint64_t> sizes;
  sizes.reserve(drives_.size());
  for (const Drive& drive : drives_) sizes.push_back(drive.device->size());
  return sizes;
}

void DeviceSet::CloseStreams() {
  if (vsock_ != nullptr) vsock_->muxer().DropAll();
}

void DeviceSet::AddStats(MachineStats& stats) const {
  for (const Slot& slot : slots_) stats.interrupts += slot.transport->interrupts();
  const std::lock_guard lock(counted_mutex_);
  for (const auto& [tag, device] : shared_dirs_) {
    const devices::FsDevice::Counters counters = device->counters();
    stats.shared_dirs.push_back({.tag = tag,
                                 .requests = counters.requests,
                                 .errors = counters.errors,
                                 .read_bytes = counters.read_bytes,
                                 .written_bytes = counters.written_bytes,
                                 .open_files = counters.open_files});
  }
  for (const Drive& drive : drives_) {
    const devices::BlockDevice::Counters counters = drive.device->counters();
    stats.drives.push_back({.id = drive.id,
                            .read_bytes = counters.read_bytes,
                            .written_bytes = counters.written_bytes,
                            .reads = counters.reads,
                            .writes = counters.writes,
                            .flushes = counters.flushes,
                            .errors = counters.errors});
  }
  if (const auto balloon = Balloon()) {
    stats.balloon = {.target_bytes = balloon->target_pages * devices::balloon::kPageSize,
                     .actual_bytes = balloon->actual_pages * devices::balloon::kPageSize,
                     .reported_bytes = balloon->reported_bytes};
  }
  if (const auto pluggable = PluggableMemory()) {
    stats.memory = {.bytes = memory_.boot_size() + pluggable->plugged_bytes,
                    .target_bytes = memory_.boot_size() + pluggable->requested_bytes};
  }
  if (vsock_ != nullptr) {
    const devices::VsockMuxer::Counters counters = vsock_->counters();
    stats.vsock_connections = counters.connections;
    stats.vsock_tx_bytes = counters.tx_bytes;
    stats.vsock_rx_bytes = counters.rx_bytes;
  }
}

}  // namespace embervm::machine
