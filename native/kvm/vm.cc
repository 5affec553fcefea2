#include "kvm/vm.h"

#include <sys/mman.h>

#include <string>
#include <utility>

#include "base/mapping.h"
#include "kvm/ioctl.h"

namespace embervm {

namespace {

std::uint64_t HostAddress(std::span<std::byte> bytes) {
  return static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(bytes.data()));
}

}  // namespace

int KvmVm::Capability(int cap) const {
  return KvmIoctl(fd(), KVM_CHECK_EXTENSION, "KVM_CHECK_EXTENSION", static_cast<unsigned long>(cap))
      .value_or(0);
}

Result<> KvmVm::EnableCapability(std::uint32_t cap, std::uint64_t argument) {
  kvm_enable_cap enable{};
  enable.cap = cap;
  enable.args[0] = argument;
  EMBERVM_TRY(KvmIoctl(fd(), KVM_ENABLE_CAP, "KVM_ENABLE_CAP", &enable));
  return {};
}

Result<> KvmVm::SetTssAddress(GuestAddr addr) {
  EMBERVM_TRY(KvmIoctl(fd(), KVM_SET_TSS_ADDR, "KVM_SET_TSS_ADDR", addr));
  return {};
}

Result<> KvmVm::CreateIrqchip() {
  EMBERVM_TRY(KvmIoctl(fd(), KVM_CREATE_IRQCHIP, "KVM_CREATE_IRQCHIP"));
  return {};
}

Result<> KvmVm::CreatePit() {
  kvm_pit_config config{};
  config.flags = KVM_PIT_SPEAKER_DUMMY;
  EMBERVM_TRY(KvmIoctl(fd(), KVM_CREATE_PIT2, "KVM_CREATE_PIT2", &config));
  return {};
}

Result<std::uint32_t> KvmVm::AddSlot(GuestAddr addr, std::span<std::byte> bytes,
                                     std::uint32_t flags) {
  const bool reuse = !free_slots_.empty();
  kvm_userspace_memory_region region{};
  region.slot = reuse ? free_slots_.back() : next_slot_;
  region.flags = flags;
  region.guest_phys_addr = addr;
  region.memory_size = bytes.size();
  region.userspace_addr = HostAddress(bytes);
  EMBERVM_TRY(KvmIoctl(fd(), KVM_SET_USER_MEMORY_REGION, "KVM_SET_USER_MEMORY_REGION", &region));
  if (reuse) {
    free_slots_.pop_back();
  } else {
    ++next_slot_;
  }
  return region.slot;
}

Result<> KvmVm::SetMemory(const GuestMemory& memory) {
  for (const GuestMemory::Region& region : memory.regions()) {
    EMBERVM_TRY(AddSlot(region.base, std::span(region.host, region.size), 0));
  }
  return {};
}

Result<std::uint32_t> KvmVm::AddReadOnlySlot(GuestAddr addr, std::span<std::byte> bytes) {
  return AddSlot(addr, bytes, KVM_MEM_READONLY);
}

Result<> KvmVm::RemoveSlot(std::uint32_t slot) {
  kvm_userspace_memory_region region{};
  region.slot = slot;
  // A size of 0 deletes the slot.
  EMBERVM_TRY(KvmIoctl(fd(), KVM_SET_USER_MEMORY_REGION, "KVM_SET_USER_MEMORY_REGION", &region));
  free_slots_.push_back(slot);
  return {};
}

Result<> KvmVm::SetIoEventFd(const IoEvent& event, int fd, std::uint32_t flags) {
  kvm_ioeventfd request{};
  request.addr = event.addr;
  request.len = event.length;
  request.fd = fd;
  request.flags = flags;
  if (event.datamatch) {
    request.datamatch = *event.datamatch;
    request.flags |= KVM_IOEVENTFD_FLAG_DATAMATCH;
  }
  EMBERVM_TRY(KvmIoctl(this->fd(), KVM_IOEVENTFD, "KVM_IOEVENTFD", &request));
  return {};
}

Result<> KvmVm::AddIoEventFd(const IoEvent& event, int fd) { return SetIoEventFd(event, fd, 0); }

Result<> KvmVm::RemoveIoEventFd(const IoEvent& event, int fd) {
  return SetIoEventFd(event, fd, KVM_IOEVENTFD_FLAG_DEASSIGN);
}

Result<> KvmVm::SetIrqFd(std::uint32_t gsi, int fd, std::uint32_t flags) {
  kvm_irqfd request{};
  request.fd = static_cast<std::uint32_t>(fd);
  request.gsi = gsi;
  request.flags = flags;
  EMBERVM_TRY(KvmIoctl(this->fd(), KVM_IRQFD, "KVM_IRQFD", &request));
  return {};
}

Result<> KvmVm::AddIrqFd(std::uint32_t gsi, int fd) { return SetIrqFd(gsi, fd, 0); }

Result<> KvmVm::RemoveIrqFd(std::uint32_t gsi, int fd) {
  return SetIrqFd(gsi, fd, KVM_IRQFD_FLAG_DEASSIGN);
}

Result<> KvmVm::SetIrqLine(std::uint32_t gsi, bool level) {
  kvm_irq_level request{};
  request.irq = gsi;
  request.level = level ? 1 : 0;
  EMBERVM_TRY(KvmIoctl(fd(), KVM_IRQ_LINE, "KVM_IRQ_LINE", &request));
  return {};
}

Result<kvm_clock_data> KvmVm::GetClock() const {
  kvm_clock_data clock{};
  EMBERVM_TRY(KvmIoctl(fd(), KVM_GET_CLOCK, "KVM_GET_CLOCK", &clock));
  return clock;
}

Result<> KvmVm::SetClock(const kvm_clock_data& clock) {
  EMBERVM_TRY(KvmIoctl(fd(), KVM_SET_CLOCK, "KVM_SET_CLOCK", &clock));
  return {};
}

Result<kvm_pit_state2> KvmVm::GetPit() const {
  kvm_pit_state2 state{};
  EMBERVM_TRY(KvmIoctl(fd(), KVM_GET_PIT2, "KVM_GET_PIT2", &state));
  return state;
}

Result<> KvmVm::SetPit(const kvm_pit_state2& state) {
  EMBERVM_TRY(KvmIoctl(fd(), KVM_SET_PIT2, "KVM_SET_PIT2", &state));
  return {};
}

Result<kvm_irqchip> KvmVm::GetIrqchip(std::uint32_t chip_id) const {
  kvm_irqchip chip{};
  chip.chip_id = chip_id;
  EMBERVM_TRY(KvmIoctl(fd(), KVM_GET_IRQCHIP, "KVM_GET_IRQCHIP", &chip));
  return chip;
}

Result<> KvmVm::SetIrqchip(const kvm_irqchip& chip) {
  EMBERVM_TRY(KvmIoctl(fd(), KVM_SET_IRQCHIP, "KVM_SET_IRQCHIP", &chip));
  return {};
}

Result<KvmVcpu> KvmVm::CreateVcpu(std::uint32_t index) {
  EMBERVM_TRY_ASSIGN(const int number, KvmIoctl(fd(), KVM_CREATE_VCPU, "KVM_CREATE_VCPU", index));
  UniqueFd vcpu(number);
  EMBERVM_TRY_ASSIGN(
      Mapping run, Mapping::Create(vcpu_mmap_size_, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu.get(),
                                   0, "vCPU " + std::to_string(index)));
  return KvmVcpu(std::move(vcpu), std::move(run), index);
}

}  // namespace embervm
