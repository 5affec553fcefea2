#include "devices/block/qcow2_clusters.h"

#include <algorithm>
#include <array>
#include <cstddef>

#include "base/big_endian.h"

namespace embervm::devices {

namespace {

constexpr std::uint64_t kRefcountBytes = 2;

}  // namespace

Qcow2Clusters::Qcow2Clusters(const ImageFile& file, const Qcow2Header& header,
                             std::uint64_t file_bytes)
    : file_(file),
      header_(header),
      file_bytes_(file_bytes),
      next_((file_bytes + header.cluster_bytes() - 1) >> header.cluster_bits) {}

Result<> Qcow2Clusters::Load(const std::vector<std::uint64_t>& l2_tables) {
  EMBERVM_TRY(ReadTable());
  tables_.push_back(0);
  const auto add = [this](std::uint64_t offset, std::uint64_t bytes) {
    const std::uint64_t first = offset >> header_.cluster_bits;
    const std::uint64_t end =
        (offset + bytes + header_.cluster_bytes() - 1) >> header_.cluster_bits;
    for (std::uint64_t cluster = first; cluster < end; ++cluster) tables_.push_back(cluster);
  };
  add(header_.l1_offset, std::uint64_t{header_.l1_entries} * 8);
  add(header_.refcount_table_offset, header_.refcount_table_entries() * 8);
  const std::uint64_t fixed = tables_.size();
  std::vector<std::uint64_t> offsets = blocks_;
  offsets.insert(offsets.end(), l2_tables.begin(), l2_tables.end());
  for (const std::uint64_t offset : offsets) {
    if (offset == 0) continue;
    if (!IsWhole(offset)) return std::unexpected(file_.Invalid("a table is not inside the file"));
    tables_.push_back(offset >> header_.cluster_bits);
  }
  std::ranges::sort(tables_);
  if (std::ranges::adjacent_find(tables_) != tables_.end()) {
    return std::unexpected(file_.Invalid("its tables overlap"));
  }
  if (file_.read_only()) return {};
  // All of the disk, its L2 tables, the tables above, and blocks for the refcounts of all. Not more
  // for a disk that has been written: what can be written once stays so.
  const std::uint64_t uncounted = header_.clusters() + header_.l1_entries + fixed;
  const std::uint64_t most = uncounted + 2 * (uncounted / header_.refcounts_per_block() + 1);
  if (most > header_.refcount_table_entries() * header_.refcounts_per_block()) {
    return std::unexpected(
        file_.Invalid("its refcount table is too small to write the whole disk: use larger "
                      "clusters, or use it read-only"));
  }
  return {};
}

Result<> Qcow2Clusters::ReadTable() {
  std::vector<std::byte> bytes(header_.refcount_table_entries() * 8);
  if (!file_.ReadAt(header_.refcount_table_offset, bytes)) {
    return std::unexpected(file_.Invalid("its refcount table cannot be read"));
  }
  blocks_.resize(header_.refcount_table_entries());
  for (std::size_t index = 0; index < blocks_.size(); ++index) {
    // An offset with reserved bits is not that of a cluster.
    blocks_[index] = LoadBe<std::uint64_t>(bytes, index * 8);
  }
  return {};
}

bool Qcow2Clusters::IsWhole(std::uint64_t offset) const {
  return (offset & (header_.cluster_bytes() - 1)) == 0 && offset >> header_.cluster_bits < next_;
}

bool Qcow2Clusters::IsData(std::uint64_t offset) const {
  return IsWhole(offset) && !std::ranges::binary_search(tables_, offset >> header_.cluster_bits);
}

bool Qcow2Clusters::HasOneUser(std::uint64_t offset) const {
  const std::uint64_t cluster = offset >> header_.cluster_bits;
  const std::uint64_t index = cluster / header_.refcounts_per_block();
  if (index >= blocks_.size() || blocks_[index] == 0) return false;
  std::array<std::byte, kRefcountBytes> count{};
  const std::uint64_t within = cluster % header_.refcounts_per_block() * kRefcountBytes;
  return file_.ReadAt(blocks_[index] + within, count) && LoadBe<std::uint16_t>(count) == 1;
}

bool Qcow2Clusters::Append() {
  const std::uint64_t bytes = (next_ + 1) << header_.cluster_bits;
  if (!file_.SetLength(bytes)) return false;
  file_bytes_ = bytes;
  return true;
}

bool Qcow2Clusters::AppendBlock(std::uint64_t index) {
  const std::uint64_t offset = next_ << header_.cluster_bits;
  std::array<std::byte, kRefcountBytes> one{};
  StoreBe<std::uint16_t>(one, 0, 1);
  std::array<std::byte, 8> entry{};
  StoreBe<std::uint64_t>(entry, 0, offset);
  const std::uint64_t within = next_ % header_.refcounts_per_block() * kRefcountBytes;
  if (!Append() || !file_.WriteAt(offset + within, one) ||
      !file_.WriteAt(header_.refcount_table_offset + index * 8, entry)) {
    return false;
  }
  blocks_[index] = offset;
  tables_.push_back(next_);
  ++next_;
  return true;
}

std::optional<std::uint64_t> Qcow2Clusters::Allocate(Use use) {
  // A block that has just been made may be the last cluster that it counts.
  for (;;) {
    const std::uint64_t index = next_ / header_.refcounts_per_block();
    if (index >= blocks_.size()) return std::nullopt;
    if (blocks_[index] != 0) break;
    if (!AppendBlock(index)) return std::nullopt;
  }
  const std::uint64_t block = blocks_[next_ / header_.refcounts_per_block()];
  const std::uint64_t within = next_ % header_.refcounts_per_block() * kRefcountBytes;
  std::array<std::byte, kRefcountBytes> one{};
  StoreBe<std::uint16_t>(one, 0, 1);
  if (!Append() || !file_.WriteAt(block + within, one)) return std::nullopt;
  if (use == Use::kTable) tables_.push_back(next_);
  return next_++ << header_.cluster_bits;
}

void Qcow2Clusters::GiveBack(std::uint64_t offset) {
  // What is left there must not come up in another place. Where the file stays as it is, the
  // cluster is lost, which does no harm.
  if (!file_.SetLength(offset)) return;
  file_bytes_ = offset;
  next_ = offset >> header_.cluster_bits;
}

}  // namespace embervm::devices
