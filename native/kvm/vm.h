// KvmVm: one virtual machine's descriptor: memory slots, interrupt controllers,
// event descriptors. It does not need the Kvm that made it any more.
#ifndef EMBERVM_KVM_VM_H_
#define EMBERVM_KVM_VM_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "kvm/abi.h"
#include "kvm/vcpu.h"
#include "memory/guest_memory.h"

namespace embervm {

class KvmVm {
 public:
  // Where an ioeventfd listens.
  struct IoEvent {
    GuestAddr addr;
    // 1, 2, 4, 8, or 0 for a write of any length.
    std::uint32_t length;
    // Only a write of this value; absent: of any.
    std::optional<std::uint64_t> datamatch;
  };

  KvmVm(UniqueFd fd, std::size_t vcpu_mmap_size)
      : fd_(std::move(fd)), vcpu_mmap_size_(vcpu_mmap_size) {}

  [[nodiscard]] int fd() const { return fd_.get(); }
  // KVM_CHECK_EXTENSION on the VM.
  [[nodiscard]] int Capability(int cap) const;
  Result<> EnableCapability(std::uint32_t cap, std::uint64_t argument);

  // Three pages of guest physical space that Intel hosts need for real mode;
  // must be outside every memory slot. Before the first vCPU.
  Result<> SetTssAddress(GuestAddr addr);
  // In-kernel PIC, IOAPIC and, per vCPU, LAPIC. Before the first vCPU.
  Result<> CreateIrqchip();
  // In-kernel 8254; its speaker port reads as dummy. After CreateIrqchip().
  Result<> CreatePit();

  // Makes the guest's RAM the slots 0..n-1. `memory` must outlive this VM.
  Result<> SetMemory(const GuestMemory& memory);
  // Maps `bytes` (page aligned, outlives the slot) read-only at `addr`: reads
  // cost no exit, writes exit as MMIO. Uses the next free slot number.
  Result<std::uint32_t> AddReadOnlySlot(GuestAddr addr, std::span<std::byte> bytes);
  Result<> RemoveSlot(std::uint32_t slot);

  // `fd` is an eventfd that stays the caller's. Remove names the same event.
  Result<> AddIoEventFd(const IoEvent& event, int fd);
  Result<> RemoveIoEventFd(const IoEvent& event, int fd);
  // A write to `fd` pulses the edge-triggered line `gsi`.
  Result<> AddIrqFd(std::uint32_t gsi, int fd);
  Result<> RemoveIrqFd(std::uint32_t gsi, int fd);
  Result<> SetIrqLine(std::uint32_t gsi, bool level);

  // KVM_KVMCLOCK_CTRL is per vCPU; this is the VM's clock.
  Result<kvm_clock_data> GetClock() const;
  Result<> SetClock(const kvm_clock_data& clock);
  Result<kvm_pit_state2> GetPit() const;
  Result<> SetPit(const kvm_pit_state2& state);
  // `chip_id` is KVM_IRQCHIP_PIC_MASTER, _PIC_SLAVE or _IOAPIC.
  Result<kvm_irqchip> GetIrqchip(std::uint32_t chip_id) const;
  Result<> SetIrqchip(const kvm_irqchip& chip);

  Result<KvmVcpu> CreateVcpu(std::uint32_t index);

 private:
  Result<> SetIoEventFd(const IoEvent& event, int fd, std::uint32_t flags);
  Result<> SetIrqFd(std::uint32_t gsi, int fd, std::uint32_t flags);
  Result<std::uint32_t> AddSlot(GuestAddr addr, std::span<std::byte> bytes, std::uint32_t flags);

  UniqueFd fd_;
  std::size_t vcpu_mmap_size_;
  // Slot numbers that RemoveSlot() gave back, then the next new one.
  std::vector<std::uint32_t> free_slots_;
  std::uint32_t next_slot_ = 0;
};

}  // namespace embervm

#endif  // EMBERVM_KVM_VM_H_
