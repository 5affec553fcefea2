// FsServer: a FUSE server over one directory of the host. It knows nothing of queues and
// threads: a message goes in, its answer is written to the guest's memory. One thread at a
// time; calls block for the host's file system.
//
// Nothing outside of the directory can be reached: names are looked up one component at a
// time, below a descriptor, with openat2(2), and symbolic links are never followed, whatever
// the guest or others do to the tree meanwhile.
#ifndef EMBERVM_DEVICES_FS_SERVER_H_
#define EMBERVM_DEVICES_FS_SERVER_H_

#include <sys/stat.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "devices/fs/lock_table.h"
#include "devices/fs/message.h"
#include "devices/fs/node_table.h"
#include "devices/fs/options.h"
#include "devices/fs/protocol.h"
#include "virtio/segments.h"

namespace embervm::devices::fs {

class Server {
 public:
  struct Counters {
    std::uint64_t requests = 0;
    std::uint64_t errors = 0;
    std::uint64_t read_bytes = 0;
    std::uint64_t written_bytes = 0;
    std::uint64_t open_files = 0;
  };

  // What became of a message.
  struct Outcome {
    // For the used ring; unless the message waits.
    std::uint32_t used_length = 0;
    // A lock that another has: Retry() until it gives an answer.
    std::optional<std::uint64_t> waiting;
  };

  // ERR_SHARED_DIR_NOT_FOUND, ERR_SHARED_DIR_ACCESS, ERR_SHARED_DIR_INVALID,
  // ERR_RESOURCE_LIMIT.
  static Result<std::unique_ptr<Server>> Open(const FsOptions& options);
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // The segments are guest memory of any content.
  Outcome Handle(virtio::Segments readable, virtio::Segments writable);
  // Tries a lock again; the length for the used ring when there is an answer.
  std::optional<std::uint32_t> Retry(std::uint64_t waiting, virtio::Segments writable);
  // Forgets the guest.
  void Reset();

  // Any thread.
  [[nodiscard]] Counters counters() const;

 private:
  struct OpenFile {
    UniqueFd fd;
    std::uint64_t node = 0;
    bool directory = false;
  };
  struct WaitingLock {
    std::uint64_t unique = 0;
    std::uint64_t node = 0;
    LockIn lock{};
    bool interrupted = false;
  };
  struct Operation {
    Opcode opcode;
    // 0 or an errno.
    int (Server::*handler)(Request& request);
    // What an answer without an error has at least.
    std::size_t reply_bytes;
    // Refused where the directory is read-only.
    bool changes;
  };

  Server(FsOptions options, std::size_t max_open_files);
  static const Operation* FindOperation(std::uint32_t opcode);
  int Dispatch(Request& request, bool& has_reply);

  // server.cc
  int Init(Request& request);
  int Destroy(Request& request);
  void Interrupt(Request& request);
  int Getlk(Request& request);
  int Setlk(Request& request);
  int Setlkw(Request& request);

  // server_nodes.cc
  int Lookup(Request& request);
  void Forget(Request& request);
  void BatchForget(Request& request);
  int Getattr(Request& request);
  int Setattr(Request& request);
  int Readlink(Request& request);
  int Statfs(Request& request);
  int Access(Request& request);

  // server_tree.cc
  int Mknod(Request& request);
  int Mkdir(Request& request);
  int Symlink(Request& request);
  int Link(Request& request);
  int Unlink(Request& request);
  int Rmdir(Request& request);
  int Rename(Request& request);
  int Rename2(Request& request);
  int Create(Request& request);

  // server_files.cc
  int OpenRegular(Request& request);
  int Read(Request& request);
  int Write(Request& request);
  int Release(Request& request);
  int Fsync(Request& request);
  int Flush(Request& request);
  int Fallocate(Request& request);
  int Lseek(Request& request);
  int CopyFileRange(Request& request);

  // server_directories.cc
  int Opendir(Request& request);
  int Readdir(Request& request);
  int Readdirplus(Request& request);
  int Releasedir(Request& request);
  int Fsyncdir(Request& request);
  int Syncfs(Request& request);

  // server_xattr.cc
  int Setxattr(Request& request);
  int Getxattr(Request& request);
  int Listxattr(Request& request);
  int Removexattr(Request& request);

  // server_single.cc: the directory around a single file.
  int DispatchSingle(Request& request, Opcode opcode);

