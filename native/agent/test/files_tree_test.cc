// The Files service: whole trees, listed, removed, read and copied.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <set>

#include "files_fixture.h"

namespace embervm::agent_test::files {
namespace {

TEST_CASE_FIXTURE(Fixture, "files: a large directory is listed in batches") {
  mkdir(Host("/many").c_str(), 0755);
  std::set<std::string> expected;
  for (int i = 0; i < 2500; i++) {
    const std::string name = "file-" + std::to_string(i) + std::string(i % 200, 'n');
    Write("/many/" + name, std::string(i % 3, 'x'));
    expected.insert(name);
  }
  Event last;
  std::set<std::string> names;
  const std::vector<Event> events = Run("List", {.path = "/many"}, last);
  CHECK(last.error == 0);
  CHECK(events.size() > 30);
  for (const Event& event : events) {
    CHECK(event.entries.size() <= 64);
    for (const Entry& entry : event.entries) {
      CHECK(names.insert(entry.name).second);
      CHECK(S_ISREG(entry.mode));
    }
  }
  CHECK((names == expected));
  CHECK(RunError("List", {.path = "/many/file-0"}) == ENOTDIR);
  CHECK(RunError("List", {.path = "/none"}) == ENOENT);
  Event empty;
  mkdir(Host("/empty").c_str(), 0755);
  CHECK(Run("List", {.path = "/empty"}, empty).empty());
  CHECK(empty.error == 0);
}

TEST_CASE_FIXTURE(Fixture, "files: a tree is removed, deep and wide, and nothing beside it") {
  Write("/keep/file", "keep");
  std::string deep = "/tree";
  for (int i = 0; i < 300; i++) {
    deep += "/d";
  }
  Write(deep + "/leaf", "x");
  for (int i = 0; i < 1500; i++) {
    Write("/tree/wide/" + std::to_string(i), "");
    if (i % 100 == 0) {
      Write("/tree/dirs/" + std::to_string(i) + "/f", "");
    }
  }
  REQUIRE(symlink("/keep", Host("/tree/link").c_str()) == 0);
  REQUIRE(symlink("../keep", Host("/tree/wide/link").c_str()) == 0);
  const size_t descriptors = agent.OpenDescriptors();
  CHECK(RunError("RemoveTree", {.path = "/tree"}) == 0);
  CHECK(!Exists("/tree"));
  CHECK(Read("/keep/file") == "keep");
  CHECK(agent.ReturnsToDescriptors(descriptors));
  CHECK(RunError("RemoveTree", {.path = "/tree"}) == ENOENT);
  REQUIRE(symlink("/keep", Host("/link").c_str()) == 0);
  CHECK(RunError("RemoveTree", {.path = "/link"}) == 0);
  CHECK(Read("/keep/file") == "keep");
}

TEST_CASE_FIXTURE(Fixture, "files: who closes the connection ends the job") {
  for (int i = 0; i < 3000; i++) {
    Write("/tree/" + std::to_string(i), "");
  }
  const size_t descriptors = agent.OpenDescriptors();
  {
    Stream reading(agent, "Read", {.path = "/tree", .flags = kRecursive});
    REQUIRE(reading.Next().has_value());
    Stream watching(agent, "Watch", {.path = "/tree"});
    REQUIRE(watching.Next().has_value());
    Stream writing(agent, "Write", {.path = "/written", .data = "x"});
  }
  CHECK(agent.ReturnsToDescriptors(descriptors));
}

TEST_CASE_FIXTURE(Fixture, "files: a tree is read depth first, each entry with its content") {
  Write("/t/a", std::string(100'000, 'a'));
  Write("/t/sub/b", "b");
  Write("/t/empty", "");
  REQUIRE(symlink("../x", Host("/t/link").c_str()) == 0);
  REQUIRE(mkfifo(Host("/t/fifo").c_str(), 0600) == 0);
  Event last;
  std::string trace;
  std::string open;
  for (const Event& event : Run("Read", {.path = "/t", .flags = kRecursive}, last)) {
    if (!event.entries.empty()) {
      REQUIRE(event.entries.size() == 1);
      const Entry& entry = event.entries[0];
      open = entry.name;
      if (entry.name == "sub") {
        trace += "sub(";
      } else if (entry.mode == 0) {
        trace += ")";
      } else if (entry.name == "link") {
        CHECK(entry.target == "../x");
      } else if (entry.name == "fifo") {
        CHECK(S_ISFIFO(entry.mode));
      }
      continue;
    }
    if (open == "b") {
      trace += event.data;
    } else {
      CHECK(open == "a");
    }
  }
  CHECK(last.error == 0);
  CHECK(trace == "sub(b)");
  Event single;
  const std::vector<Event> file = Run("Read", {.path = "/t/sub/b", .flags = kRecursive}, single);
  REQUIRE(file.size() == 2);
  CHECK(file[0].entries[0].name.empty());
  CHECK(file[1].data == "b");
}

TEST_CASE_FIXTURE(Fixture, "files: holes are told, and change during a read is noticed") {
  Write("/sparse", "begin");
  REQUIRE(truncate(Host("/sparse").c_str(), off_t{1} << 40) == 0);
  const int fd = open(Host("/sparse").c_str(), O_WRONLY);
  REQUIRE(pwrite(fd, "end", 3, (off_t{1} << 40) - 3) == 3);
  close(fd);
  Event last;
  uint64_t holes = 0;
  uint64_t bytes = 0;
  const Request sparse{.path = "/sparse", .flags = kRecursive | kSparse};
  for (const Event& event : Run("Read", sparse, last)) {
    holes += event.hole;
    bytes += event.data.size();
  }
  CHECK(holes + bytes == uint64_t{1} << 40);
  CHECK(bytes < 1 << 20);

  CHECK(RunError("Copy", {.path = "/sparse", .target = "/sparse2"}) == 0);
  CHECK(Status("/sparse2").st_size == off_t{1} << 40);
  CHECK(Status("/sparse2").st_blocks < 4096);

  const std::string chunk(1 << 20, 'x');
  for (int i = 0; i < 8; i++) {
    std::ofstream(Host("/log"), std::ios::binary | std::ios::app) << chunk;
  }
  Stream reading(agent, "Read", {.path = "/log", .flags = kRecursive});
  REQUIRE(reading.Next().has_value());
  std::ofstream(Host("/log"), std::ios::binary | std::ios::app) << "more";
  uint64_t read = 0;
  bool changed = false;
  for (const Event& event : reading.Rest()) {
    read += event.data.size();
    changed = changed || event.changed;
  }
  CHECK(read == chunk.size() * 8);
  CHECK(changed);
}

TEST_CASE_FIXTURE(Fixture, "files: copies keep modes, owners, times and links") {
  Write("/t/a", std::string(200'000, 'a'));
  Write("/t/sub/b", "b");
  REQUIRE(link(Host("/t/sub/b").c_str(), Host("/t/hard").c_str()) == 0);
  REQUIRE(symlink("nowhere", Host("/t/link").c_str()) == 0);
  REQUIRE(chmod(Host("/t/a").c_str(), 04750) == 0);
  REQUIRE(chown(Host("/t/sub/b").c_str(), 12, 34) == 0);
  REQUIRE(chmod(Host("/t/sub").c_str(), 0510) == 0);
  const timespec times[2] = {{100, 0}, {200, 300}};
  REQUIRE(utimensat(AT_FDCWD, Host("/t/sub").c_str(), times, 0) == 0);
  REQUIRE(utimensat(AT_FDCWD, Host("/t/a").c_str(), times, 0) == 0);
  CHECK(RunError("Copy", {.path = "/t", .target = "/c"}) == EISDIR);
  CHECK(RunError("Copy", {.path = "/t", .target = "/c", .flags = kRecursive}) == 0);
  CHECK((Read("/c/a") == Read("/t/a")));
  CHECK((Status("/c/a").st_mode & 07777) == 04750);
  CHECK(Status("/c/a").st_mtim.tv_nsec == 300);
  CHECK(Status("/c/sub/b").st_uid == 12);
  CHECK(Status("/c/hard").st_nlink == 1);
  CHECK((Status("/c/sub").st_mode & 07777) == 0510);
  CHECK(Status("/c/sub").st_mtim.tv_sec == 200);
  CHECK(S_ISLNK(Status("/c/link").st_mode));

  CHECK(RunError("Copy", {.path = "/t/a", .target = "/t/a"}) == EINVAL);
  CHECK(RunError("Copy", {.path = "/t", .target = "/t", .flags = kRecursive}) == EINVAL);
  CHECK(RunError("Copy", {.path = "/t", .target = "/t/x", .flags = kRecursive}) == EINVAL);
  CHECK(Read("/t/sub/b") == "b");
  CHECK(RunError("Copy", {.path = "/none", .target = "/x"}) == ENOENT);
  CHECK(RunError("Copy", {.path = "/t/a", .target = "/no/x"}) == ENOENT);
  CHECK(RunError("Copy", {.path = "/t/a", .target = "/t/sub"}) == EISDIR);

  const int listener = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string socket_path = Host("/s");
  REQUIRE(socket_path.size() < sizeof(address.sun_path));
  std::copy(socket_path.begin(), socket_path.end(), address.sun_path);
  REQUIRE(bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
  REQUIRE(mknod(Host("/dev").c_str(), S_IFCHR | 0600, makedev(1, 3)) == 0);
  CHECK(RunError("Copy", {.path = "/s", .target = "/x"}) == ENXIO);
  CHECK(RunError("Copy", {.path = "/dev", .target = "/x"}) == ENXIO);
  CHECK(!Exists("/x"));
  Event last;
  mkdir(Host("/special").c_str(), 0755);
  REQUIRE(rename(Host("/s").c_str(), Host("/special/s").c_str()) == 0);
  Run("Copy", {.path = "/special", .target = "/x", .flags = kRecursive}, last);
  CHECK(last.error == ENXIO);
  CHECK(last.path == "s");
  close(listener);
}

}  // namespace
}  // namespace embervm::agent_test::files
