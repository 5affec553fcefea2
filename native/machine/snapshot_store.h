// A snapshot's directory: the state file, and the memory files that it names. Writing
// `state` by a rename is what makes a snapshot; all before it leaves the one that was
// there good, and what a killed writer left is removed by the next.
#ifndef EMBERVM_MACHINE_SNAPSHOT_STORE_H_
#define EMBERVM_MACHINE_SNAPSHOT_STORE_H_

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "machine/snapshot.h"
#include "memory/guest_memory.h"

namespace embervm::machine {

class SnapshotWriter {
 public:
  // Makes the directory where its parent is there, and keeps other writers out of it.
  // ERR_SNAPSHOT_BUSY, ERR_SNAPSHOT_WRITE.
  static Result<SnapshotWriter> Open(const std::string& directory);
  SnapshotWriter(SnapshotWriter&&) = default;
  SnapshotWriter& operator=(SnapshotWriter&&) = delete;
  SnapshotWriter(const SnapshotWriter&) = delete;
  SnapshotWriter& operator=(const SnapshotWriter&) = delete;
  // Without Commit() nothing has happened.
  ~SnapshotWriter();

  // The new memory file: empty, under a name of its own.
  [[nodiscard]] int memory_fd() const { return memory_.get(); }
  [[nodiscard]] const std::string& memory_name() const { return memory_name_; }

  // Makes a memory file of another snapshot one of this, too, without copying it.
  // False where that cannot be: another file system, or the file was removed.
  [[nodiscard]] bool Adopt(const std::string& name, int file);

  // Writes everything to the disk, then makes it the directory's snapshot. Blocks for
  // as long as the disk takes; any thread.
  Result<> Commit(std::span<const std::byte> state);

 private:
  SnapshotWriter(UniqueFd directory, UniqueFd memory, std::string memory_name)
      : directory_(std::move(directory)),
        memory_(std::move(memory)),
        memory_name_(std::move(memory_name)) {}

  UniqueFd directory_;
  UniqueFd memory_;
  std::string memory_name_;
  std::vector<std::string> adopted_;
  bool committed_ = false;
};

struct OpenedSnapshot {
  Snapshot snapshot;
  std::vector<GuestMemory::Layer> memory;
};

// ERR_SNAPSHOT_NOT_FOUND, ERR_SNAPSHOT_READ, and what DecodeSnapshot() finds.
Result<OpenedSnapshot> OpenSnapshot(const std::string& directory);

}  // namespace embervm::machine

#endif  // EMBERVM_MACHINE_SNAPSHOT_STORE_H_
