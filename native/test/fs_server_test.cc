// The FUSE server on real directories: what it takes, what it refuses, whose files are.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <string>

#include "devices/fs/server.h"
#include "test/support/fs_fixture.h"
#include "test/support/fuse_client.h"
#include "test/support/temp_directory.h"

namespace embervm::devices::fs {
namespace {

using test::FsFixture;
using test::FuseBody;
using test::TempDirectory;

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
  FsFixture f;
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

TEST_CASE("fs: read-only") {
  FsFixture f(test::ReadOnlyShare());
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
  FsFixture f(squashed);
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
  FsFixture own(as_is);
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
  FsFixture f;
  REQUIRE(f.client->Create(kRootId, "file", O_RDWR, 0666).error == 0);
  REQUIRE(f.client->Mkdir(kRootId, "dir", 0777).error == 0);
  CHECK((f.Stat("file").st_mode & 07777) == 0666);
  CHECK((f.Stat("dir").st_mode & 07777) == 0777);
  CHECK(::umask(before) == 077);
}

TEST_CASE("fs: nodes are forgotten, and bounded") {
  FsOptions options;
  options.max_open_files = 8;
  FsFixture f(options);
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

TEST_CASE("fs: messages that make no sense") {
  FsFixture f;
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
