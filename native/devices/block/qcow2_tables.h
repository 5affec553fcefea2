// Qcow2Tables: where the clusters of a disk are in its qcow2 file. Changes stay in memory until
// Flush(): it has them come to the disk after what they lead to.
#ifndef EMBERVM_DEVICES_BLOCK_QCOW2_TABLES_H_
#define EMBERVM_DEVICES_BLOCK_QCOW2_TABLES_H_

#include <cstddef>
#include <cstdint>
#include <list>
#include <optional>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "devices/block/image_file.h"
#include "devices/block/qcow2_clusters.h"
#include "devices/block/qcow2_header.h"

namespace embervm::devices {

class Qcow2Tables {
 public:
  struct Place {
    // Where the cluster is in the file; 0: nowhere.
    std::uint64_t offset = 0;
    // It reads as zeroes, whatever is there.
    bool zero = true;
    // It may be written where it is.
    bool own = false;
  };

  // All have to stay as long as this.
  Qcow2Tables(const ImageFile& file, const Qcow2Header& header, Qcow2Clusters& clusters)
      : file_(file), header_(header), clusters_(clusters) {}

  // Reads the L1 table. ERR_DRIVE_INVALID for one that is damaged.
  Result<> Load();
  // Where the L2 tables are.
  [[nodiscard]] std::vector<std::uint64_t> l2_tables() const;

  // Of a cluster of the disk, by its number. Nothing: an I/O error, or an entry that lies.
  std::optional<Place> Find(std::uint64_t cluster);
  // Before Set() of the same cluster: has a table that can be written.
  bool Prepare(std::uint64_t cluster);
  void Set(std::uint64_t cluster, std::uint64_t offset);

  // All that was written to the file before, then what was set here, is on the host's disk when
  // it returns true.
  bool Flush();

 private:
  struct Table {
    std::uint64_t index;
    std::vector<std::byte> bytes;
    bool changed = false;
  };

  // The table from memory or the file; it comes to the front. Null: an I/O error.
  Table* Get(std::uint64_t index);
  // An empty one at the front. Null: an I/O error.
  Table* Keep(std::uint64_t index);

  const ImageFile& file_;
  const Qcow2Header& header_;
  Qcow2Clusters& clusters_;
  std::vector<std::uint64_t> l1_;
  // Entries of L1 that are not in the file yet.
  std::vector<std::uint64_t> changed_l1_;
  // The L2 tables in memory, the last used one first.
  std::list<Table> tables_;
  std::unordered_map<std::uint64_t, std::list<Table>::iterator> by_index_;
};

}  // namespace embervm::devices

#endif  // EMBERVM_DEVICES_BLOCK_QCOW2_TABLES_H_
