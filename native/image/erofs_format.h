// The on-disk format of EROFS, as far as it is written here: Linux, fs/erofs/erofs_fs.h. Numbers
// are little-endian.
#ifndef EMBERVM_IMAGE_EROFS_FORMAT_H_
#define EMBERVM_IMAGE_EROFS_FORMAT_H_

#include <array>
#include <cstddef>
#include <cstdint>

namespace embervm::image::erofs {

inline constexpr std::uint32_t kMagic = 0xe0f5e1e2;
inline constexpr unsigned kBlockBits = 12;
inline constexpr std::uint64_t kBlockBytes = std::uint64_t{1} << kBlockBits;
// Addresses of blocks have 32 bits, and all ones is none.
inline constexpr std::uint64_t kMaxBlocks = 0xffffffff;
inline constexpr std::uint64_t kSuperOffset = 1024;
// A nid counts these from the start of the metadata.
inline constexpr std::uint64_t kInodeSlot = 32;
inline constexpr std::size_t kCompactBytes = 32;
inline constexpr std::size_t kExtendedBytes = 64;
inline constexpr std::size_t kDirentBytes = 12;
inline constexpr std::size_t kXattrHeaderBytes = 12;
inline constexpr std::size_t kXattrAlign = 4;

// Times of inodes are those of the last change of the content (mtime).
inline constexpr std::uint32_t kCompatMtime = 0x2;

// i_format: bit 0 tells extended inodes, bits 1 to 3 the layout of the data.
inline constexpr std::uint16_t kExtendedBit = 1;
inline constexpr std::uint16_t kFlatPlain = 0U << 1U;
inline constexpr std::uint16_t kFlatInline = 2U << 1U;

struct SuperBlock {
  std::uint32_t magic = kMagic;
  std::uint32_t checksum = 0;
  std::uint32_t feature_compat = kCompatMtime;
  std::uint8_t block_bits = kBlockBits;
  std::uint8_t extension_slots = 0;
  std::uint16_t root_nid = 0;
  std::uint64_t inodes = 0;
  std::uint64_t build_time = 0;
  std::uint32_t build_time_nsec = 0;
  std::uint32_t blocks = 0;
  std::uint32_t meta_block = 0;
  std::uint32_t xattr_block = 0;
  std::array<std::uint8_t, 16> uuid{};
  std::array<char, 16> volume_name{};
  std::uint32_t feature_incompat = 0;
  std::array<std::uint8_t, 44> reserved{};
};
static_assert(sizeof(SuperBlock) == 128);

struct CompactInode {
  std::uint16_t format = 0;
  std::uint16_t xattr_count = 0;
  std::uint16_t mode = 0;
  std::uint16_t links = 0;
  std::uint32_t size = 0;
  std::uint32_t reserved = 0;
  std::uint32_t block_or_device = 0;
  std::uint32_t number = 0;
  std::uint16_t uid = 0;
  std::uint16_t gid = 0;
  std::uint32_t reserved2 = 0;
};
static_assert(sizeof(CompactInode) == kCompactBytes);

struct ExtendedInode {
  std::uint16_t format = 0;
  std::uint16_t xattr_count = 0;
  std::uint16_t mode = 0;
  std::uint16_t reserved = 0;
  std::uint64_t size = 0;
  std::uint32_t block_or_device = 0;
  std::uint32_t number = 0;
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::uint64_t mtime = 0;
  std::uint32_t mtime_nsec = 0;
  std::uint32_t links = 0;
  std::array<std::uint8_t, 16> reserved2{};
};
static_assert(sizeof(ExtendedInode) == kExtendedBytes);

// e_name_index: the start of a name, which is not stored.
enum class XattrIndex : std::uint8_t {
  kUser = 1,
  kAclAccess = 2,
  kAclDefault = 3,
  kTrusted = 4,
  kSecurity = 6,
};

// FT_*, in directory entries.
enum class DirentType : std::uint8_t {
  kRegular = 1,
  kDirectory = 2,
  kCharDevice = 3,
  kBlockDevice = 4,
  kFifo = 5,
  kSymlink = 7,
};

}  // namespace embervm::image::erofs

#endif  // EMBERVM_IMAGE_EROFS_FORMAT_H_
