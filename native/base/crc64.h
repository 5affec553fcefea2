// CRC-64/XZ: tells a damaged file from a whole one. No protection against somebody
// who damages it on purpose.
#ifndef EMBERVM_BASE_CRC64_H_
#define EMBERVM_BASE_CRC64_H_

#include <cstddef>
#include <cstdint>
#include <span>

namespace embervm {

[[nodiscard]] std::uint64_t Crc64(std::span<const std::byte> bytes);

}  // namespace embervm

#endif  // EMBERVM_BASE_CRC64_H_
