// The Files service against real files of this machine, below a directory that is
// the workload's root: names, links and attributes.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <set>

#include "files_fixture.h"

namespace embervm::agent_test::files {
namespace {

TEST_CASE_FIXTURE(Fixture, "files: stat tells what a file is") {
  Write("/a", "hello");
  chmod(Host("/a").c_str(), 0640);
  REQUIRE(symlink("a", Host("/link").c_str()) == 0);
  const Event file = Unary("Stat", {.path = "/a"});
  REQUIRE(file.error == 0);
  REQUIRE(file.entries.size() == 1);
  CHECK(file.entries[0].mode == (S_IFREG | 0640));
  CHECK(file.entries[0].size == 5);
  CHECK(file.entries[0].links == 1);
  CHECK(file.entries[0].mtime_ns / 1'000'000'000 == Status("/a").st_mtim.tv_sec);
  CHECK(Unary("Stat", {.path = "/link"}).entries[0].mode == (S_IFREG | 0640));
  CHECK(S_ISLNK(Unary("Stat", {.path = "/link", .flags = kNoFollow}).entries[0].mode));
  CHECK(S_ISDIR(Unary("Stat", {.path = "/"}).entries[0].mode));
  const Event missing = Unary("Stat", {.path = "/missing"});
  CHECK(missing.error == ENOENT);
  CHECK(missing.call == "open");
  CHECK(missing.entries.empty());
}

TEST_CASE_FIXTURE(Fixture, "files: bad paths are refused by every method") {
  Write("/a", "x");
  for (const char* method :
       {"Stat", "ReadLink", "MakeDirectory", "Remove", "Rename", "MakeSymlink", "SetAttributes"}) {
    CAPTURE(method);
    CHECK(Error(method, {.path = "", .target = "/b"}) == EINVAL);
    CHECK(Error(method, {.path = "a", .target = "/b"}) == EINVAL);
    CHECK(Error(method, {.path = std::string("/a\0b", 4), .target = "/b"}) == EINVAL);
    CHECK(Error(method, {.path = "/" + std::string(5000, 'x'), .target = "/b"}) == ENAMETOOLONG);
    CHECK(Error(method, {.path = "/" + std::string(300, 'x'), .target = "/b"}) == ENAMETOOLONG);
  }
  for (const char* method : {"Read", "Write", "List", "RemoveTree", "Copy", "Watch"}) {
    CAPTURE(method);
    CHECK(RunError(method, {.path = "", .target = "/b"}) == EINVAL);
    CHECK(RunError(method, {.path = "a", .target = "/b"}) == EINVAL);
    CHECK(RunError(method, {.path = std::string("/a\0b", 4), .target = "/b"}) == EINVAL);
  }
  CHECK(Error("Rename", {.path = "/a", .target = "b"}) == EINVAL);
  CHECK(RunError("Copy", {.path = "/a", .target = "b"}) == EINVAL);
  CHECK(Error("MakeSymlink", {.path = "/l", .target = ""}) == EINVAL);
  CHECK(Error("MakeSymlink", {.path = "/l", .target = std::string("a\0b", 3)}) == EINVAL);
  CHECK(control.Call(kFiles, "Stat", "\xff\xff").code == kInvalidArgument);
}

TEST_CASE_FIXTURE(Fixture, "files: no link leads out of the root") {
  const std::string secret = outside.path() + "/secret";
  outside.Write("secret", "secret", 0600);
  REQUIRE(symlink(secret.c_str(), Host("/absolute").c_str()) == 0);
  REQUIRE(symlink("../secret", Host("/relative").c_str()) == 0);
  REQUIRE(symlink("..", Host("/up").c_str()) == 0);
  REQUIRE(symlink(outside.path().c_str(), Host("/directory").c_str()) == 0);
  for (const char* path : {"/absolute", "/relative", "/up/secret", "/directory/secret",
                           "/../secret", "/up/../../secret"}) {
    CAPTURE(path);
    CHECK(Error("Stat", {.path = path}) == ENOENT);
    CHECK(ReadAll({.path = path}, ENOENT).empty());
    CHECK(RunError("Copy", {.path = path, .target = "/copy"}) == ENOENT);
    CHECK(Error("SetAttributes", {.path = path, .flags = kSetMode, .mode = 0777}) == ENOENT);
  }
  // Writing makes a file inside, or none.
  WriteAll({.path = "/up/made", .data = "x"});
  CHECK(Read("/made") == "x");
  CHECK(WriteAll({.path = "/directory/made", .data = "x"}) == ENOENT);
  CHECK(WriteAll({.path = "/absolute", .data = "x"}) == ENOENT);
  CHECK(Error("MakeDirectory", {.path = "/directory/made"}) == ENOENT);
  CHECK(Error("Rename", {.path = "/made", .target = "/up/../renamed"}) == 0);
  CHECK(Exists("/renamed"));
  CHECK(Error("Remove", {.path = "/up/secret"}) == ENOENT);
  std::ifstream untouched(secret);
  CHECK(std::string(std::istreambuf_iterator<char>(untouched), {}) == "secret");
  struct stat status{};
  REQUIRE(stat(secret.c_str(), &status) == 0);
  CHECK((status.st_mode & 07777) == 0600);
}

TEST_CASE_FIXTURE(Fixture, "files: the root itself is not to be removed, moved or replaced") {
  Write("/a", "x");
  for (const char* path : {"/", "//", "/.", "/..", "/a/..", "/./", "/../.."}) {
    CAPTURE(path);
    CHECK(Error("Remove", {.path = path}) == EBUSY);
    CHECK(RunError("RemoveTree", {.path = path}) == EBUSY);
    CHECK(Error("Rename", {.path = path, .target = "/b"}) == EBUSY);
    CHECK(Error("Rename", {.path = "/a", .target = path}) == EBUSY);
  }
  CHECK(Read("/a") == "x");
}

TEST_CASE_FIXTURE(Fixture, "files: directories are made one by one or with their parents") {
  CHECK(Error("MakeDirectory", {.path = "/one"}) == 0);
  CHECK((Status("/one").st_mode & 07777) == 0755);
  CHECK(Error("MakeDirectory", {.path = "/one"}) == EEXIST);
  CHECK(Error("MakeDirectory", {.path = "/"}) == EEXIST);
  CHECK(Error("MakeDirectory", {.path = "/no/two"}) == ENOENT);
  const Request deep{.path = "/one/two//three/", .flags = kRecursive | kSetMode, .mode = 01777};
  CHECK(Error("MakeDirectory", deep) == 0);
  CHECK(Error("MakeDirectory", deep) == 0);
  CHECK((Status("/one/two/three").st_mode & 07777) == 01777);
  CHECK((Status("/one/two").st_mode & 07777) == 0755);
  Write("/file", "x");
  CHECK(Error("MakeDirectory", {.path = "/file", .flags = kRecursive}) == EEXIST);
  CHECK(Error("MakeDirectory", {.path = "/file/below", .flags = kRecursive}) == ENOTDIR);
  REQUIRE(symlink("one", Host("/link").c_str()) == 0);
  CHECK(Error("MakeDirectory", {.path = "/link/../new/a", .flags = kRecursive}) == 0);
  CHECK(Exists("/new/a"));
}

TEST_CASE_FIXTURE(Fixture, "files: remove, rename, links and attributes") {
  Write("/a", "x");
  CHECK(Error("MakeSymlink", {.path = "/l", .target = "/a"}) == 0);
  CHECK(Error("MakeSymlink", {.path = "/l", .target = "/a"}) == EEXIST);
  CHECK(Unary("ReadLink", {.path = "/l"}).data == "/a");
  CHECK(Error("ReadLink", {.path = "/a"}) == EINVAL);
  CHECK(Error("ReadLink", {.path = "/none"}) == ENOENT);
  const std::string longest(4000, 'y');
  CHECK(Error("MakeSymlink", {.path = "/long", .target = longest}) == 0);
  CHECK(Unary("ReadLink", {.path = "/long"}).data == longest);

  CHECK(Error("SetAttributes", {.path = "/l", .flags = kSetMode, .mode = 04711}) == 0);
  CHECK((Status("/a").st_mode & 07777) == 04711);
  CHECK(Error("SetAttributes", {.path = "/l",
                                .flags = kSetOwner | kSetTime | kNoFollow,
                                .uid = 7,
                                .gid = 8,
                                .mtime_ns = -1}) == 0);
  CHECK(Status("/l").st_uid == 7);
  CHECK(Status("/l").st_mtim.tv_sec == -1);
  CHECK(Status("/l").st_mtim.tv_nsec == 999'999'999);
  CHECK(Unary("Stat", {.path = "/l", .flags = kNoFollow}).entries[0].mtime_ns == -1);
  CHECK(Status("/a").st_uid == 0);
  CHECK(Error("SetAttributes", {.path = "/none", .flags = kSetMode}) == ENOENT);
  REQUIRE(mkfifo(Host("/fifo").c_str(), 0600) == 0);
  CHECK(Error("SetAttributes", {.path = "/fifo", .flags = kSetMode, .mode = 0666}) == 0);
  CHECK((Status("/fifo").st_mode & 07777) == 0666);

  CHECK(Error("Rename", {.path = "/a", .target = "/b"}) == 0);
  CHECK(Error("Rename", {.path = "/a", .target = "/b"}) == ENOENT);
  CHECK(Read("/b") == "x");
  Write("/d/f", "y");
  CHECK(Error("Remove", {.path = "/d"}) == ENOTEMPTY);
  CHECK(Error("Remove", {.path = "/d/f/"}) == 0);
  CHECK(Error("Remove", {.path = "/d"}) == 0);
  CHECK(Error("Remove", {.path = "/d"}) == ENOENT);
  CHECK(Error("Remove", {.path = "/l"}) == 0);
  CHECK(Read("/b") == "x");
}

}  // namespace
}  // namespace embervm::agent_test::files
