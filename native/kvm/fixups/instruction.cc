#include "kvm/fixups/instruction.h"

#include <algorithm>

#include "base/bytes.h"

namespace embervm::fixups {

namespace {

constexpr std::size_t kMaxLength = 15;  // SDM volume 2 §2.3.11.

constexpr unsigned kRexW = 8;
constexpr unsigned kRexR = 4;
constexpr unsigned kRexX = 2;
constexpr unsigned kRexB = 1;

constexpr unsigned kModRegister = 3;
constexpr unsigned kRmSib = 4;
constexpr unsigned kRmDisplacement = 5;
constexpr unsigned kSibNoIndex = 4;

class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes)
      : bytes_(bytes.first(std::min(bytes.size(), kMaxLength))) {}

  [[nodiscard]] std::size_t offset() const { return offset_; }

  template <class T>
  std::optional<T> Next() {
    if (bytes_.size() - offset_ < sizeof(T)) return std::nullopt;
    const T value = LoadLe<T>(bytes_, offset_);
    offset_ += sizeof(T);
    return value;
  }

 private:
  std::span<const std::byte> bytes_;
  std::size_t offset_ = 0;
};

// True when `byte` is a legacy prefix.
bool ApplyPrefix(std::uint8_t byte, Instruction& instruction) {
  switch (byte) {
    case 0xf0:
      instruction.lock = true;
      return true;
    case 0xf2:
      instruction.mandatory_prefix = MandatoryPrefix::kF2;
      return true;
    case 0xf3:
      instruction.mandatory_prefix = MandatoryPrefix::kF3;
      return true;
    case 0x66:
      instruction.operand_size_override = true;
      return true;
    case 0x67:
      instruction.address_size_override = true;
      return true;
    case 0x64:
      instruction.segment = Segment::kFs;
      return true;
    case 0x65:
      instruction.segment = Segment::kGs;
      return true;
    // CS, DS, ES and SS have base 0 in 64-bit mode and do not undo FS or GS.
    case 0x26:
    case 0x2e:
    case 0x36:
    case 0x3e:
      return true;
    default:
      return false;
  }
}

// Of the one-byte map, the table has FWAIT and INT3, and the x87 escapes; of
// the others, EMMS is the one without a ModRM byte.
bool HasModrm(const Instruction& instruction) {
  constexpr std::uint8_t kFirstEscape = 0xd8;
  constexpr std::uint8_t kLastEscape = 0xdf;
  constexpr std::uint8_t kEmms = 0x77;
  switch (instruction.map) {
    case OpcodeMap::kOneByte:
      return instruction.opcode >= kFirstEscape && instruction.opcode <= kLastEscape;
    case OpcodeMap::k0f:
      return instruction.opcode != kEmms;
    default:
      return true;
  }
}

bool DecodeOpcode(Reader& reader, std::uint8_t first, Instruction& instruction) {
  instruction.opcode = first;
  if (first != 0x0f) return true;
  instruction.map = OpcodeMap::k0f;
  const auto second = reader.Next<std::uint8_t>();
  if (!second) return false;
  instruction.opcode = *second;
  if (*second != 0x38 && *second != 0x3a) return true;
  instruction.map = *second == 0x38 ? OpcodeMap::k0f38 : OpcodeMap::k0f3a;
  const auto third = reader.Next<std::uint8_t>();
  if (!third) return false;
  instruction.opcode = *third;
  return true;
}

bool DecodeSib(Reader& reader, unsigned rex, unsigned mod, Instruction& instruction,
               bool& displacement32) {
  const auto sib = reader.Next<std::uint8_t>();
  if (!sib) return false;
  const unsigned base = *sib & 7U;
  const unsigned index = ((*sib >> 3U) & 7U) | ((rex & kRexX) != 0 ? 8U : 0U);
  instruction.scale = static_cast<std::uint8_t>(1U << (*sib >> 6U));
  if (index != kSibNoIndex) instruction.index = static_cast<std::uint8_t>(index);
  if (base == kRmDisplacement && mod == 0) {
    displacement32 = true;
  } else {
    instruction.base = static_cast<std::uint8_t>(base | ((rex & kRexB) != 0 ? 8U : 0U));
  }
  return true;
}

// SDM volume 2 §2.1.5 and §2.2.1.
bool DecodeModrm(Reader& reader, unsigned rex, Instruction& instruction) {
  const auto modrm = reader.Next<std::uint8_t>();
  if (!modrm) return false;
  instruction.modrm = *modrm;
  const unsigned mod = *modrm >> 6U;
  const unsigned rm = *modrm & 7U;
  instruction.reg =
      static_cast<std::uint8_t>(instruction.extension() | ((rex & kRexR) != 0 ? 8U : 0U));
  instruction.rm = static_cast<std::uint8_t>(rm | ((rex & kRexB) != 0 ? 8U : 0U));
  if (mod == kModRegister) return true;

  instruction.memory_operand = true;
  bool displacement32 = mod == 2;
  if (rm == kRmSib) {
    if (!DecodeSib(reader, rex, mod, instruction, displacement32)) return false;
  } else if (rm == kRmDisplacement && mod == 0) {
    instruction.rip_relative = true;
    displacement32 = true;
  } else {
    instruction.base = instruction.rm;
  }
  if (displacement32) {
    const auto displacement = reader.Next<std::int32_t>();
    if (!displacement) return false;
    instruction.displacement = *displacement;
  } else if (mod == 1) {
    const auto displacement = reader.Next<std::int8_t>();
    if (!displacement) return false;
    // An 8-bit displacement is sign-extended.
    instruction.displacement = *displacement;  // NOLINT(bugprone-signed-char-misuse,cert-str34-c)
  }
  return true;
}

}  // namespace

std::optional<Instruction> Decode(std::span<const std::byte> bytes) {
  Reader reader(bytes);
  Instruction instruction;
  unsigned rex = 0;
  std::uint8_t byte = 0;
  for (;;) {
    const auto next = reader.Next<std::uint8_t>();
    if (!next) return std::nullopt;
    byte = *next;
    if (ApplyPrefix(byte, instruction)) {
      // A REX prefix counts only right before the opcode.
      rex = 0;
      instruction.rex = false;
    } else if ((byte & 0xf0U) == 0x40) {
      rex = byte & 0xfU;
      instruction.rex = true;
    } else {
      break;
    }
  }
  instruction.rex_w = (rex & kRexW) != 0;
  if (instruction.mandatory_prefix == MandatoryPrefix::kNone && instruction.operand_size_override) {
    instruction.mandatory_prefix = MandatoryPrefix::k66;
  }
  if (!DecodeOpcode(reader, byte, instruction)) return std::nullopt;
  if (HasModrm(instruction) && !DecodeModrm(reader, rex, instruction)) return std::nullopt;
  instruction.length = reader.offset();
  return instruction;
}

}  // namespace embervm::fixups
