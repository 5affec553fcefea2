// Instruction: one decoded 64-bit-mode instruction, as far as the fix-up table
// needs it: none of its instructions has an immediate operand.
#ifndef EMBERVM_KVM_FIXUPS_INSTRUCTION_H_
#define EMBERVM_KVM_FIXUPS_INSTRUCTION_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace embervm::fixups {

// The opcode maps of the SDM, volume 2 appendix A.
enum class OpcodeMap : std::uint8_t { kOneByte, k0f, k0f38, k0f3a };

enum class Segment : std::uint8_t { kDefault, kFs, kGs };

// What selects between instructions that share an opcode. REPNE and REP win
// over the operand-size prefix.
enum class MandatoryPrefix : std::uint8_t { kNone, k66, kF2, kF3 };

struct Instruction {
  std::size_t length = 0;
  OpcodeMap map = OpcodeMap::kOneByte;
  std::uint8_t opcode = 0;

  bool lock = false;
  bool operand_size_override = false;
  bool address_size_override = false;
  // Any REX prefix changes what byte registers 4-7 are.
  bool rex = false;
  bool rex_w = false;
  MandatoryPrefix mandatory_prefix = MandatoryPrefix::kNone;
  Segment segment = Segment::kDefault;

  // Zero where the opcode has none.
  std::uint8_t modrm = 0;
  // Register numbers with their REX bit.
  std::uint8_t reg = 0;
  std::uint8_t rm = 0;
  bool memory_operand = false;
  std::optional<std::uint8_t> base;
  std::optional<std::uint8_t> index;
  std::uint8_t scale = 1;
  bool rip_relative = false;
  std::int32_t displacement = 0;

  // The ModRM.reg field as an opcode extension: REX.R does not count.
  [[nodiscard]] unsigned extension() const { return (modrm >> 3U) & 7U; }
};

// At most 15 bytes are looked at. Nothing when they are too few, or are not an
// instruction that 64-bit mode has.
std::optional<Instruction> Decode(std::span<const std::byte> bytes);

}  // namespace embervm::fixups

#endif  // EMBERVM_KVM_FIXUPS_INSTRUCTION_H_
