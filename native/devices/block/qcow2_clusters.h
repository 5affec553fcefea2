// Qcow2Clusters: which clusters of a qcow2 file are in use, and for what. New ones come at the
// end of the file, and none is ever freed: a disk's file is never larger than the disk and its
// tables, whatever the guest does.
#ifndef EMBERVM_DEVICES_BLOCK_QCOW2_CLUSTERS_H_
#define EMBERVM_DEVICES_BLOCK_QCOW2_CLUSTERS_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "base/result.h"
#include "devices/block/image_file.h"
#include "devices/block/qcow2_header.h"

namespace embervm::devices {

class Qcow2Clusters {
 public:
  enum class Use : std::uint8_t { kData, kTable };

  // Both have to stay as long as this.
  Qcow2Clusters(const ImageFile& file, const Qcow2Header& header, std::uint64_t file_bytes);

  // Reads the refcount table. `l2_tables`: where those are that the L1 table names.
  // ERR_DRIVE_INVALID for tables that are not inside the file or share a cluster; for a writer
  // also for a refcount table that has no room for the whole disk.
  Result<> Load(const std::vector<std::uint64_t>& l2_tables);

  [[nodiscard]] std::uint64_t file_bytes() const { return file_bytes_; }
  // Whether a whole cluster begins there that holds no table, nor the header.
  [[nodiscard]] bool IsData(std::uint64_t offset) const;
  // Whether just one entry leads there, so that it may be written in place.
  [[nodiscard]] bool HasOneUser(std::uint64_t offset) const;

  // A cluster of zeroes, which has a refcount of 1; nothing on an I/O error.
  std::optional<std::uint64_t> Allocate(Use use);
  // Of the last call of Allocate(), for data that could not be written.
  void GiveBack(std::uint64_t offset);

 private:
  [[nodiscard]] bool IsWhole(std::uint64_t offset) const;
  Result<> ReadTable();
  // Makes the file one cluster longer.
  bool Append();
  // Has the next cluster be a refcount block that counts itself too.
  bool AppendBlock(std::uint64_t index);

  const ImageFile& file_;
  const Qcow2Header& header_;
  std::uint64_t file_bytes_;
  // The number of the first cluster behind the end of the file.
  std::uint64_t next_;
  // Offsets of the refcount blocks; 0: there is none.
  std::vector<std::uint64_t> blocks_;
  // Numbers of the clusters with the header and the tables, in order.
  std::vector<std::uint64_t> tables_;
};

}  // namespace embervm::devices

#endif  // EMBERVM_DEVICES_BLOCK_QCOW2_CLUSTERS_H_
