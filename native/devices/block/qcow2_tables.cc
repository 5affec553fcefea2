#include "devices/block/qcow2_tables.h"

#include <array>
#include <span>

#include "base/big_endian.h"

namespace embervm::devices {

namespace {

// Of L2 tables in memory: those of a disk of 64 GiB with the usual clusters.
constexpr std::uint64_t kCacheBytes = std::uint64_t{8} << 20U;

}  // namespace

Result<> Qcow2Tables::Load() {
  std::vector<std::byte> bytes(std::size_t{header_.l1_entries} * 8);
  if (!file_.ReadAt(header_.l1_offset, bytes)) {
    return std::unexpected(file_.Invalid("its L1 table cannot be read"));
  }
  l1_.resize(header_.l1_entries);
  for (std::size_t index = 0; index < l1_.size(); ++index) {
    l1_[index] = LoadBe<std::uint64_t>(bytes, index * 8);
    if ((l1_[index] & ~(qcow2::kOffsetMask | qcow2::kCopied)) != 0) {
      return std::unexpected(file_.Invalid("its L1 table has reserved bits"));
    }
  }
  return {};
}

std::vector<std::uint64_t> Qcow2Tables::l2_tables() const {
  std::vector<std::uint64_t> offsets;
  for (const std::uint64_t entry : l1_) {
    if ((entry & qcow2::kOffsetMask) != 0) offsets.push_back(entry & qcow2::kOffsetMask);
  }
  return offsets;
}

std::optional<Qcow2Tables::Place> Qcow2Tables::Find(std::uint64_t cluster) {
  const std::uint64_t index = cluster / header_.entries_per_l2();
  if ((l1_[index] & qcow2::kOffsetMask) == 0) return Place{};
  const Table* const table = Get(index);
  if (table == nullptr) return std::nullopt;
  const auto entry = LoadBe<std::uint64_t>(table->bytes, cluster % header_.entries_per_l2() * 8);
  const std::uint64_t flags = header_.version >= 3 ? qcow2::kCopied | qcow2::kZero : qcow2::kCopied;
  // This refuses compressed clusters too.
  if ((entry & ~(qcow2::kOffsetMask | flags)) != 0) return std::nullopt;
  const std::uint64_t offset = entry & qcow2::kOffsetMask;
  if (offset == 0) return Place{};
  if (!clusters_.IsData(offset)) return std::nullopt;
  return Place{
      .offset = offset, .zero = (entry & qcow2::kZero) != 0, .own = (entry & qcow2::kCopied) != 0};
}

bool Qcow2Tables::Prepare(std::uint64_t cluster) {
  const std::uint64_t index = cluster / header_.entries_per_l2();
  const std::uint64_t entry = l1_[index];
  if (const std::uint64_t offset = entry & qcow2::kOffsetMask; offset != 0) {
    return Get(index) != nullptr && ((entry & qcow2::kCopied) != 0 || clusters_.HasOneUser(offset));
  }
  Table* const table = Keep(index);
  if (table == nullptr) return false;
  const auto offset = clusters_.Allocate(Qcow2Clusters::Use::kTable);
  if (!offset) {
    by_index_.erase(index);
    tables_.pop_front();
    return false;
  }
  table->changed = true;
  l1_[index] = *offset | qcow2::kCopied;
  changed_l1_.push_back(index);
  return true;
}

void Qcow2Tables::Set(std::uint64_t cluster, std::uint64_t offset) {
  Table& table = tables_.front();
  StoreBe<std::uint64_t>(table.bytes, cluster % header_.entries_per_l2() * 8,
                         offset | qcow2::kCopied);
  table.changed = true;
}

Qcow2Tables::Table* Qcow2Tables::Get(std::uint64_t index) {
  if (const auto found = by_index_.find(index); found != by_index_.end()) {
    tables_.splice(tables_.begin(), tables_, found->second);
    return &tables_.front();
  }
  Table* const table = Keep(index);
  if (table == nullptr) return nullptr;
  if (file_.ReadAt(l1_[index] & qcow2::kOffsetMask, table->bytes)) return table;
  by_index_.erase(index);
  tables_.pop_front();
  return nullptr;
}

Qcow2Tables::Table* Qcow2Tables::Keep(std::uint64_t index) {
  if (tables_.size() >= kCacheBytes / header_.cluster_bytes()) {
    // All at once: each time costs waits for the disk.
    if (tables_.back().changed && !Flush()) return nullptr;
    by_index_.erase(tables_.back().index);
    tables_.pop_back();
  }
  tables_.push_front({.index = index, .bytes = std::vector<std::byte>(header_.cluster_bytes())});
  by_index_[index] = tables_.begin();
  return &tables_.front();
}

bool Qcow2Tables::Flush() {
  // The data and the refcounts first: a crash at any time loses at most clusters.
  if (!file_.Flush()) return false;
  bool wrote = false;
  for (Table& table : tables_) {
    if (!table.changed) continue;
    if (!file_.WriteAt(l1_[table.index] & qcow2::kOffsetMask, table.bytes)) return false;
    table.changed = false;
    wrote = true;
  }
  if (!changed_l1_.empty()) {
    if (!file_.Flush()) return false;
    for (const std::uint64_t index : changed_l1_) {
      std::array<std::byte, 8> entry{};
      StoreBe<std::uint64_t>(entry, 0, l1_[index]);
      if (!file_.WriteAt(header_.l1_offset + index * 8, entry)) return false;
    }
    changed_l1_.clear();
    wrote = true;
  }
  return !wrote || file_.Flush();
}

}  // namespace embervm::devices
