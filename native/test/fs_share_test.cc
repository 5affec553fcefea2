// What of a directory is shared: a single file and nothing beside it, or so much and no more.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>

#include "devices/fs/limits.h"
#include "devices/fs/server.h"
#include "devices/fs/usage.h"
#include "test/support/fuse_client.h"
#include "test/support/temp_directory.h"

namespace embervm::devices::fs {
namespace {

using test::FuseBody;
using test::FuseReply;
using test::FuseServerClient;
using test::TempDirectory;

constexpr std::uint64_t kKib = 1024;

struct Shared {
  explicit Shared(FsOptions options) {
    options.tag = "share";
    server = Server::Open(options).value();
    client = std::make_unique<FuseServerClient>(*server);
    REQUIRE(client->Init().error == 0);
  }
  std::unique_ptr<Server> server;
  std::unique_ptr<FuseServerClient> client;
};

FsOptions Options(const std::string& path) {
  FsOptions options;
  options.tag = "share";
  options.path = path;
  return options;
}

void PutFile(const std::string& path, std::string_view content) { std::ofstream(path) << content; }

std::string GetFile(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST_CASE("fs: a single file is all there is") {
  const TempDirectory directory;
  const std::string path = directory.path() + "/shared";
  PutFile(path, "content");
  PutFile(directory.path() + "/secret", "secret");
  FsOptions options = Options(path);
  options.single_file = true;
  const Shared f(options);
  FuseServerClient& client = *f.client;

  const auto root = client.Attributes(kRootId);
  CHECK(root.mode == (S_IFDIR | 0555));
  CHECK(root.inode == kRootId);
  for (const char* name : {"secret", "shared", "file2", "..", "."}) {
    CAPTURE(name);
    CHECK(client.Lookup(kRootId, name).error != 0);
  }
  const std::uint64_t node = client.Walk({"file"});
  CHECK(client.Walk({"file"}) == node);
  const std::uint64_t handle = client.Handle(node, O_RDWR);
  CHECK(client.Read(node, handle, 0, 100).text() == "content");
  CHECK(client.Write(node, handle, 0, "CON").error == 0);
  CHECK(GetFile(path) == "CONtent");

  // Nothing is made, renamed or removed around it, and nothing is listed.
  CHECK(client.Create(kRootId, "new").error == EACCES);
  CHECK(client.Mkdir(kRootId, "new").error == EACCES);
  CHECK(client.Symlink(kRootId, "new", "file").error == EACCES);
  CHECK(client.Call(Opcode::kUnlink, kRootId, FuseBody().Text("file")).error == EACCES);
  CHECK(client.Call(Opcode::kRmdir, kRootId, FuseBody().Text("file")).error == EACCES);
  CHECK(
      client
          .Call(Opcode::kLink, kRootId, FuseBody().Add(LinkIn{.old_nodeid = node}).Text("secret2"))
          .error == EACCES);
  CHECK(client
            .Call(Opcode::kRename, kRootId,
                  FuseBody().Add(RenameIn{.new_directory = kRootId}).Text("file").Text("x"))
            .error == EACCES);
  CHECK(client.Call(Opcode::kOpendir, kRootId, FuseBody().Add(OpenIn{})).error == EACCES);
  SetattrIn change{};
  change.valid = kSetMode;
  change.mode = 0777;
  CHECK(client.Setattr(kRootId, change).error == EACCES);
  // The file is no directory in which something could be looked up either.
  CHECK(client.Lookup(node, "..").error == ENOTDIR);
  CHECK(client
            .Call(Opcode::kRename, node,
                  FuseBody().Add(RenameIn{.new_directory = kRootId}).Text("a").Text("b"))
            .error == ENOTDIR);
  CHECK(client.Call(Opcode::kStatfs, kRootId).error == 0);
  CHECK(client.Call(Opcode::kSyncfs, kRootId, FuseBody().Add(std::uint64_t{0})).error == 0);
  CHECK(std::filesystem::exists(directory.path() + "/secret"));

  // The one that was shared stays the one, whatever takes its name.
  PutFile(directory.path() + "/other", "other");
  std::filesystem::rename(directory.path() + "/other", path);
  CHECK(client.Walk({"file"}) == node);
  CHECK(client.Read(node, handle, 0, 100).text() == "CONtent");
}

TEST_CASE("fs: what is no file is not shared as one") {
  const TempDirectory directory;
  const auto code = [](const std::string& path) {
    FsOptions options = Options(path);
    options.single_file = true;
    const auto server = Server::Open(options);
    return server.has_value() ? "" : server.error().code();
  };
  CHECK(code(directory.path()) == "ERR_SHARED_DIR_INVALID");
  CHECK(code(directory.path() + "/none") == "ERR_SHARED_DIR_NOT_FOUND");
  REQUIRE(::mkfifo((directory.path() + "/pipe").c_str(), 0600) == 0);
  CHECK(code(directory.path() + "/pipe") == "ERR_SHARED_DIR_INVALID");
}

// Writes blocks until one is refused; how many bytes there were.
std::uint64_t Fill(FuseServerClient& client, std::uint64_t node, std::uint64_t handle,
                   std::uint64_t from = 0) {
  const std::string block(32 * kKib, 'x');
  for (std::uint64_t offset = from;; offset += block.size()) {
    const FuseReply reply = client.Write(node, handle, offset, block);
    if (reply.error != 0) {
      CHECK(reply.error == ENOSPC);
      return offset;
    }
    REQUIRE(offset < 64 * kKib * kKib);
  }
}

// As long as a tree is not looked at again for having been looked at just now.
void Rest() { std::this_thread::sleep_for(std::chrono::milliseconds(200)); }

TEST_CASE("fs: a quota ends what a guest can add") {
  const TempDirectory directory;
  PutFile(directory.path() + "/before", std::string(100 * kKib, 'b'));
  FsOptions options = Options(directory.path());
  options.quota_bytes = 1024 * kKib;
  const Shared f(options);
  FuseServerClient& client = *f.client;

  const FuseReply made = client.Create(kRootId, "file");
  REQUIRE(made.error == 0);
  const auto node = made.As<EntryOut>().nodeid;
  const auto handle = made.As<OpenOut>(sizeof(EntryOut)).handle;
  const std::uint64_t written = Fill(client, node, handle);
  CHECK(written > 800 * kKib);
  CHECK(written < 924 * kKib);
  const auto statfs = client.Call(Opcode::kStatfs, kRootId).As<StatfsOut>();
  CHECK(statfs.blocks * statfs.fragment_size == 1024 * kKib);
  CHECK(statfs.blocks_available * statfs.fragment_size < 64 * kKib);

  // What is there can be written again, and read.
  CHECK(client.Write(node, handle, 0, std::string(32 * kKib, 'y')).error == 0);
  CHECK(client.Read(node, handle, 0, 1).text() == "y");
  // Every way to more is closed.
  FallocateIn allocate{};
  allocate.handle = handle;
  allocate.offset = written;
  allocate.length = 1024 * kKib;
  CHECK(client.Call(Opcode::kFallocate, node, FuseBody().Add(allocate)).error == ENOSPC);
  allocate.mode = FALLOC_FL_KEEP_SIZE;
  CHECK(client.Call(Opcode::kFallocate, node, FuseBody().Add(allocate)).error == ENOSPC);
  const std::uint64_t append = client.Handle(node, O_WRONLY | O_APPEND);
  CHECK(client.Write(node, append, 0, std::string(128 * kKib, 'z')).error == ENOSPC);
  const std::uint64_t before = client.Walk({"before"});
  const std::uint64_t source = client.Handle(node);
  const std::uint64_t target = client.Handle(before, O_RDWR);
  CopyFileRangeIn copy{};
  copy.in_handle = source;
  copy.out_nodeid = before;
  copy.out_handle = target;
  copy.out_offset = 100 * kKib;
  copy.length = 512 * kKib;
  CHECK(client.Call(Opcode::kCopyFileRange, node, FuseBody().Add(copy)).error == ENOSPC);
  // A hole takes nothing; to fill it does.
  SetattrIn grow{};
  grow.valid = kSetSize;
  grow.size = 4096 * kKib;
  CHECK(client.Setattr(before, grow).error == 0);
  CHECK(client.Write(before, target, 2048 * kKib, std::string(128 * kKib, 'h')).error == ENOSPC);

  // A file without a name takes its place until it is let go.
  REQUIRE(client.Call(Opcode::kUnlink, kRootId, FuseBody().Text("file")).error == 0);
  Rest();
  CHECK(client.Create(kRootId, "more").error == 0);
  const std::uint64_t more = client.Walk({"more"});
  const std::uint64_t more_handle = client.Handle(more, O_RDWR);
  CHECK(Fill(client, more, more_handle) < 64 * kKib);
  for (const std::uint64_t open : {handle, append, source})
    CHECK(client.Release(node, open).error == 0);
  client.Send(Opcode::kForget, node, FuseBody().Add(ForgetIn{.lookups = 1}));
  Rest();
  CHECK(Fill(client, more, more_handle) > 700 * kKib);
}

TEST_CASE("fs: a quota counts files, too, and what others write") {
  const TempDirectory directory;
  FsOptions options = Options(directory.path());
  options.quota_bytes = 256 * kKib;
  const Shared f(options);
  FuseServerClient& client = *f.client;
  int files = 0;
  int error = 0;
  for (; error == 0 && files < 10000; ++files) {
    error = client.Create(kRootId, "f" + std::to_string(files)).error;
  }
  CHECK(error == ENOSPC);
  CHECK(files < 600);
  CHECK(!std::filesystem::exists(directory.path() + "/f" + std::to_string(files - 1)));
  CHECK(client.Mkdir(kRootId, "directory").error == ENOSPC);
  CHECK(client.Symlink(kRootId, "link", "f0").error == ENOSPC);

  for (const auto& entry : std::filesystem::directory_iterator(directory.path())) {
    std::filesystem::remove(entry.path());
  }
  PutFile(directory.path() + "/host", std::string(200 * kKib, 'h'));
  // The guest lets go of what it knew.
  REQUIRE(client.Init().error == 0);
  Rest();
  const FuseReply made = client.Create(kRootId, "guest");
  REQUIRE(made.error == 0);
  CHECK(Fill(client, made.As<EntryOut>().nodeid, made.As<OpenOut>(sizeof(EntryOut)).handle) <
        64 * kKib);
}

TEST_CASE("fs: the usage of a tree") {
  const TempDirectory directory;
  const TempDirectory outside;
  PutFile(outside.path() + "/large", std::string(1024 * kKib, 'x'));
  const std::string deep = directory.path() + "/a/b/c";
  std::filesystem::create_directories(deep);
  PutFile(deep + "/file", std::string(64 * kKib, 'x'));
  std::filesystem::create_symlink(outside.path(), directory.path() + "/link");
  const auto usage = [&] {
    const UniqueFd root(::open(directory.path().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    UsageCount count;
    count.AddTree(root.get(), false);
    CHECK(count.complete());
    return count.bytes();
  };
  const std::uint64_t once = usage();
  CHECK(once >= 64 * kKib);
  CHECK(once < 128 * kKib);
  // Another name of the same file takes nothing.
  std::filesystem::create_hard_link(deep + "/file", directory.path() + "/again");
  CHECK(usage() <= once + kInodeBytes);
  // A hole neither.
  PutFile(directory.path() + "/sparse", "");
  std::filesystem::resize_file(directory.path() + "/sparse", 1U << 30U);
  CHECK(usage() < 128 * kKib);
}

TEST_CASE("fs: a tree that is too deep to be looked at is never forgiven") {
  const TempDirectory directory;
  FsOptions options = Options(directory.path());
  options.quota_bytes = 8192 * kKib;
  const Shared f(options);
  FuseServerClient& client = *f.client;
  const std::string name(250, 'd');
  std::uint64_t node = kRootId;
  for (int level = 0; level < 20; ++level) {
    REQUIRE(client.Mkdir(node, name).error == 0);
    node = client.Lookup(node, name).As<EntryOut>().nodeid;
  }
  const FuseReply made = client.Create(node, "file");
  REQUIRE(made.error == 0);
  const auto file = made.As<EntryOut>().nodeid;
  const auto handle = made.As<OpenOut>(sizeof(EntryOut)).handle;
  const std::uint64_t written = Fill(client, file, handle);
  CHECK(written < 8192 * kKib);
  Rest();
  CHECK(Fill(client, file, handle, written) - written < 512 * kKib);
  // For whoever removes it again: no path is that long.
  client.Call(Opcode::kUnlink, node, FuseBody().Text("file"));
}

}  // namespace
}  // namespace embervm::devices::fs
