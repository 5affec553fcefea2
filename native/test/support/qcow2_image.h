// Qcow2Image: an empty qcow2 image in memory, to be changed by a test before it is written.
#ifndef EMBERVM_TEST_SUPPORT_QCOW2_IMAGE_H_
#define EMBERVM_TEST_SUPPORT_QCOW2_IMAGE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/big_endian.h"

namespace embervm::test {

// The header, then a refcount table of one cluster, one refcount block and the L1 table.
class Qcow2Image {
 public:
  Qcow2Image(std::uint64_t disk_bytes, std::uint32_t cluster_bits, std::uint32_t version = 3)
      : cluster_(std::uint64_t{1} << cluster_bits) {
    const std::uint64_t per_l2 = cluster_ / 8 * cluster_;
    const std::uint64_t l1_entries = (disk_bytes + per_l2 - 1) / per_l2;
    const std::uint64_t clusters = 3 + (l1_entries * 8 + cluster_ - 1) / cluster_;
    bytes_.resize(clusters * cluster_);
    Put<std::uint32_t>(0, 0x514649fb);
    Put<std::uint32_t>(4, version);
    Put<std::uint32_t>(20, cluster_bits);
    Put<std::uint64_t>(24, disk_bytes);
    Put<std::uint32_t>(36, static_cast<std::uint32_t>(l1_entries));
    Put<std::uint64_t>(40, l1());
    Put<std::uint64_t>(48, refcount_table());
    Put<std::uint32_t>(56, 1);
    if (version >= 3) {
      Put<std::uint32_t>(96, 4);
      Put<std::uint32_t>(100, 104);
    }
    Put<std::uint64_t>(refcount_table(), refcount_block());
    for (std::uint64_t cluster = 0; cluster < clusters; ++cluster) Count(cluster, 1);
  }

  template <class T>
  void Put(std::uint64_t offset, T value) {
    StoreBe<T>(bytes_, offset, value);
  }
  void Count(std::uint64_t cluster, std::uint16_t count) {
    Put<std::uint16_t>(refcount_block() + cluster * 2, count);
  }
  // A cluster at the end, counted once.
  std::uint64_t Append(std::byte fill) {
    const std::uint64_t offset = bytes_.size();
    bytes_.resize(offset + cluster_, fill);
    Count(offset / cluster_, 1);
    return offset;
  }

  [[nodiscard]] std::uint64_t refcount_table() const { return cluster_; }
  [[nodiscard]] std::uint64_t refcount_block() const { return 2 * cluster_; }
  [[nodiscard]] std::uint64_t l1() const { return 3 * cluster_; }
  [[nodiscard]] std::uint64_t cluster() const { return cluster_; }
  std::vector<std::byte>& bytes() { return bytes_; }

 private:
  std::uint64_t cluster_;
  std::vector<std::byte> bytes_;
};

}  // namespace embervm::test

#endif  // EMBERVM_TEST_SUPPORT_QCOW2_IMAGE_H_
