// Context: everything one emulated instruction works on. Handlers change `regs`
// and guest memory; Fixups commits the registers, or drops them on a fault.
#ifndef EMBERVM_KVM_FIXUPS_CONTEXT_H_
#define EMBERVM_KVM_FIXUPS_CONTEXT_H_

#include <cstdint>
#include <optional>

#include "kvm/abi.h"
#include "kvm/fixups/address_space.h"
#include "kvm/fixups/instruction.h"
#include "kvm/vcpu.h"

namespace embervm::fixups {

inline constexpr std::uint64_t kCr0Mp = 1U << 1U;
inline constexpr std::uint64_t kCr0Em = 1U << 2U;
inline constexpr std::uint64_t kCr0Ts = 1U << 3U;
inline constexpr std::uint64_t kCr4OsFxsr = 1U << 9U;
inline constexpr std::uint64_t kCr4OsXsave = 1U << 18U;

inline constexpr std::uint64_t kFlagCarry = 1U << 0U;
inline constexpr std::uint64_t kFlagParity = 1U << 2U;
inline constexpr std::uint64_t kFlagAdjust = 1U << 4U;
inline constexpr std::uint64_t kFlagZero = 1U << 6U;
inline constexpr std::uint64_t kFlagSign = 1U << 7U;
inline constexpr std::uint64_t kFlagOverflow = 1U << 11U;
inline constexpr std::uint64_t kFlagAlignment = 1U << 18U;

struct Context {
  KvmVcpu& vcpu;
  const Instruction& instruction;
  kvm_regs regs;
  kvm_sregs& sregs;
  const AddressSpace& memory;
  // A trap to raise behind the instruction.
  std::optional<std::uint8_t> trap;

  // General registers by their encoding: 0 rax, 1 rcx, … 15 r15.
  [[nodiscard]] std::uint64_t Register(unsigned number) const;
  // A 4-byte write clears the upper half; a 2-byte write keeps the rest.
  void SetRegister(unsigned number, unsigned size, std::uint64_t value);

  // 2, 4 or 8, by the prefixes.
  [[nodiscard]] unsigned OperandSize() const;
  // The linear address of the memory operand.
  [[nodiscard]] std::uint64_t OperandAddress() const;
  // The r/m operand, zero-extended from `size` bytes.
  [[nodiscard]] Step<std::uint64_t> LoadRm(unsigned size) const;

  void SetFlag(std::uint64_t flag, bool value) {
    regs.rflags = value ? regs.rflags | flag : regs.rflags & ~flag;
  }
};

inline Stop MakeFault(std::uint8_t vector) {
  return Stop(Fault{vector, std::nullopt, std::nullopt});
}
// #GP with error code 0.
inline Stop ProtectionFault() { return Stop(Fault{kGeneralProtection, 0, std::nullopt}); }

// Turns the error of a KVM call into the end of the instruction.
template <class T>
Step<T> FromResult(Result<T> result) {
  if (!result) return std::unexpected(Stop(std::move(result).error()));
  if constexpr (std::is_void_v<T>) {
    return {};
  } else {
    return std::move(result).value();
  }
}

using Handler = Step<> (*)(Context&);

// Returns the Stop of a Step to the caller.
#define EMBERVM_STEP(expression)                                       \
  do {                                                                 \
    if (auto&& step_result = (expression); !step_result.has_value()) { \
      return std::unexpected(std::move(step_result).error());          \
    }                                                                  \
  } while (false)

}  // namespace embervm::fixups

#endif  // EMBERVM_KVM_FIXUPS_CONTEXT_H_
