// AddressSpace: the guest's linear memory as supervisor code sees it at one
// instruction. It walks the guest's own page tables, because KVM_TRANSLATE does
// not say whether a page may be written: without that, a store to a page that
// is shared copy-on-write would reach every process that shares it.
#ifndef EMBERVM_KVM_FIXUPS_ADDRESS_SPACE_H_
#define EMBERVM_KVM_FIXUPS_ADDRESS_SPACE_H_

#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/result.h"
#include "kvm/abi.h"
#include "memory/guest_memory.h"

namespace embervm::fixups {

// An exception that the guest must see.
struct Fault {
  std::uint8_t vector = 0;
  std::optional<std::uint32_t> error_code;
  // The new CR2, of a page fault.
  std::optional<std::uint64_t> address;
};

inline constexpr std::uint8_t kBreakpoint = 3;
inline constexpr std::uint8_t kInvalidOpcode = 6;
inline constexpr std::uint8_t kDeviceNotAvailable = 7;
inline constexpr std::uint8_t kStackFault = 12;
inline constexpr std::uint8_t kGeneralProtection = 13;
inline constexpr std::uint8_t kPageFault = 14;
inline constexpr std::uint8_t kMathFault = 16;

// An instruction stops with a fault of the guest's, or with an error when only
// giving up is left (an operand that is not RAM, a KVM call that failed).
struct Stop {
  explicit Stop(const Fault& the_fault) : fault(the_fault) {}
  explicit Stop(Error the_error) : error(std::make_unique<Error>(std::move(the_error))) {}

  Fault fault{};
  // Null: `fault` says what happened.
  std::unique_ptr<Error> error;
};
template <class T = void>
using Step = std::expected<T, Stop>;

enum class Access : std::uint8_t { kRead, kWrite, kFetch };

class AddressSpace {
 public:
  AddressSpace(const GuestMemory& memory, const kvm_sregs& sregs, std::uint64_t rflags)
      : memory_(memory), sregs_(sregs), rflags_(rflags) {}

  // The host views of [linear, linear + length), one piece per page that it
  // touches. Sets the accessed and dirty bits as the processor would.
  [[nodiscard]] Step<std::vector<std::span<std::byte>>> Map(std::uint64_t linear,
                                                            std::size_t length,
                                                            Access access) const;

  [[nodiscard]] Step<> Read(std::uint64_t linear, std::span<std::byte> bytes) const;
  [[nodiscard]] Step<> Write(std::uint64_t linear, std::span<const std::byte> bytes) const;
  template <class T>
  [[nodiscard]] Step<T> Load(std::uint64_t linear) const {
    T value{};
    if (auto read = Read(linear, std::as_writable_bytes(std::span<T, 1>(&value, 1))); !read) {
      return std::unexpected(std::move(read).error());
    }
    return value;
  }

  // As many bytes of code at `linear` as are mapped, at most `bytes.size()`.
  std::size_t Fetch(std::uint64_t linear, std::span<std::byte> bytes) const;

  [[nodiscard]] bool IsCanonical(std::uint64_t linear) const;
  // The guest physical address behind `linear`.
  [[nodiscard]] Step<GuestAddr> Translate(std::uint64_t linear, Access access) const;

 private:
  struct Walk;
  [[nodiscard]] Stop PageFaultAt(std::uint64_t linear, Access access, bool present,
                                 bool reserved = false) const;
  [[nodiscard]] Step<> CheckLeaf(const Walk& walk) const;

  const GuestMemory& memory_;
  const kvm_sregs& sregs_;
  std::uint64_t rflags_;
};

}  // namespace embervm::fixups

#endif  // EMBERVM_KVM_FIXUPS_ADDRESS_SPACE_H_
