#include "kvm/fixups/table.h"

#include <algorithm>
#include <array>

#include "kvm/fixups/handlers.h"

namespace embervm::fixups {

namespace {

using enum Operand;

constexpr auto kOneByte = OpcodeMap::kOneByte;
constexpr auto k0f = OpcodeMap::k0f;
constexpr auto k0f38 = OpcodeMap::k0f38;
constexpr auto kPlain = MandatoryPrefix::kNone;

// Opcodes from the SDM, volume 2. Instructions that KVM does emulate are not
// here: it would never ask.
constexpr std::array kTable = {
    Entry{"cmpxchg16b", Cmpxchg16b, k0f, 0xc7, kMemoryExtension, 1, {}, true, true},
    Entry{"popcnt", Popcnt, k0f, 0xb8, kAny, 0, MandatoryPrefix::kF3, {}},
    Entry{"stac", Stac, k0f, 0x01, kExact, 0xcb, kPlain, {}},
    Entry{"clac", Clac, k0f, 0x01, kExact, 0xca, kPlain, {}},
    Entry{"int3", Int3, kOneByte, 0xcc, kNone, 0, {}, {}},
    Entry{"xsave", Xsave, k0f, 0xae, kMemoryExtension, 4, kPlain, false},
    Entry{"xsave64", Xsave, k0f, 0xae, kMemoryExtension, 4, kPlain, true},
    Entry{"xrstor", Xrstor, k0f, 0xae, kMemoryExtension, 5, kPlain, false},
    Entry{"xrstor64", Xrstor, k0f, 0xae, kMemoryExtension, 5, kPlain, true},
    Entry{"xsaveopt", Xsaveopt, k0f, 0xae, kMemoryExtension, 6, kPlain, false},
    Entry{"xsaveopt64", Xsaveopt, k0f, 0xae, kMemoryExtension, 6, kPlain, true},
    Entry{"xgetbv", Xgetbv, k0f, 0x01, kExact, 0xd0, kPlain, {}},
    Entry{"fwait", Fwait, kOneByte, 0x9b, kNone, 0, {}, {}},
    Entry{"fnclex", Fnclex, kOneByte, 0xdb, kExact, 0xe2, {}, {}},
    Entry{"fnstsw", FnstswAx, kOneByte, 0xdf, kExact, 0xe0, {}, {}},
    Entry{"fldcw", Fldcw, kOneByte, 0xd9, kMemoryExtension, 5, {}, {}},
    Entry{"fild", Fild32, kOneByte, 0xdb, kMemoryExtension, 0, {}, {}},
    Entry{"emms", Emms, k0f, 0x77, kNone, 0, kPlain, {}},
    Entry{"ldmxcsr", Ldmxcsr, k0f, 0xae, kMemoryExtension, 2, kPlain, {}},
    Entry{"stmxcsr", Stmxcsr, k0f, 0xae, kMemoryExtension, 3, kPlain, {}},
    Entry{"clwb", Clwb, k0f, 0xae, kMemoryExtension, 6, MandatoryPrefix::k66, {}},
    Entry{"rdtscp", Rdtscp, k0f, 0x01, kExact, 0xf9, {}, {}},
    Entry{"monitor", Nothing, k0f, 0x01, kExact, 0xc8, kPlain, {}},
    Entry{"mwait", Nothing, k0f, 0x01, kExact, 0xc9, kPlain, {}},
    Entry{"verr", Verr, k0f, 0x00, kAnyExtension, 4, {}, {}},
    Entry{"verw", Verw, k0f, 0x00, kAnyExtension, 5, {}, {}},
    Entry{"lar", Lar, k0f, 0x02, kAny, 0, {}, {}},
    Entry{"lsl", Lsl, k0f, 0x03, kAny, 0, {}, {}},
    Entry{"invpcid", Invpcid, k0f38, 0x82, kMemory, 0, MandatoryPrefix::k66, {}},
    Entry{"crc32", Crc32, k0f38, 0xf0, kAny, 0, MandatoryPrefix::kF2, {}},
    Entry{"crc32", Crc32, k0f38, 0xf1, kAny, 0, MandatoryPrefix::kF2, {}},
};

bool OperandMatches(const Entry& entry, const Instruction& instruction) {
  switch (entry.operand) {
    case kNone:
    case kAny:
      return true;
    case kMemory:
      return instruction.memory_operand;
    case kMemoryExtension:
      return instruction.memory_operand && instruction.extension() == entry.modrm;
    case kAnyExtension:
      return instruction.extension() == entry.modrm;
    case kExact:
      return instruction.modrm == entry.modrm;
  }
  return false;
}

bool Matches(const Entry& entry, const Instruction& instruction) {
  return entry.map == instruction.map && entry.opcode == instruction.opcode &&
         (!entry.prefix || *entry.prefix == instruction.mandatory_prefix) &&
         (!entry.rex_w || *entry.rex_w == instruction.rex_w) && OperandMatches(entry, instruction);
}

}  // namespace

std::span<const Entry> Table() { return kTable; }

std::optional<std::size_t> FindEntry(const Instruction& instruction) {
  const auto entry = std::ranges::find_if(
      kTable, [&](const Entry& candidate) { return Matches(candidate, instruction); });
  if (entry == kTable.end()) return std::nullopt;
  return static_cast<std::size_t>(entry - kTable.begin());
}

}  // namespace embervm::fixups