  // server_quota.cc
  // Makes room for so many bytes more: ENOSPC.
  int Reserve(std::uint64_t bytes);
  int ReserveFile();
  // For what a write at `offset` adds to the file.
  int ReserveWrite(int fd, std::uint64_t offset, std::uint64_t size);
  void MeasureUsage();
  [[nodiscard]] bool MayMeasure() const;
  void LimitStatfs(StatfsOut& out);

  // A directory that the guest knows: ENOTDIR, ESTALE.
  Answer<Node*> FindDirectory(std::uint64_t id);
  Answer<OpenFile*> FindFile(std::uint64_t handle, std::uint64_t node, bool directory = false);
  // ENFILE when the guest holds as many descriptors as it may.
  [[nodiscard]] bool HasRoom() const;
  std::uint64_t AddFile(OpenFile file);

  // One component below a directory, never through a link, never out of it.
  [[nodiscard]] Answer<UniqueFd> OpenBelow(int directory, const char* name, int flags,
                                           mode_t mode = 0) const;
  // Names a file to the guest: it counts as looked up.
  Answer<EntryOut> MakeEntry(int directory, const char* name);
  Answer<EntryOut> MakeEntry(UniqueFd fd);
  int ReplyStatfs(Request& request, int fd);
  int ReplyEntry(Request& request, int directory, const char* name);
  [[nodiscard]] Answer<UniqueFd> OpenNode(const Node& node, std::uint32_t guest_flags) const;
  // Those of the driver's open flags that are ours to keep.
  [[nodiscard]] int StatusFlags(std::uint32_t guest_flags) const;
  // Gives what was just made its owner and exact mode, which the process's umask and ids
  // have no part in.
  [[nodiscard]] int Adopt(int directory, const std::string& name, const InHeader& header,
                          mode_t mode) const;
  [[nodiscard]] mode_t AllowedMode(mode_t mode, bool directory) const;
  int RenameTo(Request& request, std::uint64_t new_directory, std::uint32_t flags);
  int ChangeOwner(const Node& node, const SetattrIn& change) const;
  int ChangeSize(const Node& node, std::uint64_t node_id, const SetattrIn& change);
  static int ChangeTimes(const Node& node, const SetattrIn& change);
  [[nodiscard]] bool AllowsXattr(const std::string& name) const;
  [[nodiscard]] Attributes ToAttributes(const struct stat& status) const;
  [[nodiscard]] std::uint32_t OpenFlags() const;
  int List(Request& request, bool plus);
  Answer<int> LockFile(std::uint64_t node_id, const LockIn& lock);
  int TryLock(std::uint64_t node_id, const LockIn& lock);
  void ForgetNode(std::uint64_t id, std::uint64_t lookups);

  const FsOptions options_;
  const std::size_t max_open_files_;
  std::uint32_t valid_seconds_ = 0;
  // Of a share of a single file, which has no root in nodes_.
  UniqueFd single_file_;

  // Counted where there is a quota.
  struct Usage {
    std::uint64_t bytes = 0;
    // Since it was measured.
    std::uint64_t added = 0;
    bool measured = false;
    // Something was removed since.
    bool changed = false;
    std::chrono::steady_clock::time_point at{};
    std::chrono::steady_clock::duration took{};
  };
  Usage usage_;

  bool initialized_ = false;
  bool writeback_ = false;
  NodeTable nodes_;
  LockTable locks_;
  std::uint64_t next_handle_ = 1;
  std::unordered_map<std::uint64_t, OpenFile> files_;
  std::uint64_t next_waiting_ = 1;
  std::map<std::uint64_t, WaitingLock> waiting_;
  // Of the message at hand: set by a lock that has to wait.
  std::optional<std::uint64_t> waits_;
  // Reused by each message.
  std::vector<std::byte> body_;

  // Written by the one thread, read by any; relaxed, as each counts for itself.
  std::atomic<std::uint64_t> requests_ = 0;
  std::atomic<std::uint64_t> errors_ = 0;
  std::atomic<std::uint64_t> read_bytes_ = 0;
  std::atomic<std::uint64_t> written_bytes_ = 0;
  std::atomic<std::uint64_t> open_files_ = 0;
};

}  // namespace embervm::devices::fs

#endif  // EMBERVM_DEVICES_FS_SERVER_H_
