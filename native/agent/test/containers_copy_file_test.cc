// CopyFile, against containers that move things about below the directory.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "files.h"

extern "C" {
#include "../containers/copy_file.h"
#include "../ttrpc.h"
}

namespace embervm::agent_test {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kLimit = 1000;

struct Copy {
  std::string path;
  std::string data;
  int64_t size = 0;
  int64_t offset = 0;
  uint32_t mode = 0640;
  uint32_t dir_mode = 0;
  int32_t owner = 0;
};

class Shared {
 public:
  Shared() {
    fs::create_directory(directory_.path() + "/shared");
    fs::create_directory(directory_.path() + "/outside");
    root_ = open(Path("").c_str(), O_PATH | O_DIRECTORY);
    REQUIRE(root_ >= 0);
  }
  ~Shared() { close(root_); }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;

  std::string Path(const std::string& name) const { return directory_.path() + "/shared/" + name; }
  std::string Outside() const { return directory_.path() + "/outside"; }

  int Send(Copy copy) {
    Grpc__CopyFileRequest request = GRPC__COPY_FILE_REQUEST__INIT;
    if (copy.path.empty() || copy.path[0] != '/') {
      copy.path = COPY_FILE_ROOT "/" + copy.path;
    }
    request.path = copy.path.data();
    request.data = {copy.data.size(), reinterpret_cast<uint8_t*>(copy.data.data())};
    request.file_size = copy.size;
    request.offset = copy.offset;
    request.file_mode = copy.mode;
    request.dir_mode = copy.dir_mode;
    request.uid = request.gid = copy.owner;
    text reason{};
    const int code = copy_file(root_, &request, kLimit, &reason);
    reason_ = reason.data;
    return code;
  }
  const std::string& reason() const { return reason_; }

