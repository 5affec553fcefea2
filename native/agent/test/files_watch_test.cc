// The Files service: changes that are told to who watches.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "files_fixture.h"

namespace embervm::agent_test::files {
namespace {

struct Change {
  std::string path;
  uint32_t change;
  bool operator==(const Change&) const = default;
};

// The changes of the next moment, without those of content and attributes.
std::vector<Change> Changes(Stream& stream, size_t count) {
  std::vector<Change> changes;
  while (changes.size() < count) {
    const std::optional<Event> event = stream.Next();
    REQUIRE(event.has_value());
    for (const Entry& entry : event->entries) {
      if ((entry.change & 6) == 0) {
        changes.push_back({entry.name, entry.change});
      }
    }
  }
  return changes;
}

TEST_CASE_FIXTURE(Fixture, "files: changes of a tree are told") {
  Write("/w/sub/old", "x");
  Write("/outside/x", "x");
  Stream flat(agent, "Watch", {.path = "/w"});
  Stream tree(agent, "Watch", {.path = "/w", .flags = kRecursive});
  REQUIRE(flat.Next().has_value());
  REQUIRE(tree.Next().has_value());
  Write("/w/new", "content");
  CHECK((Changes(flat, 1) == std::vector<Change>{{"new", 1}}));
  CHECK((Changes(tree, 1) == std::vector<Change>{{"new", 1}}));
  REQUIRE(unlink(Host("/w/sub/old").c_str()) == 0);
  CHECK((Changes(tree, 1) == std::vector<Change>{{"sub/old", 8}}));

  // A directory that comes with content, by a move.
  REQUIRE(rename(Host("/outside").c_str(), Host("/w/in").c_str()) == 0);
  CHECK((Changes(tree, 2) == std::vector<Change>{{"in", 1}, {"in/x", 1}}));
  Write("/w/in/y", "");
  CHECK((Changes(tree, 1) == std::vector<Change>{{"in/y", 1}}));
  // And one that leaves: what happens in it is nobody's business any more.
  REQUIRE(rename(Host("/w/in").c_str(), Host("/gone").c_str()) == 0);
  Write("/gone/z", "");
  REQUIRE(rename(Host("/w/sub").c_str(), Host("/w/bus").c_str()) == 0);
  CHECK((Changes(tree, 3) == std::vector<Change>{{"in", 8}, {"sub", 8}, {"bus", 1}}));
  Write("/w/bus/q", "");
  CHECK((Changes(tree, 1) == std::vector<Change>{{"bus/q", 1}}));
  CHECK((Changes(flat, 3) == std::vector<Change>{{"in", 1}, {"in", 8}, {"sub", 8}}));
}

TEST_CASE_FIXTURE(Fixture, "files: a file alone is watched, and its end told") {
  Write("/f", "x");
  Stream stream(agent, "Watch", {.path = "/f"});
  REQUIRE(stream.Next().has_value());
  std::ofstream(Host("/f"), std::ios::app) << "y";
  const std::optional<Event> event = stream.Next();
  REQUIRE(event.has_value());
  CHECK(event->entries[0].name.empty());
  CHECK(event->entries[0].change == 2);
  REQUIRE(unlink(Host("/f").c_str()) == 0);
  CHECK((Changes(stream, 1) == std::vector<Change>{{"", 8}}));
  CHECK(RunError("Watch", {.path = "/none"}) == ENOENT);
}

TEST_CASE_FIXTURE(Fixture, "files: too many changes for a reader are told as lost") {
  mkdir(Host("/w").c_str(), 0755);
  Stream stream(agent, "Watch", {.path = "/w"});
  REQUIRE(stream.Next().has_value());
  const size_t before = agent.ResidentKib();
  for (int i = 0; i < 30'000; i++) {
    const std::string path = Host("/w/" + std::string(100, 'n') + std::to_string(i % 10));
    close(open(path.c_str(), O_CREAT | O_WRONLY, 0600));
    unlink(path.c_str());
  }
  bool lost = false;
  while (!lost) {
    const std::optional<Event> event = stream.Next();
    REQUIRE(event.has_value());
    lost = !event->entries.empty() && event->entries[0].change == 16;
  }
  CHECK(agent.ResidentKib() < before + 2048);
}

}  // namespace
}  // namespace embervm::agent_test::files
