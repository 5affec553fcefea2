// What `qemu-img check` looks for, with none of the code that it checks.
#ifndef EMBERVM_TEST_SUPPORT_QCOW2_CHECK_H_
#define EMBERVM_TEST_SUPPORT_QCOW2_CHECK_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "base/big_endian.h"

namespace embervm::test {

struct Qcow2Findings {
  // Clusters that are used more often than they are counted, or not inside the file.
  std::uint64_t errors = 0;
  // Clusters that are counted more often than they are used.
  std::uint64_t leaks = 0;
  std::uint64_t data_clusters = 0;
};

inline Qcow2Findings CheckQcow2(const std::vector<std::byte>& image) {
  constexpr std::uint64_t kOffset = 0x00ff'ffff'ffff'fe00;
  const auto u64 = [&image](std::uint64_t at) { return LoadBe<std::uint64_t>(image, at); };
  const std::uint64_t cluster = std::uint64_t{1} << LoadBe<std::uint32_t>(image, 20);
  Qcow2Findings found;
  std::map<std::uint64_t, std::uint64_t> uses;
  const auto use = [&](std::uint64_t offset) {
    if (offset % cluster != 0 || offset >= image.size()) ++found.errors;
    ++uses[offset / cluster];
  };
  use(0);
  const std::uint64_t l1 = u64(40);
  const std::uint64_t l1_entries = LoadBe<std::uint32_t>(image, 36);
  for (std::uint64_t at = 0; at < l1_entries * 8; at += cluster) use(l1 + at);
  for (std::uint64_t i = 0; i < l1_entries; ++i) {
    const std::uint64_t l2 = u64(l1 + i * 8) & kOffset;
    if (l2 == 0) continue;
    use(l2);
    if (l2 + cluster > image.size()) continue;
    for (std::uint64_t at = 0; at < cluster; at += 8) {
      const std::uint64_t data = u64(l2 + at) & kOffset;
      if (data == 0) continue;
      use(data);
      ++found.data_clusters;
    }
  }
  const std::uint64_t table = u64(48);
  const std::uint64_t table_bytes = LoadBe<std::uint32_t>(image, 56) * cluster;
  for (std::uint64_t at = 0; at < table_bytes; at += cluster) use(table + at);
  for (std::uint64_t i = 0; i < table_bytes / 8; ++i) {
    if (const std::uint64_t block = u64(table + i * 8); block != 0) use(block);
  }
  const std::uint64_t per_block = cluster / 2;
  for (std::uint64_t number = 0; number < table_bytes / 8 * per_block; ++number) {
    const std::uint64_t block = u64(table + number / per_block * 8);
    if (block == 0) {
      // None of its clusters is counted.
      for (auto it = uses.lower_bound(number); it != uses.end() && it->first < number + per_block;
           ++it) {
        ++found.errors;
      }
      number += per_block - 1;
      continue;
    }
    const auto count = LoadBe<std::uint16_t>(image, block + number % per_block * 2);
    const auto used = uses.find(number);
    const std::uint64_t times = used == uses.end() ? 0 : used->second;
    if (times > count) ++found.errors;
    if (times < count) ++found.leaks;
  }
  return found;
}

}  // namespace embervm::test

#endif  // EMBERVM_TEST_SUPPORT_QCOW2_CHECK_H_
