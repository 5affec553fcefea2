// Lists of processes, of control groups and a /proc as hostile as a container can make them.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <string>
#include <vector>

#include "files.h"

extern "C" {
#include "../arena.h"
#include "../containers/processes.h"
}

namespace embervm::agent_test {
namespace {

class Tree {
 public:
  Tree() : fd_(open(directory_.path().c_str(), O_RDONLY | O_DIRECTORY)) { REQUIRE(fd_ >= 0); }
  ~Tree() {
    close(fd_);
    arena_reset();
  }
  Tree(const Tree&) = delete;
  Tree& operator=(const Tree&) = delete;
  int fd() const { return fd_; }
  void Write(const std::string& name, const std::string& content) const {
    const std::filesystem::path path = directory_.path() + "/" + name;
    std::filesystem::create_directories(path.parent_path());
    directory_.Write(name, content, 0644);
  }
  void Process(int pid, const std::string& name, const std::string& command) const {
    const std::string directory = std::to_string(pid) + "/";
    Write(directory + "stat", std::to_string(pid) + " (" + name +
                                  ") S 1 2 3 34817 5 6 7 8 9 10 6100 100 13 14 15 -5 2 18 0 "
                                  "4096 3 1 1\n");
    Write(directory + "status", "Name:\tx\nUid:\t7\t8\t9\t10\n");
    Write(directory + "cmdline", command);
  }

 private:
  TemporaryDirectory directory_;
  int fd_;
};

struct Found {
  int error;
  std::vector<pid_t> pids;
};

Found Find(const Tree& tree, size_t size = 64) {
  std::vector<pid_t> pids(size);
  size_t count = 0;
  const int error = processes_find(tree.fd(), pids.data(), size, &count);
  pids.resize(count);
  return {error, pids};
}

std::string Table(const Tree& tree, std::vector<std::string> args, const std::vector<pid_t>& pids) {
  std::vector<char*> pointers;
  for (std::string& arg : args) {
    pointers.push_back(arg.data());
  }
  columns chosen{};
  text reason{};
  if (!columns_read(pointers.data(), pointers.size(), &chosen, &reason)) {
    return reason.data;
  }
  page lines{};
  REQUIRE(page_start(&lines, 16384));
  processes_write_table(&lines, tree.fd(), pids.data(), pids.size(), &chosen);
  return lines.data;
}

TEST_CASE("processes: those of a group and of the groups below it") {
  const Tree tree;
  tree.Write("cgroup.procs", "12\n0\n4194304\n");
  tree.Write("a/cgroup.procs", "");
  tree.Write("a/b/cgroup.procs", "99999999999999999999\n7\n");
  const Found found = Find(tree);
  CHECK(found.error == 0);
  CHECK(found.pids == std::vector<pid_t>{12, 4194304, 7});
  page json{};
  REQUIRE(page_start(&json, 64));
  processes_write_json(&json, found.pids.data(), found.pids.size());
  CHECK(json.data == std::string("[12,4194304,7]"));
}

TEST_CASE("processes: more of them, or deeper groups, than the bounds allow") {
  const Tree tree;
  tree.Write("cgroup.procs", "1\n2\n3\n");
  CHECK(Find(tree, 2).error == ENOBUFS);
  std::string deep;
  for (int i = 0; i < 40; i++) {
    deep += "d/";
    tree.Write(deep + "cgroup.procs", "");
  }
  CHECK(Find(tree).error == ENOBUFS);
}

TEST_CASE("processes: the table of ps -ef") {
  const Tree tree;
  tree.Process(42, "sh", std::string("sh\0-c\0exit\n1\0", 13));
  const std::string table = Table(tree, {}, {42, 43});
  const size_t end = table.find('\n');
  CHECK(table.substr(0, end) == "UID          PID    PPID  C STIME TTY          TIME CMD");
  const std::string line = table.substr(end + 1);
  CHECK(line.substr(0, 24) == "8             42       1");
  CHECK(line.find("pts/1    00:01:02 sh -c exit?1\n") != std::string::npos);
  // The second does not exist any more.
  CHECK(line.find('\n') == line.size() - 1);
}

TEST_CASE("processes: a name cannot forge a line or a field") {
  const Tree tree;
  tree.Process(42, "a) R 9 (\nb\xff", "");
  const std::string table = Table(tree, {"-e", "-o", "pid,ppid,ni", "-ostat,comm"}, {42});
  CHECK(table ==
        "    PID    PPID  NI STAT COMMAND        \n"
        "     42       1  -5 S    a) R 9 (?b?    \n");
}

TEST_CASE("processes: what is torn is left out") {
  const Tree tree;
  tree.Process(1, "a", "");
  tree.Write("1/stat", "1 (a) S 1 2");
  tree.Process(2, "b", "");
  tree.Write("2/stat", "2 b S 1 2");
  tree.Process(3, "c", "");
  tree.Write("3/status", "Name:\tx\n");
  CHECK(Table(tree, {"-opid"}, {1, 2, 3}) == "    PID\n");
}

TEST_CASE("processes: arguments that are not known") {
  const Tree tree;
  CHECK(Table(tree, {"aux"}, {}) == "args may have -e, -A, -f and -o, not aux");
  CHECK(Table(tree, {"-"}, {}) == "args may have -e, -A, -f and -o, not -");
  CHECK(Table(tree, {"-o"}, {}) == "-o needs columns");
  CHECK(Table(tree, {"-o", "pid,"}, {}) == "no such column for -o: ");
  CHECK(Table(tree, {"-o", "pidd"}, {}) == "no such column for -o: pidd");
  CHECK(Table(tree, {"-o", "comm"}, {}) == "-o must have the column pid");
  CHECK(Table(tree, std::vector<std::string>(17, "-opid"), {}) == "too many columns");
}

TEST_CASE("processes: a page that is full is cut at a whole string") {
  const std::array<pid_t, 3> pids = {100, 200, 300};
  page json{};
  REQUIRE(page_start(&json, 10));
  processes_write_json(&json, pids.data(), pids.size());
  CHECK(json.cut);
  CHECK(json.data == std::string("[100,200,"));
  arena_reset();
}

}  // namespace
}  // namespace embervm::agent_test
