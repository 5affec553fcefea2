// FsServer: the directory around a single file. It is made up: what really surrounds the file
// on the host is not even held open.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "devices/fs/limits.h"
#include "devices/fs/server.h"

namespace embervm::devices::fs {

namespace {

constexpr const char* kName = "file";
constexpr mode_t kMode = S_IFDIR | S_IRUSR | S_IXUSR | S_IRGRP | S_IXGRP | S_IROTH | S_IXOTH;

}  // namespace

int Server::DispatchSingle(Request& request, Opcode opcode) {
  switch (opcode) {
    case Opcode::kLookup: {
      const Answer<std::string> name = request.body.TakeName();
      if (!name.has_value()) return name.error();
      if (*name != kName) return ENOENT;
      UniqueFd fd(::fcntl(single_file_.get(), F_DUPFD_CLOEXEC, 0));
      if (!fd.valid()) return errno;
      const Answer<EntryOut> entry = MakeEntry(std::move(fd));
      if (!entry.has_value()) return entry.error();
      request.reply.Put(*entry);
      return 0;
    }
    case Opcode::kGetattr: {
      AttributesOut out{};
      out.valid = valid_seconds_;
      out.attributes.inode = kRootId;
      out.attributes.mode = kMode;
      out.attributes.links = 2;
      out.attributes.block_size = kPageBytes;
      if (options_.squash.has_value()) {
        out.attributes.uid = options_.squash->uid;
        out.attributes.gid = options_.squash->gid;
      }
      request.reply.Put(out);
      return 0;
    }
    case Opcode::kStatfs:
      return ReplyStatfs(request, single_file_.get());
    case Opcode::kSyncfs:
      return 0;
    default:
      return EACCES;
  }
}

}  // namespace embervm::devices::fs
