// Integer instructions that KVM's emulator lacks.
#include <array>
#include <bit>
#include <cstring>

#include "kvm/fixups/handlers.h"

namespace embervm::fixups {

namespace {

constexpr unsigned kBitsPerByte = 8;

struct alignas(16) Word128 {
  std::uint64_t low;
  std::uint64_t high;
};

// Other vCPUs see the operand while they run, so this must be one atomic
// operation. Returns whether it stored; `expected` becomes what was there.
bool CompareExchange(Word128& target, Word128& expected, const Word128& desired) {
  bool stored = false;  // NOLINT(misc-const-correctness): the instruction writes it.
  // The compilers' builtins call a library that may take a lock instead.
  // NOLINTNEXTLINE(hicpp-no-assembler)
  asm volatile("lock cmpxchg16b %1"
               : "=@ccz"(stored), "+m"(target), "+a"(expected.low), "+d"(expected.high)
               : "b"(desired.low), "c"(desired.high)
               : "memory");
  return stored;
}

// CRC-32C (Castagnoli), bit-reflected, as SDM volume 2 has it for CRC32.
std::uint32_t Crc32c(std::uint32_t crc, std::uint64_t data, unsigned bytes) {
  constexpr std::uint32_t kPolynomial = 0x82f63b78;
  for (unsigned i = 0; i < bytes; ++i) {
    crc ^= static_cast<std::uint32_t>(data >> (i * kBitsPerByte)) & 0xffU;
    for (unsigned bit = 0; bit < kBitsPerByte; ++bit) {
      crc = (crc >> 1U) ^ ((crc & 1U) != 0 ? kPolynomial : 0);
    }
  }
  return crc;
}

}  // namespace

Step<> Popcnt(Context& context) {
  const unsigned size = context.OperandSize();
  auto source = context.LoadRm(size);
  EMBERVM_STEP(source);
  context.SetRegister(context.instruction.reg, size,
                      static_cast<std::uint64_t>(std::popcount(*source)));
  constexpr std::uint64_t kCleared =
      kFlagCarry | kFlagParity | kFlagAdjust | kFlagSign | kFlagOverflow;
  context.SetFlag(kCleared, false);
  context.SetFlag(kFlagZero, *source == 0);
  return {};
}

Step<> Cmpxchg16b(Context& context) {
  const std::uint64_t addr = context.OperandAddress();
  if (addr % sizeof(Word128) != 0) return std::unexpected(ProtectionFault());
  // It is a store even when the comparison fails.
  auto pieces = context.memory.Map(addr, sizeof(Word128), Access::kWrite);
  EMBERVM_STEP(pieces);
  // Aligned in the guest is aligned here, and in one piece: RAM is made of pages.
  auto& target = *reinterpret_cast<Word128*>(pieces->front().data());
  Word128 expected{.low = context.regs.rax, .high = context.regs.rdx};
  const Word128 desired{.low = context.regs.rbx, .high = context.regs.rcx};
  const bool stored = CompareExchange(target, expected, desired);
  context.SetFlag(kFlagZero, stored);
  context.regs.rax = expected.low;
  context.regs.rdx = expected.high;
  return {};
}

Step<> Crc32(Context& context) {
  const Instruction& instruction = context.instruction;
  const bool byte_source = (instruction.opcode & 1U) == 0;
  const unsigned size = byte_source ? 1 : context.OperandSize();
  std::uint64_t data = 0;
  // Without REX, byte registers 4-7 are AH, CH, DH and BH.
  if (byte_source && !instruction.memory_operand && !instruction.rex && instruction.rm >= 4) {
    data = context.Register(instruction.rm - 4U) >> kBitsPerByte;
  } else {
    auto source = context.LoadRm(size);
    EMBERVM_STEP(source);
    data = *source;
  }
  const auto crc = static_cast<std::uint32_t>(context.Register(instruction.reg));
  context.SetRegister(instruction.reg, sizeof(std::uint32_t), Crc32c(crc, data, size));
  return {};
}

}  // namespace embervm::fixups
