// Qcow2Header: what the first bytes of a qcow2 image say, checked. The format is QEMU's
// docs/interop/qcow2.txt, versions 2 and 3.
#ifndef EMBERVM_DEVICES_BLOCK_QCOW2_HEADER_H_
#define EMBERVM_DEVICES_BLOCK_QCOW2_HEADER_H_

#include <cstdint>

#include "base/result.h"
#include "devices/block/image_file.h"

namespace embervm::devices {

namespace qcow2 {

// Of the entries of L1 and L2 tables.
inline constexpr std::uint64_t kOffsetMask = 0x00ff'ffff'ffff'fe00;
// Nothing else uses what the entry leads to: it may be written in place.
inline constexpr std::uint64_t kCopied = std::uint64_t{1} << 63U;
inline constexpr std::uint64_t kCompressed = std::uint64_t{1} << 62U;
// Of L2, from version 3 on.
inline constexpr std::uint64_t kZero = 1;
inline constexpr std::uint64_t kAutoclearOffset = 88;

}  // namespace qcow2

struct Qcow2Header {
  // ERR_DRIVE_INVALID, with the reason, for all that is not such an image, that contradicts
  // itself, or that has what is not supported here.
  static Result<Qcow2Header> Read(const ImageFile& file, std::uint64_t file_bytes);

  [[nodiscard]] std::uint64_t cluster_bytes() const { return std::uint64_t{1} << cluster_bits; }
  // Clusters of the disk, the last of which may not be whole.
  [[nodiscard]] std::uint64_t clusters() const {
    return (size >> cluster_bits) + ((size & (cluster_bytes() - 1)) != 0 ? 1 : 0);
  }
  [[nodiscard]] std::uint64_t entries_per_l2() const { return cluster_bytes() / 8; }
  // Those of 16 bits, which are all that is written.
  [[nodiscard]] std::uint64_t refcounts_per_block() const { return cluster_bytes() / 2; }
  [[nodiscard]] std::uint64_t refcount_table_entries() const {
    return (std::uint64_t{refcount_table_clusters} << cluster_bits) / 8;
  }

  std::uint32_t version = 0;
  std::uint32_t cluster_bits = 0;
  // Of the disk, in bytes.
  std::uint64_t size = 0;
  std::uint32_t l1_entries = 0;
  std::uint64_t l1_offset = 0;
  std::uint64_t refcount_table_offset = 0;
  std::uint32_t refcount_table_clusters = 0;
  std::uint64_t autoclear = 0;
};

}  // namespace embervm::devices

#endif  // EMBERVM_DEVICES_BLOCK_QCOW2_HEADER_H_
