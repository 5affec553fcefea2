// MicroGuest: a few bytes of code in real long mode at CPL0 on the host's KVM,
// with page tables the test can edit and an IDT that reports every exception.
#ifndef EMBERVM_TEST_KVM_MICRO_GUEST_H_
#define EMBERVM_TEST_KVM_MICRO_GUEST_H_

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "kvm/fixups/fixups.h"
#include "kvm/kvm.h"
#include "kvm/vcpu.h"
#include "kvm/vm.h"
#include "memory/guest_memory.h"

namespace embervm::test {

// Prints why and returns false where the host's KVM does not open.
bool HaveKvm();

// How a run of guest code ended.
struct Outcome {
  enum class Kind { kHalted, kException, kEmulationFailure, kOther };
  Kind kind = Kind::kOther;
  // Of an exception:
  unsigned vector = 0;
  std::uint64_t error_code = 0;
  std::uint64_t fault_rip = 0;
  std::uint64_t cr2 = 0;
  // Of an emulation failure that nothing handled, and of kOther.
  std::string detail;
};

class MicroGuest {
 public:
  static constexpr GuestAddr kCode = 0x10000;
  static constexpr GuestAddr kStack = 0x1f000;
  // Free for operands; every 4 KiB page of the first 2 MiB is mapped on its own.
  static constexpr GuestAddr kData = 0x40000;
  static constexpr std::uint64_t kPage = 4096;

  enum PageFlags : std::uint64_t {
    kPresent = 1U << 0U,
    kWritable = 1U << 1U,
    kUser = 1U << 2U,
    kAccessed = 1U << 5U,
    kDirty = 1U << 6U,
    kNoExecute = std::uint64_t{1} << 63U,
  };

  explicit MicroGuest(bool with_fixups = true);

  GuestMemory& memory() { return *memory_; }
  KvmVcpu& vcpu() { return *vcpu_; }
  KvmVm& vm() { return *vm_; }
  Fixups* fixups() { return fixups_.get(); }

  // Registers as they are before the code runs; rip and rsp are set by Run().
  kvm_regs regs{};
  // And after.
  kvm_regs after{};

  // Changes control registers and segments before the next Run().
  template <class Edit>
  void EditSregs(Edit edit) {
    auto sregs = vcpu_->GetSregs();
    edit(*sregs);
    (void)vcpu_->SetSregs(*sregs);
  }

  // Maps the page of `addr` with these flags (0: not present).
  void MapPage(GuestAddr addr, std::uint64_t flags);
  void MapPageTo(GuestAddr virtual_address, GuestAddr physical, std::uint64_t flags);
  [[nodiscard]] std::uint64_t PageEntry(GuestAddr addr) const;

  // Places `code` and a final HLT, and runs until it ends. With `at` the code
  // starts there instead of at kCode.
  Outcome Run(std::span<const std::uint8_t> code, GuestAddr at = kCode);
  Outcome Run(std::initializer_list<std::uint8_t> code, GuestAddr at = kCode) {
    return Run(std::span(code.begin(), code.size()), at);
  }

  template <class T>
  void Put(GuestAddr addr, const T& value) {
    (void)memory_->Write(addr, std::as_bytes(std::span<const T, 1>(&value, 1)));
  }
  template <class T>
  [[nodiscard]] T Get(GuestAddr addr) const {
    T value{};
    (void)memory_->Read(addr, std::as_writable_bytes(std::span<T, 1>(&value, 1)));
    return value;
  }
  // How often `mnemonic` was fixed up.
  [[nodiscard]] std::uint64_t Count(std::string_view mnemonic) const;
  // The same, for instructions that hardware executes: true when this host kind
  // has counted exactly `times`.
  [[nodiscard]] bool Counted(std::string_view mnemonic, std::uint64_t times) const;

 private:
  void BuildTables();
  void EnterLongMode();
  Outcome Loop();

  std::optional<GuestMemory> memory_;
  std::optional<KvmVm> vm_;
  std::optional<KvmVcpu> vcpu_;
  std::unique_ptr<Fixups> fixups_;
};

}  // namespace embervm::test

#endif  // EMBERVM_TEST_KVM_MICRO_GUEST_H_
