// virtio-blk on the wire (virtio 1.2 §5.2).
#ifndef EMBERVM_DEVICES_BLOCK_PROTOCOL_H_
#define EMBERVM_DEVICES_BLOCK_PROTOCOL_H_

#include <cstddef>
#include <cstdint>

namespace embervm::devices::block {

inline constexpr std::uint64_t kFeatureSegMax = std::uint64_t{1} << 2;
inline constexpr std::uint64_t kFeatureReadOnly = std::uint64_t{1} << 5;
inline constexpr std::uint64_t kFeatureBlockSize = std::uint64_t{1} << 6;
inline constexpr std::uint64_t kFeatureFlush = std::uint64_t{1} << 9;
inline constexpr std::uint64_t kFeatureDiscard = std::uint64_t{1} << 13;
inline constexpr std::uint64_t kFeatureWriteZeroes = std::uint64_t{1} << 14;

inline constexpr std::uint32_t kTypeIn = 0;
inline constexpr std::uint32_t kTypeOut = 1;
inline constexpr std::uint32_t kTypeFlush = 4;
inline constexpr std::uint32_t kTypeGetId = 8;
inline constexpr std::uint32_t kTypeDiscard = 11;
inline constexpr std::uint32_t kTypeWriteZeroes = 13;

enum class Status : std::uint8_t { kOk = 0, kIoError = 1, kUnsupported = 2 };

inline constexpr std::uint32_t kSectorSize = 512;
inline constexpr std::size_t kIdBytes = 20;

struct RequestHeader {
  std::uint32_t type;
  std::uint32_t reserved;
  std::uint64_t sector;
};
static_assert(sizeof(RequestHeader) == 16);

// One range of a discard or write-zeroes request.
struct RangeSegment {
  std::uint64_t sector;
  std::uint32_t sector_count;
  std::uint32_t flags;
};
static_assert(sizeof(RangeSegment) == 16);

inline constexpr std::uint32_t kRangeUnmap = 1;

// virtio 1.2 §5.2.4. Packed by nature except for the tail, which is spelled out.
struct Config {
  std::uint64_t capacity;
  std::uint32_t size_max;
  std::uint32_t seg_max;
  std::uint16_t cylinders;
  std::uint8_t heads;
  std::uint8_t sectors;
  std::uint32_t blk_size;
  std::uint8_t physical_block_exp;
  std::uint8_t alignment_offset;
  std::uint16_t min_io_size;
  std::uint32_t opt_io_size;
  std::uint8_t writeback;
  std::uint8_t unused0;
  std::uint16_t num_queues;
  std::uint32_t max_discard_sectors;
  std::uint32_t max_discard_seg;
  std::uint32_t discard_sector_alignment;
  std::uint32_t max_write_zeroes_sectors;
  std::uint32_t max_write_zeroes_seg;
  std::uint8_t write_zeroes_may_unmap;
  std::uint8_t unused1[3];
};
static_assert(offsetof(Config, max_discard_sectors) == 36);
static_assert(offsetof(Config, write_zeroes_may_unmap) == 56);
static_assert(sizeof(Config) == 64);

}  // namespace embervm::devices::block

#endif  // EMBERVM_DEVICES_BLOCK_PROTOCOL_H_
