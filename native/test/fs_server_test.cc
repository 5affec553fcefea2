// The FUSE server on real directories: what it answers, what it refuses, what it leaves on
// the host.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <string>

#include "devices/fs/server.h"
#include "test/support/fuse_client.h"
#include "test/support/temp_directory.h"

namespace embervm::devices::fs {
namespace {

using test::FuseBody;
using test::FuseReply;
using test::FuseServerClient;
using test::TempDirectory;

struct Fixture {
  explicit Fixture(FsOptions options = {}) {
    std::filesystem::create_directory(root);
    options.tag = "share";
    options.path = root;
    server = Server::Open(options).value();
    client = std::make_unique<FuseServerClient>(*server);
    REQUIRE(client->Init().error == 0);
  }
  void PutFile(const std::string& name, const std::string& content) const {
    std::ofstream(root + "/" + name) << content;
  }
  std::string GetFile(const std::string& name) const {
    std::ifstream file(root + "/" + name);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  struct stat Stat(const std::string& name) const {
    struct stat status{};
    REQUIRE(::lstat((root + "/" + name).c_str(), &status) == 0);
    return status;
  }

  TempDirectory directory;
  // Beside it is what must not be reached.
  std::string root = directory.path() + "/root";
  std::unique_ptr<Server> server;
  std::unique_ptr<FuseServerClient> client;
};

FsOptions ReadOnly() {
  FsOptions options;
  options.read_only = true;
  return options;
}

FsOptions HostLocks() {
  FsOptions options;
  options.host_locks = true;
  return options;
}

TEST_CASE("fs: what can be shared") {
  TempDirectory directory;
  const auto open = [&](const std::string& path, const std::string& tag = "t") {
    FsOptions options;
    options.tag = tag;
    options.path = path;
    const auto server = Server::Open(options);
    return server.has_value() ? "" : server.error().code();
  };
  CHECK(open(directory.path()).empty());
  CHECK(open(directory.path() + "/none") == "ERR_SHARED_DIR_NOT_FOUND");
  std::ofstream(directory.path() + "/file") << "x";
  CHECK(open(directory.path() + "/file") == "ERR_SHARED_DIR_INVALID");
  CHECK(open(directory.path(), "") == "ERR_SHARED_DIR_INVALID");
  CHECK(open(directory.path(), std::string(36, 'x')).empty());
  CHECK(open(directory.path(), std::string(37, 'x')) == "ERR_SHARED_DIR_INVALID");
}

TEST_CASE("fs: versions") {
  Fixture f;
  const auto init = [&](std::uint32_t major, std::uint32_t minor) {
    return f.client->Call(
        Opcode::kInit, 0,
        FuseBody().Add(InitIn{.major = major, .minor = minor, .max_readahead = 0, .flags = 0}));
  };
  CHECK(init(7, 30).error == EPROTO);
  CHECK(init(6, 36).error == EPROTO);
  // No session after a refusal.
  CHECK(f.client->Lookup(kRootId, "x").error == ENOTCONN);
  CHECK(init(8, 0).As<InitOut>().major == 7);
  CHECK(f.client->Lookup(kRootId, "x").error == ENOTCONN);
  CHECK(init(7, 31).As<InitOut>().minor == 31);
  const auto out = init(7, 45).As<InitOut>();
  CHECK(out.minor == 36);
  // Nothing that was not offered.
  CHECK(out.flags == 0);
  CHECK(out.max_write == kMaxTransfer);
  const auto all = f.client->Init().As<InitOut>();
  CHECK((all.flags & kInitReaddirplus) != 0);
  CHECK((all.flags & kInitWriteback) == 0);
  CHECK((all.flags & kInitPosixLocks) == 0);
}

TEST_CASE("fs: files and their data") {
  Fixture f;
  const FuseReply made = f.client->Create(kRootId, "file", O_RDWR, 0640);
  REQUIRE(made.error == 0);
  const auto entry = made.As<EntryOut>();
  const std::uint64_t handle = made.As<OpenOut>(sizeof(EntryOut)).handle;
  CHECK(entry.attributes.mode == (S_IFREG | 0640));
  CHECK(f.client->Write(entry.nodeid, handle, 0, "hello world").As<WriteOut>().size == 11);
  CHECK(f.client->Read(entry.nodeid, handle, 6, 4096).text() == "world");
  CHECK(f.client->Read(entry.nodeid, handle, 100, 4096).text().empty());
  CHECK(f.GetFile("file") == "hello world");
  CHECK(f.client->Attributes(entry.nodeid).size == 11);

  FsyncIn sync{};
  sync.handle = handle;
  CHECK(f.client->Call(Opcode::kFsync, entry.nodeid, FuseBody().Add(sync)).error == 0);
  FlushIn flush{};
  flush.handle = handle;
  CHECK(f.client->Call(Opcode::kFlush, entry.nodeid, FuseBody().Add(flush)).error == 0);
  FallocateIn allocate{};
  allocate.handle = handle;
  allocate.length = 65536;
  CHECK(f.client->Call(Opcode::kFallocate, entry.nodeid, FuseBody().Add(allocate)).error == 0);
  CHECK(f.Stat("file").st_size == 65536);
  LseekIn seek{};
  seek.handle = handle;
  seek.whence = SEEK_HOLE;
  CHECK(f.client->Call(Opcode::kLseek, entry.nodeid, FuseBody().Add(seek)).As<LseekOut>().offset <=
        65536);
  seek.whence = SEEK_END;
  CHECK(f.client->Call(Opcode::kLseek, entry.nodeid, FuseBody().Add(seek)).error == EINVAL);

  const FuseReply copy = f.client->Create(kRootId, "copy");
  const std::uint64_t copy_node = copy.As<EntryOut>().nodeid;
  CopyFileRangeIn range{};
  range.in_handle = handle;
  range.out_nodeid = copy_node;
  range.out_handle = copy.As<OpenOut>(sizeof(EntryOut)).handle;
  range.length = 5;
  CHECK(f.client->Call(Opcode::kCopyFileRange, entry.nodeid, FuseBody().Add(range))
            .As<WriteOut>()
            .size == 5);
  CHECK(f.GetFile("copy") == "hello");

  CHECK(f.client->Release(entry.nodeid, handle).error == 0);
  CHECK(f.client->Read(entry.nodeid, handle, 0, 16).error == EBADF);
  CHECK(f.client->Release(entry.nodeid, handle).error == EBADF);
  CHECK(f.server->counters().written_bytes == 11);
}

TEST_CASE("fs: open flags") {
  Fixture f;
  f.PutFile("file", "0123456789");
  const std::uint64_t node = f.client->Walk({"file"});
  const std::uint64_t reader = f.client->Handle(node, O_RDONLY);
  CHECK(f.client->Write(node, reader, 0, "x").error == EBADF);
  const std::uint64_t appender = f.client->Handle(node, O_WRONLY | O_APPEND);
  CHECK(f.client->Write(node, appender, 0, "a").error == 0);
  CHECK(f.GetFile("file") == "0123456789a");
  CHECK(f.client->Read(node, appender, 0, 1).error == EBADF);
  f.client->Handle(node, O_WRONLY | O_TRUNC);
  CHECK(f.GetFile("file").empty());
  CHECK(f.client->Open(node, O_ACCMODE).error == EINVAL);
  CHECK(f.client->Open(kRootId, O_RDONLY).error == EISDIR);
  // A handle is good for its own node only.
  f.PutFile("other", "secret");
  CHECK(f.client->Read(f.client->Walk({"other"}), reader, 0, 1).error == EBADF);
  // One that is there already.
  CHECK(f.client->Create(kRootId, "file", O_RDWR | O_EXCL).error == EEXIST);
  CHECK(f.client->Create(kRootId, "file", O_RDWR).error == 0);
  CHECK(f.client->Create(kRootId, "readonly", O_WRONLY | O_EXCL, 0444).error == 0);
}

TEST_CASE("fs: attributes") {
  Fixture f;
  f.PutFile("file", "content");
  const std::uint64_t node = f.client->Walk({"file"});
  SetattrIn in{};
  in.valid = kSetMode;
  in.mode = 0604;
  CHECK(f.client->Setattr(node, in).error == 0);
  CHECK((f.Stat("file").st_mode & 07777) == 0604);
  in = {};
  in.valid = kSetSize;
  in.size = 3;
  CHECK(f.client->Setattr(node, in).As<AttributesOut>().attributes.size == 3);
  CHECK(f.GetFile("file") == "con");
  in.size = std::uint64_t{1} << 63U;
  CHECK(f.client->Setattr(node, in).error == EFBIG);
  in = {};
  in.valid = kSetAtime | kSetMtime;
  in.atime = 1000;
  in.atime_ns = 5;
  in.mtime = 2000;
  in.mtime_ns = 999'999'999;
  CHECK(f.client->Setattr(node, in).error == 0);
  CHECK(f.Stat("file").st_mtim.tv_sec == 2000);
  CHECK(f.Stat("file").st_mtim.tv_nsec == 999'999'999);
  // UTIME_NOW's own value: not a number of nanoseconds.
  in.mtime_ns = UTIME_NOW;
  CHECK(f.client->Setattr(node, in).error == EINVAL);
  // A link is changed itself, or not at all; what it leads to is not.
  REQUIRE(f.client->Symlink(kRootId, "link", "file").error == 0);
  in = {};
  in.valid = kSetMode;
  in.mode = 0777;
  CHECK(f.client->Setattr(f.client->Walk({"link"}), in).error == EOPNOTSUPP);
  CHECK((f.Stat("file").st_mode & 07777) == 0604);
  in = {};
  in.valid = kSetMtime;
  in.mtime = 77;
  CHECK(f.client->Setattr(f.client->Walk({"link"}), in).error == 0);
  CHECK(f.Stat("link").st_mtim.tv_sec == 77);
  CHECK(f.Stat("file").st_mtim.tv_sec == 2000);
}

TEST_CASE("fs: names, links and renames") {
  Fixture f;
  REQUIRE(f.client->Mkdir(kRootId, "a", 0700).error == 0);
  const std::uint64_t a = f.client->Walk({"a"});
  CHECK((f.Stat("a").st_mode & 07777) == 0700);
  REQUIRE(f.client->Create(a, "one").error == 0);
  const std::uint64_t one = f.client->Walk({"a", "one"});
  const FuseReply linked =
      f.client->Call(Opcode::kLink, kRootId, FuseBody().Add(LinkIn{.old_nodeid = one}).Text("two"));
  REQUIRE(linked.error == 0);
  // Two names of one file are one node.
  CHECK(linked.As<EntryOut>().nodeid == one);
  CHECK(linked.As<EntryOut>().attributes.links == 2);
  // A link to a symbolic link is to that link.
  REQUIRE(f.client->Symlink(kRootId, "soft", "/etc/passwd").error == 0);
  const std::uint64_t soft = f.client->Walk({"soft"});
  CHECK(f.client->Call(Opcode::kReadlink, soft).text() == "/etc/passwd");
  CHECK(f.client
            ->Call(Opcode::kLink, kRootId, FuseBody().Add(LinkIn{.old_nodeid = soft}).Text("soft2"))
            .error == 0);
  CHECK(S_ISLNK(f.Stat("soft2").st_mode));

  const auto rename = [&](std::string_view from, std::string_view to, std::uint32_t flags) {
    return f.client
        ->Call(Opcode::kRename2, kRootId,
               FuseBody()
                   .Add(Rename2In{.new_directory = a, .flags = flags, .padding = 0})
                   .Text(from)
                   .Text(to))
        .error;
  };
  CHECK(rename("two", "one", 1) == EEXIST);  // RENAME_NOREPLACE
  CHECK(rename("soft", "one", 2) == 0);      // RENAME_EXCHANGE
  CHECK(S_ISLNK(f.Stat("a/one").st_mode));
  CHECK(rename("two", "three", 4) == EINVAL);  // RENAME_WHITEOUT
  CHECK(rename("two", "three", 0) == 0);
  CHECK(f.client->Call(Opcode::kRmdir, kRootId, FuseBody().Text("a")).error == ENOTEMPTY);
  CHECK(f.client->Call(Opcode::kUnlink, kRootId, FuseBody().Text("a")).error == EISDIR);
  CHECK(f.client->Call(Opcode::kUnlink, a, FuseBody().Text("three")).error == 0);

  MknodIn node{};
  node.mode = S_IFIFO | 0600;
  CHECK(f.client->Call(Opcode::kMknod, kRootId, FuseBody().Add(node).Text("fifo")).error == 0);
  // To open it would wait for its other end.
  CHECK(f.client->Open(f.client->Walk({"fifo"})).error == EACCES);
  node.mode = S_IFCHR | 0600;
  node.device = 0x103;
  CHECK(f.client->Call(Opcode::kMknod, kRootId, FuseBody().Add(node).Text("null")).error == EPERM);
}

TEST_CASE("fs: nothing outside of the directory") {
  Fixture f;
  std::ofstream(f.directory.path() + "/secret") << "secret";
  f.PutFile("file", "x");
  for (const char* const name : {"..", ".", "", "../secret", "a/b", "/etc/passwd", "/"}) {
    CHECK(f.client->Lookup(kRootId, name).error == EINVAL);
    CHECK(f.client->Create(kRootId, name).error == EINVAL);
    CHECK(f.client->Mkdir(kRootId, name).error == EINVAL);
    CHECK(f.client->Symlink(kRootId, name, "x").error == EINVAL);
    CHECK(f.client->Call(Opcode::kUnlink, kRootId, FuseBody().Text(name)).error == EINVAL);
    CHECK(f.client
              ->Call(Opcode::kRename, kRootId,
                     FuseBody().Add(RenameIn{.new_directory = kRootId}).Text("file").Text(name))
              .error == EINVAL);
  }
  CHECK(f.client->Lookup(kRootId, std::string(256, 'x')).error == ENAMETOOLONG);
  // Without its NUL.
  CHECK(f.client->Call(Opcode::kLookup, kRootId, FuseBody().Raw("file")).error == EINVAL);
  // A link, of the guest's or of the host's own, is a link and no way out.
  const std::string up = "../secret";
  REQUIRE(f.client->Symlink(kRootId, "relative", up).error == 0);
  std::filesystem::create_symlink(f.directory.path(), f.root + "/absolute");
  const std::uint64_t link = f.client->Walk({"relative"});
  CHECK(f.client->Open(link).error == ELOOP);
  CHECK(f.client->Create(kRootId, "relative").error == ELOOP);
  SetattrIn in{};
  in.valid = kSetSize;
  CHECK(f.client->Setattr(link, in).error == ELOOP);
  const std::uint64_t parent = f.client->Walk({"absolute"});
  CHECK(f.client->Lookup(parent, "secret").error == ENOTDIR);
  CHECK(f.client->Call(Opcode::kOpendir, parent, FuseBody().Add(OpenIn{})).error == ENOTDIR);
  CHECK(std::filesystem::file_size(f.directory.path() + "/secret") == 6);
}

TEST_CASE("fs: a directory replaced by a link between two steps") {
  Fixture f;
  std::filesystem::create_directory(f.root + "/dir");
  const std::uint64_t dir = f.client->Walk({"dir"});
  std::filesystem::remove(f.root + "/dir");
  std::filesystem::create_symlink(f.directory.path(), f.root + "/dir");
  // The node is the directory that was, which is gone.
  CHECK(f.client->Create(dir, "made").error == ENOENT);
  CHECK_FALSE(std::filesystem::exists(f.directory.path() + "/made"));
}

TEST_CASE("fs: a shared directory that disappears") {
  Fixture f;
  f.PutFile("file", "content");
  const std::uint64_t node = f.client->Walk({"file"});
  const std::uint64_t handle = f.client->Handle(node);
  std::filesystem::remove_all(f.root);
  CHECK(f.client->Lookup(kRootId, "file").error == ENOENT);
  CHECK(f.client->Create(kRootId, "new").error == ENOENT);
  CHECK(f.client->Attributes(kRootId).links == 0);
  // What is open stays so, as on any file system.
  CHECK(f.client->Read(node, handle, 0, 64).text() == "content");
}

TEST_CASE("fs: listings") {
  Fixture f;
  std::set<std::string> expected{".", ".."};
  for (int i = 0; i < 300; ++i) {
    const std::string name = "file-" + std::to_string(i) + std::string(40, 'x');
    f.PutFile(name, "");
    expected.insert(name);
  }
  std::filesystem::create_symlink("nowhere", f.root + "/link");
  expected.insert("link");
  const FuseReply opened = f.client->Call(Opcode::kOpendir, kRootId, FuseBody().Add(OpenIn{}));
  REQUIRE(opened.error == 0);
  for (const Opcode opcode : {Opcode::kReaddir, Opcode::kReaddirplus}) {
    const bool plus = opcode == Opcode::kReaddirplus;
    std::set<std::string> names;
    ReadIn in{};
    in.handle = opened.As<OpenOut>().handle;
    in.size = 4096;
    for (;;) {
      const FuseReply part = f.client->Call(opcode, kRootId, FuseBody().Add(in));
      REQUIRE(part.error == 0);
      if (part.bytes.empty()) break;
      for (std::size_t at = 0; at < part.bytes.size();) {
        if (plus) {
          const auto entry = part.As<EntryOut>(at);
          at += sizeof(EntryOut);
          const auto header = part.As<DirectoryEntry>(at);
          const std::string name = part.text().substr(at + sizeof(header), header.name_length);
          CHECK((entry.nodeid == 0) == (name == "." || name == ".."));
        }
        const auto header = part.As<DirectoryEntry>(at);
        const std::string name = part.text().substr(at + sizeof(header), header.name_length);
        CHECK(names.insert(name).second);
        if (name == "..") CHECK(header.inode == f.client->Attributes(kRootId).inode);
        in.offset = header.offset;
        at += (sizeof(header) + name.size() + 7) / 8 * 8;
      }
    }
    CHECK(names == expected);
  }
  ReadIn in{};
  in.handle = opened.As<OpenOut>().handle;
  in.size = 16;
  CHECK(f.client->Call(Opcode::kReaddir, kRootId, FuseBody().Add(in)).error == EINVAL);
  in.size = 4096;
  in.offset = ~std::uint64_t{0};
  CHECK(f.client->Call(Opcode::kReaddir, kRootId, FuseBody().Add(in)).error == EINVAL);
  ReleaseIn release{};
  release.handle = in.handle;
  // Not a file.
  CHECK(f.client->Read(kRootId, in.handle, 0, 16).error == EBADF);
  CHECK(f.client->Call(Opcode::kReleasedir, kRootId, FuseBody().Add(release)).error == 0);
}

TEST_CASE("fs: nodes are forgotten, and bounded") {
  FsOptions options;
  options.max_open_files = 8;
  Fixture f(options);
  for (int i = 0; i < 20; ++i) f.PutFile(std::to_string(i), "");
  std::vector<std::uint64_t> nodes;
  for (int i = 0; i < 7; ++i) nodes.push_back(f.client->Walk({std::to_string(i)}));
  CHECK(f.server->counters().open_files == 8);
  CHECK(f.client->Lookup(kRootId, "10").error == ENFILE);
  CHECK(f.client->Open(nodes[0]).error == ENFILE);
  CHECK(f.client->Create(kRootId, "new").error == ENFILE);
  // One that is known takes no more.
  CHECK(f.client->Walk({"0"}) == nodes[0]);
  f.client->Send(Opcode::kForget, nodes[0], FuseBody().Add(ForgetIn{.lookups = 1}));
  CHECK(f.client->Attributes(nodes[0]).links == 1);
  f.client->Send(Opcode::kForget, nodes[0], FuseBody().Add(ForgetIn{.lookups = ~0ULL}));
  CHECK(f.client->Call(Opcode::kGetattr, nodes[0], FuseBody().Add(GetattrIn{})).error == ESTALE);
  f.client->Send(Opcode::kBatchForget, 0,
                 FuseBody()
                     .Add(BatchForgetIn{.count = 1000, .unused = 0})
                     .Add(ForgetOne{.nodeid = nodes[1], .lookups = 1})
                     .Add(ForgetOne{.nodeid = kRootId, .lookups = ~0ULL})
                     .Add(ForgetOne{.nodeid = 999, .lookups = 1}));
  CHECK(f.server->counters().open_files == 6);
  CHECK(f.client->Lookup(kRootId, "10").error == 0);
  CHECK(f.client->Call(Opcode::kDestroy, 0).error == 0);
  CHECK(f.server->counters().open_files == 1);
}

TEST_CASE("fs: read-only") {
  Fixture f(ReadOnly());
  f.PutFile("file", "x");
  const std::uint64_t node = f.client->Walk({"file"});
  CHECK(f.client->Open(node, O_RDONLY).error == 0);
  CHECK(f.client->Open(node, O_RDWR).error == EROFS);
  CHECK(f.client->Open(node, O_RDONLY | O_TRUNC).error == EROFS);
  CHECK(f.client->Create(kRootId, "new").error == EROFS);
  CHECK(f.client->Create(kRootId, "file").error == EROFS);
  CHECK(f.client->Mkdir(kRootId, "new").error == EROFS);
  CHECK(f.client->Symlink(kRootId, "new", "x").error == EROFS);
  CHECK(f.client->Setattr(node, SetattrIn{}).error == EROFS);
  for (const Opcode opcode : {Opcode::kUnlink, Opcode::kRmdir, Opcode::kRename, Opcode::kRename2,
                              Opcode::kLink, Opcode::kMknod, Opcode::kWrite, Opcode::kSetxattr,
                              Opcode::kRemovexattr, Opcode::kFallocate, Opcode::kCopyFileRange}) {
    CHECK(f.client->Call(opcode, node, FuseBody().Text("x")).error == EROFS);
  }
  CHECK(f.client->Call(Opcode::kAccess, node, FuseBody().Add(AccessIn{.mask = W_OK, .padding = 0}))
            .error == EROFS);
  CHECK(f.GetFile("file") == "x");
}

TEST_CASE("fs: ids") {
  FsOptions squashed;
  squashed.squash = FsOwner{.uid = 501, .gid = 20};
  Fixture f(squashed);
  f.client->uid = 1234;
  REQUIRE(f.client->Create(kRootId, "file", O_RDWR, 06755).error == 0);
  const std::uint64_t node = f.client->Walk({"file"});
  CHECK(f.client->Attributes(node).uid == 501);
  CHECK(f.client->Attributes(node).gid == 20);
  CHECK(f.Stat("file").st_uid == ::geteuid());
  // No program that runs on the host with the process's ids.
  CHECK((f.Stat("file").st_mode & 07777) == 0755);
  SetattrIn in{};
  in.valid = kSetMode;
  in.mode = 04711;
  CHECK(f.client->Setattr(node, in).error == 0);
  CHECK((f.Stat("file").st_mode & 07777) == 0711);
  in = {};
  in.valid = kSetUid;
  in.uid = 0;
  CHECK(f.client->Setattr(node, in).error == EPERM);
  in.uid = 501;
  CHECK(f.client->Setattr(node, in).error == 0);

  if (::geteuid() != 0) return;
  FsOptions as_is;
  as_is.squash.reset();
  Fixture own(as_is);
  own.client->uid = 1234;
  own.client->gid = 5678;
  REQUIRE(own.client->Create(kRootId, "file", O_RDWR, 04755).error == 0);
  CHECK(own.Stat("file").st_uid == 1234);
  CHECK(own.Stat("file").st_gid == 5678);
  CHECK((own.Stat("file").st_mode & 07777) == 04755);
  REQUIRE(own.client->Mkdir(kRootId, "dir", 0755).error == 0);
  CHECK(own.Stat("dir").st_uid == 1234);
  REQUIRE(own.client->Symlink(kRootId, "link", "x").error == 0);
  CHECK(own.Stat("link").st_uid == 1234);
  in = {};
  in.valid = kSetGid;
  in.gid = 42;
  CHECK(own.client->Setattr(own.client->Walk({"file"}), in).error == 0);
  CHECK(own.Stat("file").st_gid == 42);
  CHECK(own.Stat("file").st_uid == 1234);
}

TEST_CASE("fs: the process's umask is neither used nor changed") {
  const mode_t before = ::umask(077);
  Fixture f;
  REQUIRE(f.client->Create(kRootId, "file", O_RDWR, 0666).error == 0);
  REQUIRE(f.client->Mkdir(kRootId, "dir", 0777).error == 0);
  CHECK((f.Stat("file").st_mode & 07777) == 0666);
  CHECK((f.Stat("dir").st_mode & 07777) == 0777);
  CHECK(::umask(before) == 077);
}

TEST_CASE("fs: extended attributes") {
  Fixture f;
  f.PutFile("file", "");
  if (::setxattr((f.root + "/file").c_str(), "user.probe", "", 0, 0) != 0) return;
  const std::uint64_t node = f.client->Walk({"file"});
  const auto set = [&](std::string_view name, std::string_view value, std::uint32_t size) {
    return f.client
        ->Call(Opcode::kSetxattr, node,
               FuseBody().Add(SetxattrIn{.size = size, .flags = 0}).Text(name).Raw(value))
        .error;
  };
  CHECK(set("user.a", "value", 5) == 0);
  CHECK(set("user.a", "value", 6) == EINVAL);
  CHECK(set("user.a", "value", 0xffff'ffff) == E2BIG);
  CHECK(set("trusted.overlay.opaque", "y", 1) == EOPNOTSUPP);
  CHECK(set("security.capability", "y", 1) == EOPNOTSUPP);
  const auto get = [&](std::string_view name, std::uint32_t size) {
    return f.client->Call(Opcode::kGetxattr, node,
                          FuseBody().Add(GetxattrIn{.size = size, .padding = 0}).Text(name));
  };
  CHECK(get("user.a", 0).As<GetxattrOut>().size == 5);
  CHECK(get("user.a", 64).text() == "value");
  CHECK(get("user.a", 2).error == ERANGE);
  CHECK(get("user.none", 64).error == ENODATA);
  const auto list = f.client->Call(Opcode::kListxattr, node,
                                   FuseBody().Add(GetxattrIn{.size = 4096, .padding = 0}));
  CHECK(list.text().find(std::string("user.a\0", 7)) != std::string::npos);
  CHECK(f.client->Call(Opcode::kRemovexattr, node, FuseBody().Text("user.a")).error == 0);
  CHECK(get("user.a", 0).error == ENODATA);
}

TEST_CASE("fs: locks of the host's files") {
  Fixture f(HostLocks());
  CHECK((f.client->Init().As<InitOut>().flags & (kInitPosixLocks | kInitFlockLocks)) != 0);
  f.PutFile("file", "0123456789");
  const std::uint64_t node = f.client->Walk({"file"});
  LockIn lock{};
  lock.handle = f.client->Handle(node, O_RDWR);
  lock.owner = 1;
  lock.lock = {.start = 0, .end = 4, .type = F_WRLCK, .pid = 9};
  const auto call = [&](Opcode opcode, const LockIn& in) {
    return f.client->Call(opcode, node, FuseBody().Add(in));
  };
  CHECK(call(Opcode::kSetlk, lock).error == 0);
  // Somebody else on the host sees it.
  const UniqueFd other(::open((f.root + "/file").c_str(), O_RDWR | O_CLOEXEC));
  struct flock theirs{};
  theirs.l_type = F_WRLCK;
  CHECK(::fcntl(other.get(), F_OFD_SETLK, &theirs) == -1);
  LockIn second = lock;
  second.owner = 2;
  CHECK(call(Opcode::kSetlk, second).error == EAGAIN);
  CHECK(call(Opcode::kGetlk, second).As<LockOut>().lock.end == 4);
  second.lock.start = 5;
  second.lock.end = 0x7fff'ffff'ffff'ffff;
  CHECK(call(Opcode::kSetlk, second).error == 0);
  second.lock.end = 1;
  CHECK(call(Opcode::kSetlk, second).error == EINVAL);

  // One that waits gets it when it is free.
  LockIn third = lock;
  third.owner = 3;
  const auto wait = [&] {
    const auto message = f.client->Message(Opcode::kSetlkw, node, FuseBody().Add(third));
    std::vector<std::byte> in = message;
    const virtio::Segment readable{.iov_base = in.data(), .iov_len = in.size()};
    return f.server->Handle({&readable, 1}, {}).waiting;
  };
  std::vector<std::byte> out(64);
  const virtio::Segment writable{.iov_base = out.data(), .iov_len = out.size()};
  const auto waiting = wait();
  REQUIRE(waiting.has_value());
  CHECK_FALSE(f.server->Retry(*waiting, {&writable, 1}).has_value());
  FlushIn flush{};
  flush.handle = lock.handle;
  flush.lock_owner = 1;
  CHECK(f.client->Call(Opcode::kFlush, node, FuseBody().Add(flush)).error == 0);
  CHECK(f.server->Retry(*waiting, {&writable, 1}) == sizeof(OutHeader));
  CHECK(LoadLe<OutHeader>(out).error == 0);
  // One that is interrupted gives up; and they are bounded.
  third.owner = 4;
  const auto interrupted = wait();
  REQUIRE(interrupted.has_value());
  const auto unique = [&] {
    // The last message's, which the next one is one more than.
    return LoadLe<InHeader>(f.client->Message(Opcode::kInterrupt, 0)).unique - 1;
  }();
  f.client->Send(Opcode::kInterrupt, 0, FuseBody().Add(InterruptIn{.unique = unique}));
  CHECK(f.server->Retry(*interrupted, {&writable, 1}) == sizeof(OutHeader));
  CHECK(LoadLe<OutHeader>(out).error == -EINTR);
  for (std::size_t i = 0; i < kMaxWaitingLocks; ++i) CHECK(wait().has_value());
  CHECK_FALSE(wait().has_value());

  LockIn flock = lock;
  flock.flags = kLockFlock;
  CHECK(call(Opcode::kSetlk, flock).error == 0);
  flock.handle = f.client->Handle(node, O_RDONLY);
  CHECK(call(Opcode::kSetlk, flock).error == EAGAIN);
  CHECK(f.client->Release(node, lock.handle).error == 0);
  CHECK(call(Opcode::kSetlk, flock).error == 0);
}

TEST_CASE("fs: messages that make no sense") {
  Fixture f;
  const auto raw = [&](std::vector<std::byte> in, std::size_t room) {
    std::vector<std::byte> out(room);
    const virtio::Segment readable{.iov_base = in.data(), .iov_len = in.size()};
    const virtio::Segment writable{.iov_base = out.data(), .iov_len = out.size()};
    const std::uint32_t used = f.server->Handle({&readable, 1}, {&writable, 1}).used_length;
    REQUIRE(used <= room);
    return used == 0 ? 0 : -LoadLe<OutHeader>(out).error;
  };
  const auto lookup = f.client->Message(Opcode::kLookup, kRootId, FuseBody().Text("x"));
  // Each length that is not the message's own.
  for (std::size_t length = 0; length < lookup.size(); ++length) {
    CHECK(raw({lookup.begin(), lookup.begin() + static_cast<std::ptrdiff_t>(length)}, 256) ==
          EINVAL);
  }
  CHECK(raw(lookup, 256) == ENOENT);
  CHECK(raw(lookup, 64) == EINVAL);  // no room for the entry
  CHECK(raw(lookup, 15) == 0);       // none for a header: nothing is written
  std::vector<std::byte> huge = f.client->Message(Opcode::kSetxattr, kRootId);
  huge.resize(kMaxBody + 100);
  StoreLe(huge, 0, static_cast<std::uint32_t>(huge.size()));
  CHECK(raw(huge, 256) == E2BIG);
  for (const std::uint32_t opcode : {0U, 7U, 39U, 40U, 48U, 49U, 51U, 4096U, ~0U}) {
    CHECK(f.client->Call(static_cast<Opcode>(opcode), kRootId, FuseBody().Text("x")).error ==
          ENOSYS);
  }
  // Every operation without its arguments, on a node that is none.
  for (std::uint32_t opcode = 1; opcode <= 50; ++opcode) {
    const auto op = static_cast<Opcode>(opcode);
    if (op == Opcode::kForget || op == Opcode::kBatchForget || op == Opcode::kInterrupt ||
        op == Opcode::kDestroy) {
      continue;
    }
    CHECK(f.client->Call(op, 12345).error != 0);
    CHECK(f.client->Init().error == 0);
  }
}

}  // namespace
}  // namespace embervm::devices::fs
