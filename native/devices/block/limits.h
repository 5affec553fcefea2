// What our block device lets a driver ask for at once.
#ifndef EMBERVM_DEVICES_BLOCK_LIMITS_H_
#define EMBERVM_DEVICES_BLOCK_LIMITS_H_

#include <cstdint>

namespace embervm::devices::block {

inline constexpr std::uint16_t kQueueSize = 256;
// A chain has the header and the status besides its data.
inline constexpr std::uint32_t kMaxSegments = kQueueSize - 2;

// 2 GiB: punching holes costs the host by extent, not by byte.
inline constexpr std::uint32_t kMaxDiscardSectors = 4 * 1024 * 1024;
inline constexpr std::uint32_t kMaxDiscardSegments = 16;
inline constexpr std::uint32_t kDiscardAlignmentSectors = 8;
// 16 MiB: on a file system that cannot zero a range, each byte is written.
inline constexpr std::uint32_t kMaxWriteZeroesSectors = 32 * 1024;
inline constexpr std::uint32_t kMaxWriteZeroesSegments = 1;

}  // namespace embervm::devices::block

#endif  // EMBERVM_DEVICES_BLOCK_LIMITS_H_