  std::string Read(const std::string& name) const {
    std::ifstream file(Path(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  struct stat Stat(const std::string& name) const {
    struct stat about{};
    REQUIRE(lstat(Path(name).c_str(), &about) == 0);
    return about;
  }

 private:
  TemporaryDirectory directory_;
  int root_ = -1;
  std::string reason_;
};

TEST_CASE("copy file: in chunks, and not there before the last one") {
  Shared shared;
  REQUIRE(shared.Send({.path = "a/b/file", .data = "hello ", .size = 11, .dir_mode = 0711}) == 0);
  CHECK_FALSE(fs::exists(shared.Path("a/b/file")));
  REQUIRE(shared.Send({.path = "a/b/file",
                       .data = "world",
                       .size = 11,
                       .offset = 6,
                       .mode = S_IFREG | 04755,
                       .owner = 7}) == 0);
  CHECK(shared.Read("a/b/file") == "hello world");
  const struct stat about = shared.Stat("a/b/file");
  CHECK(about.st_mode == (S_IFREG | 04755));
  CHECK(about.st_uid == 7);
  CHECK(about.st_gid == 7);
  CHECK(shared.Stat("a/b").st_mode == (S_IFDIR | 0711));
  // In the place of the old one, as one step; nothing else is left there.
  REQUIRE(shared.Send({.path = "a/b/file", .data = "new", .size = 3}) == 0);
  CHECK(shared.Read("a/b/file") == "new");
  REQUIRE(shared.Send({.path = "a/b/empty"}) == 0);
  CHECK(std::distance(fs::directory_iterator(shared.Path("a/b")), {}) == 2);
}

TEST_CASE("copy file: a chunk is missing, or the copy begins anew") {
  Shared shared;
  CHECK(shared.Send({.path = "f", .data = "x", .size = 2, .offset = 1}) ==
        TTRPC_FAILED_PRECONDITION);
  REQUIRE(shared.Send({.path = "f", .data = "0123456789", .size = 20}) == 0);
  CHECK(shared.Send({.path = "f", .data = "x", .size = 20, .offset = 19}) ==
        TTRPC_FAILED_PRECONDITION);
  REQUIRE(shared.Send({.path = "f", .data = "ab", .size = 4}) == 0);
  REQUIRE(shared.Send({.path = "f", .data = "cd", .size = 4, .offset = 2}) == 0);
  CHECK(shared.Read("f") == "abcd");
}

TEST_CASE("copy file: directories and links") {
  Shared shared;
  REQUIRE(shared.Send({.path = "d", .mode = S_IFDIR | 01755, .owner = 5}) == 0);
  CHECK(shared.Stat("d").st_mode == (S_IFDIR | 01755));
  CHECK(shared.Stat("d").st_uid == 5);
  // Once more, with another mode.
  REQUIRE(shared.Send({.path = "d", .mode = S_IFDIR | 0700}) == 0);
  CHECK(shared.Stat("d").st_mode == (S_IFDIR | 0700));
  REQUIRE(shared.Send({.path = "l", .data = "d", .mode = S_IFLNK | 0777, .owner = 6}) == 0);
  CHECK(fs::read_symlink(shared.Path("l")) == "d");
  CHECK(shared.Stat("l").st_uid == 6);
  REQUIRE(shared.Send({.path = "l", .data = "other", .mode = S_IFLNK}) == 0);
  CHECK(fs::read_symlink(shared.Path("l")) == "other");
  // A link within the directory leads on, also by its name in a path.
  REQUIRE(shared.Send({.path = "l", .data = "d", .mode = S_IFLNK}) == 0);
  REQUIRE(shared.Send({.path = "l/f", .data = "x", .size = 1}) == 0);
  CHECK(shared.Read("d/f") == "x");
  CHECK(shared.Send({.path = "d", .data = "x", .size = 1}) == TTRPC_INVALID_ARGUMENT);
  CHECK(shared.Send({.path = "d", .data = "x", .mode = S_IFLNK}) == TTRPC_INVALID_ARGUMENT);
}

TEST_CASE("copy file: no link leads out, and nothing that lies in wait is written to") {
  Shared shared;
  fs::create_symlink(shared.Outside(), shared.Path("out"));
  CHECK(shared.Send({.path = "out/f", .data = "x", .size = 1}) == TTRPC_INVALID_ARGUMENT);
  fs::create_symlink("../outside", shared.Path("up"));
  CHECK(shared.Send({.path = "up/f", .data = "x", .size = 1}) == TTRPC_INVALID_ARGUMENT);
  CHECK(shared.Send({.path = "up/d/f", .data = "x", .size = 1}) == TTRPC_INVALID_ARGUMENT);
  CHECK(shared.Send({.path = "up", .mode = S_IFDIR | 0755}) != 0);
  CHECK(fs::is_empty(shared.Outside()));

  // A link, a second name and a pipe under the name that a file has until it is whole.
  const std::string victim = shared.Outside() + "/victim";
  std::ofstream(victim) << "victim";
  fs::create_symlink(victim, shared.Path(".f.part"));
  REQUIRE(shared.Send({.path = "f", .data = "new", .size = 3}) == 0);
  CHECK(shared.Read("f") == "new");
  fs::create_symlink(victim, shared.Path(".g.part"));
  CHECK(shared.Send({.path = "g", .data = "x", .size = 2, .offset = 1}) != 0);
  fs::create_hard_link(victim, shared.Path(".h.part"));
  CHECK(shared.Send({.path = "h", .data = "x", .size = 2, .offset = 1}) ==
        TTRPC_FAILED_PRECONDITION);
  REQUIRE(mkfifo(shared.Path(".i.part").c_str(), 0600) == 0);
  CHECK(shared.Send({.path = "i", .data = "x", .size = 2, .offset = 1}) != 0);
  std::ifstream file(victim);
  CHECK(std::string(std::istreambuf_iterator<char>(file), {}) == "victim");
}

TEST_CASE("copy file: requests that are refused") {
  Shared shared;
  const char* const paths[] = {"/etc/passwd",          COPY_FILE_ROOT,
                               COPY_FILE_ROOT "/",     COPY_FILE_ROOT "/..",
                               COPY_FILE_ROOT "/a/..", COPY_FILE_ROOT "/a/./b",
                               COPY_FILE_ROOT "/a//b", COPY_FILE_ROOT "/a/",
                               COPY_FILE_ROOT "x/a",   "/run/kata-containers/../x"};
  for (const char* path : paths) {
    CAPTURE(path);
    CHECK(shared.Send({.path = path, .data = "x", .size = 1}) == TTRPC_INVALID_ARGUMENT);
  }
  CHECK(shared.Send({.path = std::string(300, 'n')}) == TTRPC_INVALID_ARGUMENT);
  // The file system has names of 255 bytes, but the name until then is longer.
  CHECK(shared.Send({.path = std::string(253, 'n')}) == TTRPC_INVALID_ARGUMENT);
  CHECK(shared.Send({.path = "f", .size = -1}) == TTRPC_INVALID_ARGUMENT);
  CHECK(shared.Send({.path = "f", .size = 1, .offset = -1}) == TTRPC_INVALID_ARGUMENT);
  CHECK(shared.Send({.path = "f", .size = 1, .offset = 2}) == TTRPC_INVALID_ARGUMENT);
  CHECK(shared.Send({.path = "f", .data = "xx", .size = 1}) == TTRPC_INVALID_ARGUMENT);
  CHECK(shared.Send({.path = "f", .data = "xx", .size = INT64_MAX, .offset = INT64_MAX}) ==
        TTRPC_INVALID_ARGUMENT);
  CHECK(shared.Send({.path = "f", .size = kLimit + 1}) == TTRPC_RESOURCE_EXHAUSTED);
  CHECK(shared.Send({.path = "f", .owner = -1}) == TTRPC_INVALID_ARGUMENT);
  CHECK(shared.Send({.path = "f", .mode = S_IFIFO | 0600}) == TTRPC_INVALID_ARGUMENT);
  CHECK(shared.Send({.path = "f", .mode = S_IFLNK}) == TTRPC_INVALID_ARGUMENT);
  CHECK(shared.Send({.path = "f", .data = std::string("a\0b", 3), .mode = S_IFLNK}) ==
        TTRPC_INVALID_ARGUMENT);
  CHECK(shared.Send({.path = "f", .data = std::string(4096, 'a'), .mode = S_IFLNK}) ==
        TTRPC_INVALID_ARGUMENT);
  CHECK(fs::is_empty(shared.Path("")));
}

}  // namespace
}  // namespace embervm::agent_test
