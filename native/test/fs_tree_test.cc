// The FUSE server: names and directories, and that none leads out of what is shared.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>

#include "devices/fs/server.h"
#include "test/support/fs_fixture.h"
#include "test/support/fuse_client.h"

namespace embervm::devices::fs {
namespace {

using test::FsFixture;
using test::FuseBody;
using test::FuseReply;

TEST_CASE("fs: names, links and renames") {
  FsFixture f;
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
  FsFixture f;
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
  FsFixture f;
  std::filesystem::create_directory(f.root + "/dir");
  const std::uint64_t dir = f.client->Walk({"dir"});
  std::filesystem::remove(f.root + "/dir");
  std::filesystem::create_symlink(f.directory.path(), f.root + "/dir");
  // The node is the directory that was, which is gone.
  CHECK(f.client->Create(dir, "made").error == ENOENT);
  CHECK_FALSE(std::filesystem::exists(f.directory.path() + "/made"));
}

TEST_CASE("fs: a shared directory that disappears") {
  FsFixture f;
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
  FsFixture f;
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

}  // namespace
}  // namespace embervm::devices::fs
