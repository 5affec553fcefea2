#include "kvm/fixups/context.h"

#include <array>

namespace embervm::fixups {

namespace {

constexpr std::array kRegisters = {
    &kvm_regs::rax, &kvm_regs::rcx, &kvm_regs::rdx, &kvm_regs::rbx, &kvm_regs::rsp, &kvm_regs::rbp,
    &kvm_regs::rsi, &kvm_regs::rdi, &kvm_regs::r8,  &kvm_regs::r9,  &kvm_regs::r10, &kvm_regs::r11,
    &kvm_regs::r12, &kvm_regs::r13, &kvm_regs::r14, &kvm_regs::r15,
};

constexpr std::uint64_t kLow16 = 0xffff;
constexpr std::uint64_t kLow32 = 0xffff'ffff;

constexpr unsigned kBitsPerByte = 8;

std::uint64_t Truncate(std::uint64_t value, unsigned size) {
  return size >= sizeof(value) ? value : value & ((std::uint64_t{1} << (size * kBitsPerByte)) - 1);
}

}  // namespace

std::uint64_t Context::Register(unsigned number) const { return regs.*kRegisters.at(number); }

void Context::SetRegister(unsigned number, unsigned size, std::uint64_t value) {
  auto& target = regs.*kRegisters.at(number);
  if (size == sizeof(std::uint16_t)) {
    target = (target & ~kLow16) | (value & kLow16);
  } else {
    target = Truncate(value, size);
  }
}

unsigned Context::OperandSize() const {
  if (instruction.rex_w) return sizeof(std::uint64_t);
  return instruction.operand_size_override ? sizeof(std::uint16_t) : sizeof(std::uint32_t);
}

std::uint64_t Context::OperandAddress() const {
  auto addr = static_cast<std::uint64_t>(std::int64_t{instruction.displacement});
  if (instruction.rip_relative) addr += regs.rip + instruction.length;
  if (instruction.base) addr += Register(*instruction.base);
  if (instruction.index) addr += Register(*instruction.index) * instruction.scale;
  if (instruction.address_size_override) addr &= kLow32;
  if (instruction.segment == Segment::kFs) addr += sregs.fs.base;
  if (instruction.segment == Segment::kGs) addr += sregs.gs.base;
  return addr;
}

Step<std::uint64_t> Context::LoadRm(unsigned size) const {
  if (!instruction.memory_operand) return Truncate(Register(instruction.rm), size);
  std::uint64_t value = 0;
  const auto bytes = std::as_writable_bytes(std::span<std::uint64_t, 1>(&value, 1)).first(size);
  if (auto read = memory.Read(OperandAddress(), bytes); !read) {
    return std::unexpected(std::move(read).error());
  }
  return value;
}

}  // namespace embervm::fixups
