// The Files service: what files hold, read and written.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <set>

#include "files_fixture.h"

namespace embervm::agent_test::files {
namespace {

TEST_CASE_FIXTURE(Fixture, "files: what is read is what is there") {
  std::string content(300'000, '\0');
  for (size_t i = 0; i < content.size(); i++) {
    content[i] = static_cast<char>(i * 7 + i / 251);
  }
  Write("/big", content);
  Write("/empty", "");
  CHECK((ReadAll({.path = "/big"}) == content));
  CHECK(ReadAll({.path = "/empty"}).empty());
  CHECK((ReadAll({.path = "/big", .offset = 299'990}) == content.substr(299'990)));
  CHECK((ReadAll({.path = "/big", .offset = 1000, .length = 70'000}) ==
         content.substr(1000, 70'000)));
  CHECK(ReadAll({.path = "/big", .offset = 400'000}).empty());
  CHECK(ReadAll({.path = "/big", .offset = UINT64_MAX}, EINVAL).empty());
  ReadAll({.path = "/"}, EISDIR);
  ReadAll({.path = "/none"}, ENOENT);
  ReadAll({.path = "/big/x"}, ENOTDIR);
  REQUIRE(mkfifo(Host("/fifo").c_str(), 0600) == 0);
  ReadAll({.path = "/fifo"}, ENXIO);
  REQUIRE(mknod(Host("/zero").c_str(), S_IFCHR | 0600, makedev(1, 5)) == 0);
  ReadAll({.path = "/zero"}, ENXIO);
}

TEST_CASE_FIXTURE(Fixture, "files: a slow reader holds the agent's memory and nobody else") {
  const std::string chunk(1 << 20, 'x');
  for (int i = 0; i < 64; i++) {
    std::ofstream(Host("/large"), std::ios::binary | std::ios::app) << chunk;
  }
  const size_t before = agent.ResidentKib();
  Stream slow(agent, "Read", {.path = "/large"});
  Stream other(agent, "Read", {.path = "/large"});
  size_t read = 0;
  for (int i = 0; i < 20; i++) {
    const std::optional<Event> event = slow.Next();
    REQUIRE(event.has_value());
    read += event->data.size();
    CHECK(Error("Stat", {.path = "/large"}) == 0);
  }
  CHECK(read == 20 * 60 * 1024);
  CHECK(agent.ResidentKib() < before + 2048);
  while (std::optional<Event> event = slow.Next()) {
    read += event->data.size();
  }
  CHECK(read == chunk.size() * 64);
  CHECK(agent.ResidentKib() < before + 2048);
}

TEST_CASE_FIXTURE(Fixture, "files: write makes, replaces, appends") {
  CHECK(WriteAll({.path = "/a", .data = "one"}, {" two", " three"}) == 0);
  CHECK(Read("/a") == "one two three");
  CHECK((Status("/a").st_mode & 07777) == 0644);
  CHECK(WriteAll({.path = "/a", .data = "1", .flags = kSetMode, .mode = 0755}) == 0);
  CHECK(Read("/a") == "1");
  CHECK((Status("/a").st_mode & 07777) == 0755);
  CHECK(WriteAll({.path = "/a", .data = "2", .flags = kAppend}) == 0);
  CHECK(Read("/a") == "12");
  CHECK(WriteAll({.path = "/a", .flags = kExclusive}) == EEXIST);
  CHECK(WriteAll({.path = "/empty"}) == 0);
  CHECK(Status("/empty").st_size == 0);
  CHECK(WriteAll({.path = "/no/a", .data = "x"}, {"y", "z"}) == ENOENT);
  CHECK(WriteAll({.path = "/"}) == EISDIR);
  REQUIRE(mknod(Host("/null").c_str(), S_IFCHR | 0600, makedev(1, 3)) == 0);
  CHECK(WriteAll({.path = "/null", .data = "x"}) == ENXIO);
  Stream big(agent, "Write", {.path = "/big", .data = std::string(65537, 'x')});
  big.Rest();
  CHECK(big.code == kInvalidArgument);
}

TEST_CASE("files: a full disk is an error with its number") {
  if (access("/dev/full", W_OK) != 0) {
    return;
  }
  Fixture fixture;
  const std::string mount = "mount -t tmpfs -o size=256k none " + fixture.Host("/full");
  REQUIRE(mkdir(fixture.Host("/full").c_str(), 0755) == 0);
  REQUIRE(std::system(mount.c_str()) == 0);
  const std::vector<std::string> data(16, std::string(60'000, 'x'));
  CHECK(fixture.WriteAll({.path = "/full/a"}, data) == ENOSPC);
  fixture.Write("/source", std::string(400'000, 'y'));
  CHECK(fixture.RunError("Copy", {.path = "/source", .target = "/full/b"}) == ENOSPC);
  CHECK(std::system(("umount -l " + fixture.Host("/full")).c_str()) == 0);
}

TEST_CASE_FIXTURE(Fixture, "files: a tree is written entry by entry") {
  Write("/target/old", "old");
  REQUIRE(link(Host("/target/old").c_str(), Host("/other").c_str()) == 0);
  Write("/elsewhere", "untouched");
  REQUIRE(symlink("../elsewhere", Host("/target/link").c_str()) == 0);
  const uint32_t all = kReplace | kSetMode | kSetTime;
  Stream stream(agent, "Write", {.path = "/target", .flags = kReplace, .mode = S_IFDIR});
  stream.Send({.path = "/target/old",
               .data = "ne",
               .flags = all,
               .mode = S_IFREG | 0600,
               .mtime_ns = 5'000'000'001});
  stream.Send({.data = "w"});
  stream.Send({.path = "/target/link", .data = "file", .flags = all, .mode = S_IFREG | 0644});
  stream.Send({.path = "/target/sub", .flags = kReplace, .mode = S_IFDIR});
  stream.Send({.path = "/target/sub/s",
               .target = "../old",
               .flags = all,
               .mode = S_IFLNK,
               .mtime_ns = 7'000'000'000});
  stream.Send(
      {.path = "/target/sub", .flags = all, .mode = S_IFDIR | 0500, .mtime_ns = 9'000'000'000});
  stream.End();
  const std::vector<Event> events = stream.Rest();
  REQUIRE(events.size() == 1);
  CHECK(events[0].error == 0);
  CHECK(Read("/target/old") == "new");
  CHECK((Status("/target/old").st_mode & 07777) == 0600);
  CHECK(Status("/target/old").st_mtim.tv_sec == 5);
  CHECK(Status("/target/old").st_mtim.tv_nsec == 1);
  // Replaced, not written through.
  CHECK(Read("/other") == "old");
  CHECK(Read("/elsewhere") == "untouched");
  CHECK(S_ISREG(Status("/target/link").st_mode));
  CHECK(S_ISLNK(Status("/target/sub/s").st_mode));
  CHECK(Status("/target/sub/s").st_mtim.tv_sec == 7);
  CHECK((Status("/target/sub").st_mode & 07777) == 0500);
  CHECK(Status("/target/sub").st_mtim.tv_sec == 9);

  CHECK(WriteAll({.path = "/target", .flags = kReplace, .mode = S_IFREG}) == EISDIR);
  CHECK(WriteAll({.path = "/other", .flags = kReplace, .mode = S_IFDIR}) == ENOTDIR);
  CHECK(WriteAll({.path = "/dev", .flags = kReplace, .mode = S_IFCHR}) == ENXIO);
  CHECK(WriteAll({.path = "/d", .flags = kReplace, .mode = S_IFDIR}, {"x"}) == EBADF);
}

}  // namespace
}  // namespace embervm::agent_test::files
