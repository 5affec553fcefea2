// The fix-up table: which encodings are emulated, under which names.
#ifndef EMBERVM_KVM_FIXUPS_TABLE_H_
#define EMBERVM_KVM_FIXUPS_TABLE_H_

#include <cstddef>
#include <optional>
#include <span>
#include <string_view>

#include "kvm/fixups/context.h"
#include "kvm/fixups/instruction.h"

namespace embervm::fixups {

enum class Operand : std::uint8_t {
  // The opcode has no ModRM byte.
  kNone,
  // ModRM must name memory; its reg field is an operand.
  kMemory,
  kAny,
  // The reg field is part of the opcode.
  kMemoryExtension,
  kAnyExtension,
  // The whole ModRM byte is part of the opcode.
  kExact,
};

struct Entry {
  std::string_view mnemonic;
  Handler handler;
  OpcodeMap map;
  std::uint8_t opcode;
  Operand operand;
  // Of kMemoryExtension, kAnyExtension: the reg field; of kExact: the byte.
  std::uint8_t modrm = 0;
  // Absent: any.
  std::optional<MandatoryPrefix> prefix;
  std::optional<bool> rex_w;
  bool lockable = false;
};

std::span<const Entry> Table();

// The entry's place in Table(), or nothing.
std::optional<std::size_t> FindEntry(const Instruction& instruction);

}  // namespace embervm::fixups

#endif  // EMBERVM_KVM_FIXUPS_TABLE_H_
